package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/store"
	"yurt/internal/wire"
)

// TestScripts runs testdata/scripts/*.txt: a node's overlay, told as text. Each object exists in protobuf and in JSON; both are
// shown, and have to be the same.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := newWorld(t)
		defer w.close()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t, w.d = t, d
			w.out.Reset()
			w.run()
			if w.out.Len() == 0 {
				return "ok"
			}
			return w.out.String()
		})
	})
}

type world struct {
	t   testing.TB
	d   *datadriven.TestData
	out strings.Builder

	dir      string
	store    *store.Store
	stop     func()
	overlay  *Overlay
	services map[string]bool // by name: whether it publishes not ready addresses
	indexes  map[Kind]map[wire.Encoding]*Index
	pods     map[string]*corev1.Pod
	slices   map[string]*discoveryv1.EndpointSlice
	legacy   map[string]*corev1.Endpoints
	seq      uint64
}

func encodings() []wire.Encoding { return []wire.Encoding{wire.Protobuf, wire.JSON} }

func newWorld(t testing.TB) *world {
	w := &world{
		t: t, dir: t.TempDir(), services: map[string]bool{}, pods: map[string]*corev1.Pod{},
		slices: map[string]*discoveryv1.EndpointSlice{}, legacy: map[string]*corev1.Endpoints{},
	}
	w.open()
	return w
}

func (w *world) open() {
	s, err := store.Open(w.dir, store.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			w.t.Error(err)
		}
	}
	w.store = s
	w.overlay, err = Open(s, Options{Publishes: func(_, service string) (bool, bool) {
		publishes, known := w.services[service]
		return publishes, known
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.indexes = map[Kind]map[wire.Encoding]*Index{}
	for _, kind := range []Kind{EndpointSlices, Endpoints} {
		w.indexes[kind] = map[wire.Encoding]*Index{}
		for _, enc := range encodings() {
			w.indexes[kind][enc] = w.overlay.NewIndex(kind, enc, "edge")
		}
	}
	for name, s := range w.slices {
		w.index(EndpointSlices, name, s)
	}
	for name, e := range w.legacy {
		w.index(Endpoints, name, e)
	}
	w.seq = 0
}

func (w *world) close() { w.stop() }

func (w *world) check(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatalf("%s: %v", w.d.Pos, err)
	}
}

func (w *world) print(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

// subject is the object that a command is about: its first argument.
func (w *world) subject() string { return w.d.CmdArgs[0].Key }

func (w *world) option(name, absent string) string {
	for _, arg := range w.d.CmdArgs {
		if arg.Key == name && len(arg.Vals) > 0 {
			return strings.Join(arg.Vals, ",")
		}
	}
	return absent
}

// run executes one command.
func (w *world) run() {
	switch w.d.Cmd {
	case "pod": // pod NAME [uid=] [version=] and its status: the cloud has it
		w.pod()
	case "slice": // slice NAME service= [type=] [version=] [by=] and its endpoints: a feed has brought it
		w.slice()
	case "endpoints": // endpoints SERVICE [version=] and its addresses
		w.endpoints()
	case "service": // service NAME publishes=yes|no: the node sees it
		w.services[w.subject()] = w.option("publishes", "no") == "yes"
	case "patch": // patch POD and the patch: the kubelet writes while the cloud is away
		w.patch()
	case "put":
		w.put()
	case "report": // report POD version= and the patch: the same, and the API server answers
		w.report()
	case "see": // see POD: a feed has brought it
		for _, enc := range encodings() {
			w.check(w.overlay.See(enc, Key{"shop", w.subject()}, encode(w.t, enc, w.pods[w.subject()])))
		}
	case "assume": // assume POD: the link has gone, and the node knows it so
		w.check(w.overlay.Assume(wire.Protobuf, Key{"shop", w.subject()}, encode(w.t, wire.Protobuf, w.pods[w.subject()])))
	case "gone": // gone POD [version=]: a collection of all pods lacks it
		at, err := strconv.ParseUint(w.option("version", "1000"), 10, 64)
		w.check(err)
		w.overlay.Gone(Key{"shop", w.subject()}, at)
	case "cut":
		w.overlay.Cut()
	case "heal":
		w.overlay.Heal()
	case "lift": // lift after=DURATION
		w.lift()
	case "reopen": // the hub restarts, or the node
		w.stop()
		w.open()
	case "get":
		w.get()
	case "entries":
		w.entries()
	case "changes": // what watchers get since the last time
		w.changes()
	default:
		w.d.Fatalf(w.t, "unknown command %s", w.d.Cmd)
	}
}

func (w *world) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(w.option("uid", name+"-1")), ResourceVersion: w.option("version", "10")}
}

func (w *world) pod() {
	p := &corev1.Pod{ObjectMeta: w.meta(w.subject())}
	p.Spec.NodeName = "edge"
	p.Spec.Containers = []corev1.Container{{Name: "main", Image: "shop/main"}}
	w.check(json.Unmarshal([]byte(w.d.Input), &p.Status))
	w.pods[p.Name] = p
}

// slice reads endpoints as "POD ADDRESS... [ready] [serving] [terminating] [uid=] [node=]"; "-" is no pod.
func (w *world) slice() {
	s := &discoveryv1.EndpointSlice{ObjectMeta: w.meta(w.subject()), AddressType: discoveryv1.AddressType(w.option("type", "IPv4"))}
	s.Labels = map[string]string{"app": "shop", discoveryv1.LabelServiceName: w.option("service", "web"), discoveryv1.LabelManagedBy: w.option("by", "endpointslice-controller.k8s.io")}
	for line := range strings.Lines(w.d.Input) {
		words := strings.Fields(line)
		has := func(word string) *bool { b := slices.Contains(words, word); return &b }
		e := discoveryv1.Endpoint{TargetRef: reference(words), NodeName: nodeOf(words)}
		e.Conditions = discoveryv1.EndpointConditions{Ready: has("ready"), Serving: has("serving"), Terminating: has("terminating")}
		for _, word := range words[1:] {
			if strings.ContainsAny(word, ".:") {
				e.Addresses = append(e.Addresses, word)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	w.slices[s.Name] = s
	w.index(EndpointSlices, s.Name, s)
}

func (w *world) endpoints() {
	e := &corev1.Endpoints{ObjectMeta: w.meta(w.subject())}
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Port: 80}}}
	for line := range strings.Lines(w.d.Input) {
		words := strings.Fields(line)
		a := corev1.EndpointAddress{IP: words[1], TargetRef: reference(words), NodeName: nodeOf(words)}
		if slices.Contains(words, "ready") {
			subset.Addresses = append(subset.Addresses, a)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, a)
		}
	}
	e.Subsets = []corev1.EndpointSubset{subset}
	w.legacy[e.Name] = e
	w.index(Endpoints, e.Name, e)
}

func word(words []string, key, absent string) string {
	for _, word := range words {
		if value, ok := strings.CutPrefix(word, key+"="); ok {
			return value
		}
	}
	return absent
}

func reference(words []string) *corev1.ObjectReference {
	if words[0] == "-" {
		return nil
	}
	return &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: words[0], UID: types.UID(word(words, "uid", words[0]+"-1"))}
}

func nodeOf(words []string) *string {
	node := word(words, "node", "edge")
	return &node
}

func (w *world) index(kind Kind, name string, o marshaler) {
	for _, enc := range encodings() {
		w.check(w.indexes[kind][enc].Put(Key{"shop", name}, encode(w.t, enc, o)))
	}
}

type marshaler interface{ Marshal() ([]byte, error) }

func encode(t testing.TB, enc wire.Encoding, o marshaler) []byte {
	t.Helper()
	marshal := o.Marshal
	if enc == wire.JSON {
		marshal = func() ([]byte, error) { return json.Marshal(o) }
	}
	b, err := marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// patch writes twice, to the pod in JSON and in protobuf: the same patch once more changes nothing.
func (w *world) patch() {
	p := w.pods[w.subject()]
	for _, enc := range encodings() {
		item, err := w.overlay.Patch(w.t.Context(), enc, encode(w.t, enc, p), []byte(w.d.Input))
		if err != nil {
			w.print("%v", err)
			return
		}
		if seen := w.apply(Pods, enc, p.Name, encode(w.t, enc, p)); !slices.Equal(seen, item) {
			w.t.Errorf("%s: the answer is not what a get shows\n%s", w.d.Pos, cmp.Diff(seen, item))
		}
	}
	w.print("%s", describePod(w.shownPod(p.Name)))
}

func (w *world) put() {
	p := w.pods[w.subject()]
	written := p.DeepCopy()
	written.UID = types.UID(w.option("uid", string(p.UID)))
	written.ResourceVersion = w.option("version", p.ResourceVersion)
	written.Status = corev1.PodStatus{}
	w.check(json.Unmarshal([]byte(w.d.Input), &written.Status))
	for _, enc := range encodings() {
		_, err := w.overlay.Replace(w.t.Context(), wire.Protobuf, encode(w.t, wire.Protobuf, p), enc, encode(w.t, enc, written))
		if err != nil {
			w.print("%v", err)
			return
		}
	}
	w.print("%s", describePod(w.shownPod(p.Name)))
}

func (w *world) report() {
	p := w.pods[w.subject()]
	var patch corev1.Pod
	w.check(json.Unmarshal([]byte(w.d.Input), &patch.Status))
	p.Status, p.ResourceVersion = patch.Status, w.option("version", "10")
	for _, enc := range encodings() {
		w.check(w.overlay.Report(w.t.Context(), enc, encode(w.t, enc, p)))
	}
}

// lift lets time pass.
func (w *world) lift() {
	d, err := time.ParseDuration(w.option("after", "0s"))
	w.check(err)
	w.overlay.change(func(t *transition) {
		for _, e := range t.entries {
			e.since = e.since.Add(-d)
		}
	})
	next, err := w.overlay.Lift(w.t.Context())
	w.check(err)
	if !next.IsZero() {
		w.print("next in %s", time.Until(next).Round(10*time.Second))
	}
}

func (w *world) apply(kind Kind, enc wire.Encoding, name string, item []byte) []byte {
	key := Key{"shop", name}
	before := slices.Clone(item)
	seen, changed, err := w.overlay.Apply(kind, enc, key, item)
	w.check(err)
	if !slices.Equal(before, item) {
		w.t.Errorf("%s: Apply has changed the stored bytes", w.d.Pos)
	}
	if !changed && &seen[0] != &item[0] {
		w.t.Errorf("%s: an object that is not concerned was copied", w.d.Pos)
	}
	return seen
}

func (w *world) shownPod(name string) *corev1.Pod {
	return show(w, Pods, name, w.pods[name], func() *corev1.Pod { return &corev1.Pod{} })
}

type apiObject[T any] interface {
	marshaler
	Unmarshal([]byte) error
}

// show returns an object as clients see it, in either encoding the same.
func show[T apiObject[T]](w *world, kind Kind, name string, o T, empty func() T) T {
	fromProto, fromJSON := empty(), empty()
	w.check(fromProto.Unmarshal(w.apply(kind, wire.Protobuf, name, encode(w.t, wire.Protobuf, o))))
	w.check(json.Unmarshal(w.apply(kind, wire.JSON, name, encode(w.t, wire.JSON, o)), fromJSON))
	if diff := cmp.Diff(string(encode(w.t, wire.JSON, fromProto)), string(encode(w.t, wire.JSON, fromJSON))); diff != "" {
		w.t.Errorf("%s: protobuf and JSON differ:\n%s", w.d.Pos, diff)
	}
	return fromProto
}

func describePod(p *corev1.Pod) string {
	var ips, more []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, c := range p.Status.Conditions {
		more = append(more, fmt.Sprintf("%s=%s", c.Type, c.Status))
	}
	for _, c := range p.Status.ContainerStatuses {
		state := "waiting"
		switch {
		case c.State.Running != nil:
			state = "running"
		case c.State.Terminated != nil:
			state = "terminated"
		}
		more = append(more, fmt.Sprintf("%s:%s:%d", c.Name, state, c.RestartCount))
	}
	return fmt.Sprintf("%s@%s %s %v %s", p.Name, p.ResourceVersion, p.Status.Phase, ips, strings.Join(more, " "))
}

// get shows objects as a client reads them.
func (w *world) get() {
	for _, arg := range w.d.CmdArgs {
		kind, name, _ := strings.Cut(arg.Key, "/")
		switch kind {
		case "pod":
			w.print("%s", describePod(w.shownPod(name)))
		case "slice":
			s := show(w, EndpointSlices, name, w.slices[name], func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} })
			w.print("%s@%s", s.Name, s.ResourceVersion)
			for _, e := range s.Endpoints {
				w.print("  %s", describeEndpoint(e))
			}
		case "endpoints":
			e := show(w, Endpoints, name, w.legacy[name], func() *corev1.Endpoints { return &corev1.Endpoints{} })
			w.print("%s@%s", e.Name, e.ResourceVersion)
			for _, s := range e.Subsets {
				for _, a := range s.Addresses {
					w.print("  %s %s ready", nameOf(a.TargetRef), a.IP)
				}
				for _, a := range s.NotReadyAddresses {
					w.print("  %s %s", nameOf(a.TargetRef), a.IP)
				}
			}
		}
	}
}

func nameOf(r *corev1.ObjectReference) string {
	if r == nil {
		return "-"
	}
	return r.Name
}

func describeEndpoint(e discoveryv1.Endpoint) string {
	s := nameOf(e.TargetRef) + " " + strings.Join(e.Addresses, " ")
	for i, b := range []*bool{e.Conditions.Ready, e.Conditions.Serving, e.Conditions.Terminating} {
		if b != nil && *b {
			s += " " + []string{"ready", "serving", "terminating"}[i]
		}
	}
	return s
}

func (w *world) entries() {
	s := w.overlay.state.Load()
	for _, key := range slices.SortedFunc(maps.Keys(s.entries), func(a, b Key) int { return strings.Compare(a.Name, b.Name) }) {
		e := s.entries[key]
		line := fmt.Sprintf("%s uid=%s %s", key.Name, e.uid, e.state)
		for o, v := range e.caughtUp {
			line += " " + o.Name + "@" + strconv.FormatUint(v, 10)
		}
		w.print("%s", line)
	}
	if len(s.entries) == 0 {
		w.print("none")
	}
}

func (w *world) changes() {
	var pods []Key
	pods, w.seq = w.overlay.Since(w.seq)
	for _, pod := range pods {
		line := "pod " + pod.Name
		var below []string
		for kind, word := range map[Kind]string{EndpointSlices: "slices", Endpoints: "endpoints"} {
			naming := w.indexes[kind][wire.Protobuf].Naming(pod)
			if diff := cmp.Diff(naming, w.indexes[kind][wire.JSON].Naming(pod)); diff != "" {
				w.t.Errorf("%s: indexes differ:\n%s", w.d.Pos, diff)
			}
			if len(naming) > 0 && kind == EndpointSlices {
				line += fmt.Sprintf(", %s %v", word, naming)
			} else if len(naming) > 0 {
				below = append(below, fmt.Sprintf("  %s %v", word, naming))
			}
		}
		w.print("%s", strings.Join(append([]string{line}, below...), "\n"))
	}
	if len(pods) == 0 {
		w.print("none")
	}
}
