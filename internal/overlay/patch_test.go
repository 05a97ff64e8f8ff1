package overlay

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// TestKeep has what a write leaves out and the API server keeps.
func TestKeep(t *testing.T) {
	claims := []corev1.PodResourceClaimStatus{{Name: "gpu"}}
	base := &corev1.PodStatus{
		QOSClass: corev1.PodQOSBurstable, ObservedGeneration: 3, ResourceClaimStatuses: claims,
		ExtendedResourceClaimStatus: &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "x"},
		Conditions:                  []corev1.PodCondition{{Type: corev1.PodReady, ObservedGeneration: 2}},
	}
	for _, tc := range []struct {
		name        string
		write, want corev1.PodStatus
	}{
		{"left out", corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady}, {Type: "New"}}}, corev1.PodStatus{
			QOSClass: corev1.PodQOSBurstable, ObservedGeneration: 3, ResourceClaimStatuses: claims,
			ExtendedResourceClaimStatus: base.ExtendedResourceClaimStatus,
			Conditions:                  []corev1.PodCondition{{Type: corev1.PodReady, ObservedGeneration: 2}, {Type: "New"}},
		}},
		{"said", corev1.PodStatus{ObservedGeneration: 4, ResourceClaimStatuses: []corev1.PodResourceClaimStatus{}}, corev1.PodStatus{
			QOSClass: corev1.PodQOSBurstable, ObservedGeneration: 4, ResourceClaimStatuses: []corev1.PodResourceClaimStatus{},
			ExtendedResourceClaimStatus: base.ExtendedResourceClaimStatus,
		}},
	} {
		keep(&tc.write, base)
		if diff := cmp.Diff(tc.want, tc.write); diff != "" {
			t.Errorf("%s:\n%s", tc.name, diff)
		}
	}
}
