package endpointretention

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// A world is a node and its pods, told in text:
//
//	node [KEY=VALUE...] [ready=True|False|Unknown] at=DURATION     annotates the node, changes its Ready condition
//	pod NAME [ready|unready|finished|deleting] [KEY=VALUE...]      creates or changes a pod
//	    [waiting=REASON] [restarts=N [exit=N] [last=REASON] started=DURATION]
//	decide at=DURATION [no-policy]                                 decides, carries it out and prints it; times are since the epoch
type world struct {
	node *corev1.Node
	pods []*corev1.Pod
}

func epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := &world{node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "edge"},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch())},
			}},
		}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "node":
				w.changeNode(t, d)
				return ""
			case "pod":
				w.changePod(t, d)
				return ""
			case "decide":
				return w.decide(t, d)
			}
			d.Fatalf(t, "no such command")
			return ""
		})
	})
}

func at(t *testing.T, d *datadriven.TestData, key string) time.Time {
	var after string
	d.MaybeScanArgs(t, key, &after)
	if after == "" {
		return epoch()
	}
	length, err := time.ParseDuration(after)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	return epoch().Add(length)
}

func (w *world) changeNode(t *testing.T, d *datadriven.TestData) {
	for _, arg := range d.CmdArgs {
		switch arg.Key {
		case "at":
		case "ready":
			w.node.Status.Conditions[0].Status = corev1.ConditionStatus(arg.Vals[0])
			w.node.Status.Conditions[0].LastTransitionTime = metav1.NewTime(at(t, d, "at"))
		default:
			annotate(&w.node.ObjectMeta, arg)
		}
	}
}

func (w *world) changePod(t *testing.T, d *datadriven.TestData) {
	name := d.CmdArgs[0].Key
	i := slices.IndexFunc(w.pods, func(p *corev1.Pod) bool { return p.Name == name })
	if i < 0 {
		i = len(w.pods)
		w.pods = append(w.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{
			ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
		}})
		setReady(w.pods[i], true)
	}
	pod := w.pods[i]
	container := &pod.Status.ContainerStatuses[0]
	number := func(arg datadriven.CmdArg) int32 {
		n, err := strconv.Atoi(arg.Vals[0])
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		return int32(n)
	}
	for _, arg := range d.CmdArgs[1:] {
		switch arg.Key {
		case "ready", "unready":
			setReady(pod, arg.Key == "ready")
		case "deleting":
			pod.DeletionTimestamp = ptr.To(metav1.NewTime(epoch()))
		case "finished":
			pod.Status.Phase = corev1.PodSucceeded
		case "waiting":
			container.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: arg.Vals[0]}}
		case "restarts":
			container.RestartCount = number(arg)
			container.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}
		case "exit":
			container.LastTerminationState.Terminated.ExitCode = number(arg)
		case "last":
			container.LastTerminationState.Terminated.Reason = arg.Vals[0]
		case "started":
			started := metav1.NewTime(at(t, d, "started"))
			container.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}
		default:
			annotate(&pod.ObjectMeta, arg)
		}
	}
}

func setReady(pod *corev1.Pod, is bool) {
	status := corev1.ConditionFalse
	if is {
		status = corev1.ConditionTrue
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}
}

// annotate sets an annotation; a value of - takes it away.
func annotate(meta *metav1.ObjectMeta, arg datadriven.CmdArg) {
	if value := strings.Join(arg.Vals, ","); value != "-" {
		metav1.SetMetaDataAnnotation(meta, arg.Key, value)
	} else {
		delete(meta.Annotations, arg.Key)
	}
}

func (w *world) decide(t *testing.T, d *datadriven.TestData) string {
	now := at(t, d, "at")
	p := decide(w.node, w.pods, !d.HasArg("no-policy"), now)
	var b strings.Builder
	for _, change := range p.pods {
		fmt.Fprintf(&b, "%s %s\n", change.action, change.pod.Name)
		switch change.action {
		case mark:
			metav1.SetMetaDataAnnotation(&change.pod.ObjectMeta, RetainKey, Keep)
		case withdraw:
			setReady(change.pod, false)
			fallthrough
		case unmark:
			if change.pod.Annotations[RetainKey] == Keep {
				delete(change.pod.Annotations, RetainKey)
			}
		}
	}
	if !p.next.IsZero() {
		fmt.Fprintf(&b, "again at %s\n", p.next.Sub(epoch()))
	}
	if again := decide(w.node, w.pods, !d.HasArg("no-policy"), now); len(again.pods) > 0 {
		t.Errorf("decides otherwise when it is asked again: %+v", again)
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}
