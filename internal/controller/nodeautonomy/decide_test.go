package nodeautonomy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yurt/internal/controller/autonomy"
)

// A world is a node and its pods, told in text:
//
//	node [KEY=VALUE...] [ready=True|False|Unknown] at=DURATION    annotates the node, changes its Ready condition
//	pod NAME [daemonset|static|deleting|finished] [KEY=VALUE...]  creates a pod; the input has its tolerations, one per line, or
//	                                                              changes a pod's annotations if there is no input
//	decide at=DURATION                                            decides, carries it out and prints it; times are since the epoch
//	show                                                          prints the pods
//
// A toleration is KEY SECONDS or KEY forever, * as a key is all keys; KEY/EFFECT and KEY=VALUE are what they seem to be.
type world struct {
	node *corev1.Node
	pods []*corev1.Pod
}

func epoch() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func newWorld() *world {
	return &world{node: &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "edge"},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch())},
		}},
	}}
}

func TestDecide(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld()
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
			case "show":
				var b strings.Builder
				for _, pod := range w.pods {
					fmt.Fprintf(&b, "%s: %s\n", pod.Name, toleranceOf(pod))
				}
				return b.String()
			}
			d.Fatalf(t, "no such command")
			return ""
		})
	})
}

func at(t *testing.T, d *datadriven.TestData) time.Time {
	var after string
	d.MaybeScanArgs(t, "at", &after)
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
			w.node.Status.Conditions[0].LastTransitionTime = metav1.NewTime(at(t, d))
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
		w.pods = append(w.pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: w.node.Name}})
	}
	pod := w.pods[i]
	for _, arg := range d.CmdArgs[1:] {
		switch arg.Key {
		case "daemonset":
			pod.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Controller: ptr.To(true)}}
		case "static":
			annotate(&pod.ObjectMeta, datadriven.CmdArg{Key: corev1.MirrorPodAnnotationKey, Vals: []string{"hash"}})
		case "deleting":
			pod.DeletionTimestamp = ptr.To(metav1.NewTime(epoch()))
		case "finished":
			pod.Status.Phase = corev1.PodSucceeded
		default:
			annotate(&pod.ObjectMeta, arg)
		}
	}
	for line := range strings.Lines(d.Input) {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, parseToleration(t, line))
	}
}

// annotate sets an annotation; a value of - takes it away.
func annotate(meta *metav1.ObjectMeta, arg datadriven.CmdArg) {
	value := strings.Join(arg.Vals, ",")
	if value == "-" {
		delete(meta.Annotations, arg.Key)
		return
	}
	metav1.SetMetaDataAnnotation(meta, arg.Key, value)
}

func (w *world) decide(t *testing.T, d *datadriven.TestData) string {
	now := at(t, d)
	p := decide(w.node, w.pods, now)
	var b strings.Builder
	for _, change := range p.pods {
		fmt.Fprintf(&b, "pod %s %s: %s\n", change.pod.Name, change.phase, change.is)
	}
	if c := p.condition; c != nil {
		fmt.Fprintf(&b, "condition %s %s since %s: %s\n", c.Status, c.Reason, c.LastTransitionTime.Sub(epoch()), c.Message)
	}
	for _, e := range p.events {
		fmt.Fprintf(&b, "event %s %s: %s\n", e.kind, e.reason, e.note)
	}
	if !p.next.IsZero() {
		fmt.Fprintf(&b, "again at %s\n", p.next.Sub(epoch()))
	}
	w.carryOut(t, p)
	if again := decide(w.node, w.pods, now); len(again.pods) > 0 || again.condition != nil || len(again.events) > 0 {
		t.Errorf("decides otherwise when it is asked again: %+v", again)
	}
	if b.Len() == 0 {
		return "nothing"
	}
	return b.String()
}

// carryOut does what the controller does, and holds it against the API server's rule for tolerations.
func (w *world) carryOut(t *testing.T, p plan) {
	for _, change := range p.pods {
		for _, old := range change.pod.Spec.Tolerations {
			if !slices.ContainsFunc(change.is.tolerations, func(tol corev1.Toleration) bool { return old.MatchToleration(&tol) }) {
				t.Errorf("pod %s: the API server would refuse that toleration %v is gone", change.pod.Name, old)
			}
		}
		change.pod.Spec.Tolerations = change.is.tolerations
		for _, o := range outages() {
			delete(change.pod.Annotations, o.original)
			if value, ok := change.is.originals[o.original]; ok {
				metav1.SetMetaDataAnnotation(&change.pod.ObjectMeta, o.original, value)
			}
		}
	}
	if p.condition != nil {
		w.node.Status.Conditions = append(w.node.Status.Conditions[:1:1], *p.condition)
	}
}

func parseToleration(t *testing.T, line string) corev1.Toleration {
	fields := strings.Fields(line)
	if len(fields) != 2 {
		t.Fatalf("toleration %q: want KEY SECONDS", line)
	}
	tol := corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	key, effect, hasEffect := strings.Cut(fields[0], "/")
	if hasEffect {
		tol.Effect = corev1.TaintEffect(effect)
	}
	key, value, equal := strings.Cut(key, "=")
	if equal {
		tol.Operator, tol.Value = corev1.TolerationOpEqual, value
	}
	switch key {
	case "*":
	case "not-ready", "unreachable":
		tol.Key = "node.kubernetes.io/" + key
	default:
		tol.Key = key
	}
	if fields[1] != "forever" {
		seconds, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		tol.TolerationSeconds = &seconds
	}
	return tol
}

func (t tolerance) String() string {
	var parts []string
	for _, tol := range t.tolerations {
		key, seconds := strings.TrimPrefix(tol.Key, "node.kubernetes.io/"), "forever"
		if key == "" {
			key = "*"
		}
		if tol.Operator == corev1.TolerationOpEqual {
			key += "=" + tol.Value
		}
		if tol.Effect != corev1.TaintEffectNoExecute {
			key += "/" + string(tol.Effect)
		}
		if tol.TolerationSeconds != nil {
			seconds = strconv.FormatInt(*tol.TolerationSeconds, 10)
		}
		parts = append(parts, key+" "+seconds)
	}
	for _, o := range outages() {
		if original, ok := t.originals[o.original]; ok {
			parts = append(parts, "(was "+strings.TrimPrefix(o.taint, "node.kubernetes.io/")+" "+original+")")
		}
	}
	return strings.Join(parts, ", ")
}

// TestToleranceComesBack walks pods through random phases. While one is protected nothing evicts it; when nobody asks any more it
// tolerates what it did at first, and for as long.
func TestToleranceComesBack(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	keys := []string{"", corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, "other"}
	effects := []corev1.TaintEffect{"", corev1.TaintEffectNoExecute, corev1.TaintEffectNoSchedule}
	for range 5000 {
		pod := &corev1.Pod{}
		for range random.IntN(5) {
			tol := corev1.Toleration{Key: keys[random.IntN(len(keys))], Operator: corev1.TolerationOpExists, Effect: effects[random.IntN(len(effects))]}
			if tol.Effect == corev1.TaintEffectNoExecute && random.IntN(3) > 0 {
				tol.TolerationSeconds = ptr.To(int64(random.IntN(3) * 100))
			}
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, tol)
		}
		first := toleranceOf(pod)
		is, path := first, []string{first.String()}
		for range random.IntN(4) {
			phase := autonomy.Phase(random.IntN(3))
			is = is.in(phase)
			path = append(path, fmt.Sprintf("%v: %v", phase, is))
			for _, o := range outages() {
				seconds, tolerates := effective(is, o.taint)
				if phase == autonomy.Protected && (!tolerates || seconds != nil) {
					t.Fatalf("is evicted although protected:\n%s", strings.Join(path, "\n"))
				}
				if own, by := effective(first, o.taint); phase == autonomy.Lapsed && (!by || own != nil) && !ptr.Equal(seconds, ptr.To[int64](0)) {
					t.Fatalf("is not evicted when its time is over:\n%s", strings.Join(path, "\n"))
				}
			}
		}
		is = is.in(autonomy.Unprotected)
		path = append(path, fmt.Sprintf("unprotected: %v", is))
		for _, o := range outages() {
			was, tolerated := effective(first, o.taint)
			if !tolerated {
				was = ptr.To[int64](0) // it makes no difference to who evicts
			}
			if got, by := effective(is, o.taint); (tolerated || by) && !ptr.Equal(got, was) && (tolerated || got != nil) {
				t.Fatalf("does not tolerate %s as at first:\n%s", o.taint, strings.Join(path, "\n"))
			}
		}
		if diff := cmp.Diff(map[string]string{}, is.originals); diff != "" {
			t.Fatalf("annotations are left (-want +got):\n%s\n%s", diff, strings.Join(path, "\n"))
		}
	}
}

// effective is how the eviction controller reads tolerations.
func effective(t tolerance, key string) (seconds *int64, tolerates bool) {
	taint := corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute}
	for _, tol := range t.tolerations {
		if matches(tol, taint.Key) {
			return tol.TolerationSeconds, true
		}
	}
	return nil, false
}
