package endpointretention

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"yurt/internal/controller/autonomy"
)

// RetainKey is the annotation by which the policy knows the pods whose readiness it keeps. An owner opts out with any value but Keep.
const (
	RetainKey = "node.openyurt.io/retain-ready"
	Keep      = "true"
)

// calm is how long a container has to run for its crashes to be forgotten, as the kubelet forgets them.
const calm = 10 * time.Minute

// plan is what is to be done about the pods of a node.
type plan struct {
	pods []podChange
	next time.Time // when there is something to decide even if nothing changes; zero: never
}

// podChange is what is to be done about a pod.
type podChange struct {
	pod    *corev1.Pod
	action action
}

type action int

const (
	mark     action = iota // from now on the policy keeps its readiness
	unmark                 // it no longer does
	withdraw               // the same, and the pod is not ready from now on
)

func (a action) String() string { return [...]string{"mark", "unmark", "withdraw"}[a] }

// decide returns what is to be done about a node, given the pods bound to it. Marks are given only if a policy may honour them.
func decide(node *corev1.Node, pods []*corev1.Pod, policy bool, now time.Time) plan {
	var p plan
	decideAgain := func(at time.Time) {
		if !at.IsZero() && (p.next.IsZero() || at.Before(p.next)) {
			p.next = at
		}
	}
	term, _ := autonomy.OfNode(node) // whoever wrote it is told elsewhere
	since, dark := autonomy.DarkSince(node)
	heard := now // what the kubelet says was true then
	if dark {
		heard = since
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		value, said := pod.Annotations[RetainKey]
		marked := value == Keep
		optedOut := said && !marked
		own, _ := autonomy.OfPod(pod, term)
		phase, ends := own.At(now, node)
		crashing, until := crashes(pod, heard)
		wanted := phase == autonomy.Protected && !crashing && !finished(pod)
		switch {
		case optedOut && dark && phase != autonomy.Unprotected && ready(pod): // its owner did so in the dark
			p.pods = append(p.pods, podChange{pod, withdraw})
		case optedOut:
		case wanted && !marked && policy && ready(pod): // one that is not has nothing to keep yet, and its kubelet is about to write it
			p.pods = append(p.pods, podChange{pod, mark})
		case !wanted && marked && dark && ready(pod):
			p.pods = append(p.pods, podChange{pod, withdraw})
		case !wanted && marked:
			p.pods = append(p.pods, podChange{pod, unmark})
		}
		decideAgain(ends)
		if phase == autonomy.Protected && !dark {
			decideAgain(until)
		}
	}
	return p
}

// takesAway tells whether a pod is to be kept no longer.
func (p *plan) takesAway() bool {
	return slices.ContainsFunc(p.pods, func(c podChange) bool { return c.action != mark })
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// crashes tells whether a container of a pod kept crashing at a time, and until when it counts as that if it crashes no more; the zero
// time if that can't be told. One crash is no such thing, and the loss of a node's power is none.
func crashes(pod *corev1.Pod, at time.Time) (crashing bool, until time.Time) {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" {
			return true, time.Time{}
		}
		last := c.LastTerminationState.Terminated
		if c.RestartCount < 2 || c.State.Running == nil || last == nil || last.ExitCode == 0 || powerLoss(last.Reason) {
			continue
		}
		if forgotten := c.State.Running.StartedAt.Add(calm); at.Before(forgotten) {
			crashing = true
			if forgotten.After(until) {
				until = forgotten
			}
		}
	}
	return crashing, until
}

// powerLoss knows how the kubelet reports a container of whose end nobody was a witness.
func powerLoss(reason string) bool { return reason == "Unknown" || reason == "ContainerStatusUnknown" }
