// Package autonomy reads from nodes and pods what their owners want to happen when a node is lost: for how long its pods are
// protected, and where in that time it is.
//
// All of it is pure: the same objects and the same time give the same answer in every controller, so that eviction and the
// withdrawal from Services end at the same moment. It never reads a clock, never writes, and knows no client.
package autonomy

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of nodes. A pod may have DurationKey too; then that counts for the pod.
const (
	// DurationKey has a Go duration, 0 for "without end", or Off.
	DurationKey = "node.openyurt.io/autonomy-duration"
	// EndlessKey and BindingKey are how older releases of OpenYurt say "without end": by the value "true". They win over DurationKey.
	EndlessKey = "node.beta.openyurt.io/autonomy"
	BindingKey = "apps.openyurt.io/binding"

	// Off as a duration says that there is no protection. A pod says so to be treated as usual on an autonomous node.
	Off = "off"
)

// PodsProtected is the condition by which a node shows what is done for its pods.
const PodsProtected corev1.NodeConditionType = "PodsProtected"

// Term is for how long pods are protected once their node is dark. The zero value is: not at all.
type Term struct {
	endless bool
	length  time.Duration
}

// Endless is protection that does not end while the node is dark.
func Endless() Term { return Term{endless: true} }

// For is protection for a time.
func For(d time.Duration) Term { return Term{length: d} }

// None tells whether there is no protection at all.
func (t Term) None() bool { return t == Term{} }

// Deadline returns when protection ends on a node that has been dark since a time; false if it does not end.
func (t Term) Deadline(since time.Time) (time.Time, bool) { return since.Add(t.length), !t.endless }

// OfNode returns the term that a node's annotations ask for. An annotation that can't be understood is an error, and asks for nothing.
func OfNode(node *corev1.Node) (Term, error) {
	if node.Annotations[EndlessKey] == "true" || node.Annotations[BindingKey] == "true" {
		return Endless(), nil
	}
	value, ok := node.Annotations[DurationKey]
	if !ok {
		return Term{}, nil
	}
	return parse(value)
}

// OfPod returns the term of a pod on a node with a term. A pod's annotation that can't be understood is an error, and changes nothing.
func OfPod(pod *corev1.Pod, node Term) (Term, error) {
	value, ok := pod.Annotations[DurationKey]
	if !ok {
		return node, nil
	}
	own, err := parse(value)
	if err != nil {
		return node, err
	}
	return own, nil
}

func parse(value string) (Term, error) {
	if value == Off {
		return Term{}, nil
	}
	d, err := time.ParseDuration(value)
	if err == nil && d < 0 {
		err = errors.New("is negative")
	}
	if err != nil {
		return Term{}, fmt.Errorf("read annotation %s=%q: want a duration like 30m, 0 for without end, or %s: %w", DurationKey, value, Off, err)
	}
	if d == 0 {
		return Endless(), nil
	}
	return For(d), nil
}

// DarkSince returns since when the cloud has not been able to count on a node; false if it can.
//
// It is the time at which Ready ceased to be True, and not the time of the NoExecute taint: the stock controller limits the rate of
// taints, and takes them all back while it believes that it is the one that is cut off.
func DarkSince(node *corev1.Node) (time.Time, bool) {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastTransitionTime.Time, c.Status != corev1.ConditionTrue
		}
	}
	return time.Time{}, false
}

// Same tells whether two versions of a node get the same answers from this package at all times. Versions that differ by heartbeats
// only do.
func Same(a, b *corev1.Node) bool {
	for _, key := range []string{DurationKey, EndlessKey, BindingKey} {
		if a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	aSince, aDark := DarkSince(a)
	bSince, bDark := DarkSince(b)
	return aDark == bDark && (!aDark || aSince.Equal(bSince))
}

// Phase is where a pod is in its protection.
type Phase int

const (
	Unprotected Phase = iota // nobody asked for protection
	Protected                // it is protected now, or would be if the node went dark
	Lapsed                   // the node has been dark for longer than the term
)

func (p Phase) String() string {
	switch p {
	case Unprotected:
		return "unprotected"
	case Protected:
		return "protected"
	case Lapsed:
		return "lapsed"
	}
	return fmt.Sprintf("Phase(%d)", int(p))
}

// At returns the phase at a time, and when it ends by itself; the zero time if it does not.
func (t Term) At(now time.Time, node *corev1.Node) (Phase, time.Time) {
	if t.None() {
		return Unprotected, time.Time{}
	}
	since, dark := DarkSince(node)
	deadline, ends := t.Deadline(since)
	switch {
	case !dark || !ends:
		return Protected, time.Time{}
	case now.Before(deadline):
		return Protected, deadline
	}
	return Lapsed, time.Time{}
}
