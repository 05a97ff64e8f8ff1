package manager

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

func TestSlimPod(t *testing.T) {
	now := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-1", UID: "uid", ResourceVersion: "7", DeletionTimestamp: &now,
			Labels:        map[string]string{"app": "web"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
			Annotations: map[string]string{
				"node.openyurt.io/autonomy-duration":                        "1m",
				"apps.openyurt.io/original-unreachable-toleration-duration": "300",
				"kubernetes.io/config.mirror":                               "hash",
				"example.com/notes":                                         "long",
				"example.com/openyurt.io":                                   "long",
			},
			OwnerReferences: []metav1.OwnerReference{
				{Kind: "Website", Name: "shop"},
				{Kind: "DaemonSet", Name: "web", UID: "owner", Controller: ptr.To(true)},
			},
		},
		Spec: corev1.PodSpec{
			NodeName: "edge", Containers: []corev1.Container{{Name: "server"}},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/unreachable", TolerationSeconds: ptr.To[int64](300)}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.0.0.1",
			Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now},
			},
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "fresh", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}},
				{
					Name: "server", Image: "server", RestartCount: 2,
					State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
						ExitCode: 1, Reason: "Error", Message: "long", FinishedAt: now,
					}},
				},
				{
					Name: "other", RestartCount: 9,
					State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "long"}},
				},
			},
		},
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-1", UID: "uid", ResourceVersion: "7", DeletionTimestamp: &now,
			Annotations: map[string]string{
				"node.openyurt.io/autonomy-duration":                        "1m",
				"apps.openyurt.io/original-unreachable-toleration-duration": "300",
				"kubernetes.io/config.mirror":                               "hash",
			},
			OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "edge", Tolerations: pod.Spec.Tolerations},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
			ContainerStatuses: []corev1.ContainerStatus{
				{
					RestartCount: 2, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}},
				},
				{RestartCount: 9, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}},
			},
		},
	}
	got, err := slimPod(pod)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("slim pod (-want +got):\n%s", diff)
	}
}

func TestSlimNode(t *testing.T) {
	conditions := []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(time.Unix(0, 0)), Reason: "NodeStatusUnknown"},
		{Type: "PodsProtected", Status: corev1.ConditionTrue, Message: "Dark since."},
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: "edge", Labels: map[string]string{"zone": "a"},
			Annotations: map[string]string{"apps.openyurt.io/binding": "true", "example.com/notes": "long"},
		},
		Status: corev1.NodeStatus{
			Images:     []corev1.ContainerImage{{Names: []string{"server"}}},
			Conditions: append([]corev1.NodeCondition{{Type: corev1.NodeDiskPressure}}, conditions...),
		},
	}
	want := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "edge", Annotations: map[string]string{"apps.openyurt.io/binding": "true"}},
		Status:     corev1.NodeStatus{Conditions: conditions},
	}
	got, err := slimNode(node)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(want), got); diff != "" {
		t.Errorf("slim node (-want +got):\n%s", diff)
	}
}

// TestSlimPassesTombstones: a cache puts more through a transformation than objects.
func TestSlimPassesTombstones(t *testing.T) {
	tombstone := cache.DeletedFinalStateUnknown{Key: "shop/web-1"}
	for name, slim := range map[string]cache.TransformFunc{"pod": slimPod, "node": slimNode} {
		if got, err := slim(tombstone); err != nil || got != any(tombstone) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
