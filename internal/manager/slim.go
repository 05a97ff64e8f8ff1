package manager

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/controller/autonomy"
)

// slimPod keeps of a pod what controllers decide by. It gets what the cache is about to keep, which may be no pod at all.
func slimPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	slim := &corev1.Pod{
		ObjectMeta: slimMeta(&pod.ObjectMeta),
		Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName, Tolerations: pod.Spec.Tolerations},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase},
	}
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		slim.OwnerReferences = []metav1.OwnerReference{{Kind: owner.Kind, Controller: owner.Controller}}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			slim.Status.Conditions = []corev1.PodCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			slim.Status.ContainerStatuses = append(slim.Status.ContainerStatuses, slimContainer(c))
		}
	}
	return slim, nil
}

// slimContainer keeps how a container that was restarted has fared.
func slimContainer(c corev1.ContainerStatus) corev1.ContainerStatus {
	slim := corev1.ContainerStatus{RestartCount: c.RestartCount}
	if w := c.State.Waiting; w != nil {
		slim.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.Reason}
	}
	if r := c.State.Running; r != nil {
		slim.State.Running = &corev1.ContainerStateRunning{StartedAt: r.StartedAt}
	}
	if t := c.LastTerminationState.Terminated; t != nil {
		slim.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: t.ExitCode, Reason: t.Reason}
	}
	return slim
}

// slimNode keeps of a node what controllers decide by.
func slimNode(object any) (any, error) {
	node, ok := object.(*corev1.Node)
	if !ok {
		return object, nil
	}
	slim := &corev1.Node{ObjectMeta: slimMeta(&node.ObjectMeta)}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady || c.Type == autonomy.PodsProtected {
			slim.Status.Conditions = append(slim.Status.Conditions, c)
		}
	}
	return slim, nil
}

func slimMeta(meta *metav1.ObjectMeta) metav1.ObjectMeta {
	slim := metav1.ObjectMeta{
		Namespace: meta.Namespace, Name: meta.Name, UID: meta.UID, ResourceVersion: meta.ResourceVersion,
		DeletionTimestamp: meta.DeletionTimestamp,
	}
	for key, value := range meta.Annotations {
		domain, _, _ := strings.Cut(key, "/")
		if strings.HasSuffix(domain, "openyurt.io") || key == corev1.MirrorPodAnnotationKey {
			metav1.SetMetaDataAnnotation(&slim, key, value)
		}
	}
	return slim
}
