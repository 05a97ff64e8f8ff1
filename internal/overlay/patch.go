package overlay

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"yurt/internal/wire"
)

var (
	// ErrConflict is returned for a status write that is meant for another pod of the same name, or another version of it: 409.
	ErrConflict = errors.New("the object has been modified")
	// ErrInvalid is returned for a status write that can't be read or applied: 400.
	ErrInvalid = errors.New("invalid pod status")
)

// mergeStatus applies a strategic merge patch of pods/status to the status of the pod that meta names.
func mergeStatus(meta wire.Meta, base *corev1.PodStatus, patch []byte) (*corev1.PodStatus, error) {
	original, err := json.Marshal(corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(meta.UID), ResourceVersion: meta.ResourceVersion},
		Status:     *base,
	})
	if err != nil {
		return nil, fmt.Errorf("encode pod: %w", err)
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("%w: apply patch: %w", ErrInvalid, err)
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(merged, pod); err != nil {
		return nil, fmt.Errorf("%w: decode patched pod: %w", ErrInvalid, err)
	}
	return replaceStatus(meta, base, pod)
}

// replaceStatus returns the status that a pod has after the write of another form of it.
func replaceStatus(meta wire.Meta, base *corev1.PodStatus, pod *corev1.Pod) (*corev1.PodStatus, error) {
	if uid := string(pod.UID); uid != "" && uid != meta.UID {
		return nil, fmt.Errorf("%w: uid %s in the request, %s in the pod", ErrConflict, uid, meta.UID)
	}
	if v := pod.ResourceVersion; v != "" && v != "0" && v != meta.ResourceVersion {
		return nil, fmt.Errorf("%w: resourceVersion %s in the request, %s in the pod", ErrConflict, v, meta.ResourceVersion)
	}
	status := pod.Status
	keep(&status, base)
	return &status, nil
}

// keep carries over from the status before what a write does not take away: as the API server has it, and the end of a pod,
// so that a finished job does not run again.
func keep(status, base *corev1.PodStatus) {
	if terminal(base.Phase) && !terminal(status.Phase) {
		status.Phase, status.Reason, status.Message = base.Phase, base.Reason, base.Message
	}
	if status.QOSClass == "" {
		status.QOSClass = base.QOSClass
	}
	if status.ResourceClaimStatuses == nil {
		status.ResourceClaimStatuses = base.ResourceClaimStatuses
	}
	if status.ExtendedResourceClaimStatus == nil {
		status.ExtendedResourceClaimStatus = base.ExtendedResourceClaimStatus
	}
	if status.NodeAllocatableResourceClaimStatuses == nil {
		status.NodeAllocatableResourceClaimStatuses = base.NodeAllocatableResourceClaimStatuses
	}
	keepGenerations(status, base)
	// podIP is the first of podIPs, and wins over them.
	switch {
	case status.PodIP != "" && (len(status.PodIPs) == 0 || status.PodIPs[0].IP != status.PodIP):
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
	case len(status.PodIPs) > 0:
		status.PodIP = status.PodIPs[0].IP
	}
}

func keepGenerations(status, base *corev1.PodStatus) {
	if status.ObservedGeneration == 0 {
		status.ObservedGeneration = base.ObservedGeneration
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		for _, before := range base.Conditions {
			if c.ObservedGeneration == 0 && c.Type == before.Type {
				c.ObservedGeneration = before.ObservedGeneration
			}
		}
	}
}
