package nodeautonomy

import (
	"maps"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"yurt/internal/controller/autonomy"
)

// The originals are kept under OpenYurt's names and in its format: seconds, or infinite.
const (
	originalNotReady    = "apps.openyurt.io/original-not-ready-toleration-duration"
	originalUnreachable = "apps.openyurt.io/original-unreachable-toleration-duration"
	infinite            = "infinite"

	// usualSeconds is what Kubernetes gives pods; it stands in for an original that somebody has made illegible.
	usualSeconds = 300
)

// outage is a taint of lost nodes and the annotation that keeps a pod's own tolerance of it.
type outage struct{ taint, original string }

func outages() []outage {
	return []outage{
		{corev1.TaintNodeNotReady, originalNotReady},
		{corev1.TaintNodeUnreachable, originalUnreachable},
	}
}

// tolerance is what of a pod decides whether it is evicted.
type tolerance struct {
	tolerations []corev1.Toleration
	originals   map[string]string // the annotations of that purpose which the pod has
}

func toleranceOf(pod *corev1.Pod) tolerance {
	t := tolerance{tolerations: pod.Spec.Tolerations, originals: map[string]string{}}
	for _, o := range outages() {
		if value, ok := pod.Annotations[o.original]; ok {
			t.originals[o.original] = value
		}
	}
	return t
}

// in returns the tolerance that a pod should have in a phase. The receiver stays as it is.
func (t tolerance) in(phase autonomy.Phase) tolerance {
	t.tolerations, t.originals = slices.Clone(t.tolerations), maps.Clone(t.originals)
	for _, o := range outages() {
		t.set(o, phase)
	}
	return t
}

// set changes the tolerance of one outage.
//
// The eviction controller goes by the first toleration that matches a taint. Only tolerationSeconds of it may ever change, and a
// toleration that was added stays. It postpones no eviction that it has scheduled; but it calls it off for a toleration without end.
// So this is the only one that protects, and an absent toleration is put in front, where 0 means what its absence meant.
func (t *tolerance) set(o outage, phase autonomy.Phase) {
	i := slices.IndexFunc(t.tolerations, func(tol corev1.Toleration) bool { return matches(tol, o.taint) })
	original, kept := t.originals[o.original]
	if !kept {
		switch {
		case phase == autonomy.Unprotected:
			return
		case i < 0:
			original = "0"
		case t.tolerations[i].TolerationSeconds == nil:
			return // it tolerates the outage by its own will
		default:
			original = strconv.FormatInt(*t.tolerations[i].TolerationSeconds, 10)
		}
	}
	// One that matches other taints too is not ours to change.
	if i < 0 || t.tolerations[i].Key == "" {
		t.tolerations = slices.Insert(t.tolerations, 0, corev1.Toleration{
			Key: o.taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute,
		})
		i = 0
	}
	seconds := &t.tolerations[i].TolerationSeconds
	switch {
	case phase == autonomy.Unprotected:
		*seconds = parseSeconds(original)
		delete(t.originals, o.original)
		return
	case phase == autonomy.Protected || original == infinite:
		*seconds = nil
	case phase == autonomy.Lapsed:
		*seconds = ptr.To[int64](0)
	}
	t.originals[o.original] = original
}

// endless tells whether a pod is never evicted for either outage.
func (t tolerance) endless() bool {
	for _, o := range outages() {
		i := slices.IndexFunc(t.tolerations, func(tol corev1.Toleration) bool { return matches(tol, o.taint) })
		if i < 0 || t.tolerations[i].TolerationSeconds != nil {
			return false
		}
	}
	return true
}

func (t tolerance) equal(other tolerance) bool {
	return maps.Equal(t.originals, other.originals) && slices.EqualFunc(t.tolerations, other.tolerations,
		func(a, b corev1.Toleration) bool {
			return a.MatchToleration(&b) && ptr.Equal(a.TolerationSeconds, b.TolerationSeconds)
		})
}

// matches tells whether a toleration tolerates the NoExecute taint of a key, which has no value. The API server lets a toleration
// without a key only pass if its operator is Exists.
func matches(tol corev1.Toleration, taint string) bool {
	if tol.Effect != "" && tol.Effect != corev1.TaintEffectNoExecute || tol.Key != "" && tol.Key != taint {
		return false
	}
	switch tol.Operator {
	case corev1.TolerationOpExists:
		return true
	case "", corev1.TolerationOpEqual:
		return tol.Value == ""
	}
	return false
}

func parseSeconds(original string) *int64 {
	if original == infinite {
		return nil
	}
	seconds, err := strconv.ParseInt(original, 10, 64)
	if err != nil {
		seconds = usualSeconds
	}
	return &seconds
}
