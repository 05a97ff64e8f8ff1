package nodeautonomy

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/controller/autonomy"
)

// Reasons of autonomy.PodsProtected.
const (
	reasonDark      = "NodeDark"          // True
	reasonOver      = "DurationOver"      // the term has ended
	reasonReachable = "NodeReachable"     // there is nothing to protect from
	reasonNobody    = "NotAutonomous"     // the node is dark, and nobody asked
	reasonInvalid   = "InvalidAnnotation" // the node's annotation can't be understood
)

// plan is what is to be done about a node and its pods.
type plan struct {
	pods      []podChange
	condition *corev1.NodeCondition // to be set; nil if it is as it should be
	events    []notice
	next      time.Time // when there is something to decide even if nothing changes; zero: never
}

// podChange gives a pod another tolerance.
type podChange struct {
	pod     *corev1.Pod
	phase   autonomy.Phase
	was, is tolerance
}

type notice struct{ kind, reason, note string }

// decide returns what is to be done about a node, given the pods bound to it.
func decide(node *corev1.Node, pods []*corev1.Pod, now time.Time) plan {
	var p plan
	term, invalid := autonomy.OfNode(node)
	protected := 0
	for _, pod := range pods {
		if !evictable(pod) {
			continue
		}
		own, _ := autonomy.OfPod(pod, term) // whoever wrote it is told when it is written
		phase, ends := own.At(now, node)
		p.decideAgain(ends)
		was := toleranceOf(pod)
		is := was.in(phase)
		if phase == autonomy.Protected && is.endless() {
			protected++
		}
		if !is.equal(was) {
			p.pods = append(p.pods, podChange{pod: pod, phase: phase, was: was, is: is})
		}
	}
	_, ends := term.At(now, node)
	p.decideAgain(ends)
	p.show(node, describe(node, term, invalid, protected, now), now)
	return p
}

// takesAway tells whether a pod is to be protected less than it is.
func (p *plan) takesAway() bool {
	return slices.ContainsFunc(p.pods, func(c podChange) bool { return c.phase != autonomy.Protected })
}

func (p *plan) decideAgain(at time.Time) {
	if !at.IsZero() && (p.next.IsZero() || at.Before(p.next)) {
		p.next = at
	}
}

// evictable tells whether eviction by taint is a matter of this pod. The pods of DaemonSets tolerate both taints by themselves, and
// static pods are not the API's to evict.
func evictable(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	if _, static := pod.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return false
	}
	owner := metav1.GetControllerOfNoCopy(pod)
	return owner == nil || owner.Kind != "DaemonSet"
}

// describe returns what PodsProtected should say; nil if there is nothing to tell of a node that has no such condition.
func describe(node *corev1.Node, term autonomy.Term, invalid error, protected int, now time.Time) *corev1.NodeCondition {
	since, dark := autonomy.DarkSince(node)
	is := func(status corev1.ConditionStatus, reason, format string, args ...any) *corev1.NodeCondition {
		return &corev1.NodeCondition{Type: autonomy.PodsProtected, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	deadline, ends := term.Deadline(since)
	switch phase, _ := term.At(now, node); {
	case invalid != nil:
		return is(corev1.ConditionFalse, reasonInvalid, "%v", invalid)
	case !dark:
		return is(corev1.ConditionFalse, reasonReachable, "The node is reachable.")
	case phase == autonomy.Lapsed:
		return is(corev1.ConditionFalse, reasonOver, "Dark since %s; protected until %s.", stamp(since), stamp(deadline))
	case phase == autonomy.Protected && ends:
		return is(corev1.ConditionTrue, reasonDark, "Dark since %s; pods kept until %s: %d.", stamp(since), stamp(deadline), protected)
	case phase == autonomy.Protected:
		return is(corev1.ConditionTrue, reasonDark, "Dark since %s; pods kept without end: %d.", stamp(since), protected)
	case protected > 0:
		return is(corev1.ConditionTrue, reasonDark, "Dark since %s; pods kept by annotations of their own: %d.", stamp(since), protected)
	}
	return is(corev1.ConditionFalse, reasonNobody, "Dark since %s; nobody asked to keep its pods.", stamp(since))
}

// show sets the condition if it is not so already, and tells of what it means. A node about which there was never anything to tell
// gets no condition.
func (p *plan) show(node *corev1.Node, want *corev1.NodeCondition, now time.Time) {
	i := slices.IndexFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == autonomy.PodsProtected })
	var have corev1.NodeCondition
	if i >= 0 {
		have = node.Status.Conditions[i]
	} else if want.Reason == reasonReachable || want.Reason == reasonNobody {
		return
	}
	if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
		return
	}
	want.LastHeartbeatTime, want.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	if have.Status == want.Status {
		want.LastTransitionTime = have.LastTransitionTime
	}
	p.condition = want
	switch {
	case want.Reason == reasonInvalid:
		p.events = append(p.events, notice{corev1.EventTypeWarning, "InvalidAutonomyDuration", want.Message})
	case want.Status == have.Status:
	case want.Status == corev1.ConditionTrue:
		p.events = append(p.events, notice{corev1.EventTypeNormal, "PodProtectionStarted", want.Message})
	case have.Status == corev1.ConditionTrue:
		p.events = append(p.events, notice{corev1.EventTypeNormal, "PodProtectionEnded", want.Message})
	}
}
