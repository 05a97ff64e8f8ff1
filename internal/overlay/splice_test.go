package overlay

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"google.golang.org/protobuf/encoding/protowire"

	"yurt/internal/wire"
)

// unknown is a protobuf field that no release knows.
func unknown() []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 1999, protowire.BytesType), "from the future")
}

func message(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}

func text(num protowire.Number, s string) []byte { return message(num, []byte(s)) }

func flag(num protowire.Number, b bool) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), protowire.EncodeBool(b))
}

// lookup shows pod shop/a of uid a-1 with these facts.
func lookup(f facts) look {
	return look{
		uid:       func(uid []byte) bool { return string(uid) == "a-1" },
		pod:       func(t target) (facts, bool) { return f, t == target{Key{"shop", "a"}, "a-1"} },
		publishes: func() (bool, bool) { return false, true },
	}
}

// TestSpliceProtobufKeepsOthers builds the expected bytes by hand: what is unknown stays at every level, in its place.
func TestSpliceProtobufKeepsOthers(t *testing.T) {
	reference := message(4, text(1, "Pod"), text(2, "shop"), text(3, "a"), text(4, "a-1"), unknown())
	other := message(2, text(1, "10.0.0.9"), unknown())
	slice := func(address string, ready bool) []byte {
		return bytes.Join([][]byte{
			message(1, text(1, "web-x"), unknown()),
			other,
			message(2, text(1, address), message(2, flag(1, ready), flag(2, ready), flag(3, false), unknown()), text(3, "host"), reference, unknown()),
			message(3, text(1, "http")),
			text(4, "IPv4"),
			unknown(),
		}, nil)
	}
	c := codecOf(wire.Protobuf)
	got := c.showSlice(slice("10.0.0.1", true), lookup(facts{ipv4: []string{"10.0.0.2"}}))
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	want := slice("10.0.0.2", false)
	// Repeated fields that were apart come together, as the API server writes them.
	if diff := cmp.Diff(want, got.item); diff != "" {
		t.Error(diff)
	}

	pod := func(status []byte) []byte {
		return bytes.Join([][]byte{message(1, text(1, "a"), unknown()), message(2, unknown()), message(3, status), unknown()}, nil)
	}
	spliced, err := spliceStatus(wire.Protobuf, pod(text(1, "Pending")), text(1, "Running"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(pod(text(1, "Running")), spliced); diff != "" {
		t.Error(diff)
	}
}

// TestSpliceJSONKeepsOthers looks at text: spaces, order, escapes and unknown members outside of what changes stay as they are.
func TestSpliceJSONKeepsOthers(t *testing.T) {
	const before = ` {"metadata": {"name":"web-x","x":"<\u003c>"} ,"z":1e3, "endpoints" :[ {"zone":"é","addresses":["10.0.0.1"],` +
		`"conditions":{"ready":true,"serving":true, "new":[1, 2]},"targetRef":{"kind":"Pod","namespace":"shop","name":"a","uid":"a-1"}, "new":null},` +
		`{"addresses" : ["10.0.0.9"]}],"addressType":"IPv4"}`
	const after = ` {"metadata": {"name":"web-x","x":"<\u003c>"} ,"z":1e3, "endpoints" :[{"zone":"é","addresses":["10.0.0.2"],` +
		`"conditions":{"ready":false,"serving":false, "new":[1, 2]},"targetRef":{"kind":"Pod","namespace":"shop","name":"a","uid":"a-1"}, "new":null},` +
		`{"addresses" : ["10.0.0.9"]}],"addressType":"IPv4"}`
	c := codecOf(wire.JSON)
	got := c.showSlice([]byte(before), lookup(facts{ipv4: []string{"10.0.0.2"}}))
	if c.Err != nil {
		t.Fatal(c.Err)
	}
	if diff := cmp.Diff(after, string(got.item)); diff != "" {
		t.Error(diff)
	}

	status, err := (&corev1.PodStatus{Phase: corev1.PodRunning}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for before, after := range map[string]string{
		`{"metadata":{"uid":"1"},"status":{"phase":"Pending", "new":1} , "new":"\u00e9"}`: `{"metadata":{"uid":"1"},"status":{"phase":"Running"} , "new":"\u00e9"}`,
		`{"metadata":{"uid":"1"}}`: `{"metadata":{"uid":"1"},"status":{"phase":"Running"}}`,
		`{ }`:                      `{ "status":{"phase":"Running"}}`,
		`{"status":null,"spec":{"status":"mine"}}`: `{"status":{"phase":"Running"},"spec":{"status":"mine"}}`,
	} {
		got, err := spliceStatus(wire.JSON, []byte(before), status)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(after, string(got)); diff != "" {
			t.Error(diff)
		}
	}
}

// FuzzSplice sets fields of any message: the values come back, others stay, and setting them again changes nothing.
func FuzzSplice(f *testing.F) {
	three := sliceOf(3)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, enc := range encodings() {
		f.Add(enc == wire.JSON, encode(f, enc, three))
		f.Add(enc == wire.JSON, encode(f, enc, pod))
		f.Add(enc == wire.JSON, encode(f, enc, &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "10.0.0.1"}}}}}))
	}
	f.Add(false, unknown())
	f.Add(true, []byte(`{"endpoints":null,"endpoints":[]}`))
	f.Fuzz(func(t *testing.T, inJSON bool, b []byte) {
		enc := wire.Protobuf
		if inJSON {
			enc = wire.JSON
		}
		if _, err := wire.ParseItem(enc, b); err != nil {
			t.Skip() // a replica holds nothing else
		}
		before := bytes.Clone(b)
		splicePod(t, enc, b)
		spliceEndpoints(t, enc, b)
		if !bytes.Equal(before, b) {
			t.Error("the stored bytes have changed")
		}
	})
}

func splicePod(t *testing.T, enc wire.Encoding, pod []byte) {
	status := text(1, "Running")
	once, err := spliceStatus(enc, pod, status)
	if err != nil {
		return
	}
	meta, _ := wire.ParseItem(enc, pod)
	after, err := wire.ParseItem(enc, once)
	if err != nil {
		t.Fatalf("spliced pod can't be read: %v", err)
	}
	if diff := cmp.Diff(meta.Meta, after.Meta); diff != "" {
		t.Error(diff)
	}
	got, err := decodeStatus(enc, once)
	if err != nil {
		t.Fatal(err)
	}
	if got.Phase != corev1.PodRunning {
		t.Errorf("phase is %q", got.Phase)
	}
	twice, err := spliceStatus(enc, once, status)
	if err != nil || !bytes.Equal(once, twice) {
		t.Errorf("splicing again: %v\n%q\n%q", err, once, twice)
	}
	// Without its status the pod is what it was.
	c := codecOf(enc)
	if bare, was := c.With(once, podStatus), c.With(pod, podStatus); enc == wire.Protobuf && !bytes.Equal(bare, was) {
		t.Errorf("more than the status has changed:\n%q\n%q", was, bare)
	}
}

func spliceEndpoints(t *testing.T, enc wire.Encoding, item []byte) {
	all := lookup(facts{ipv4: []string{"10.1.1.1"}, ipv6: []string{"fd00::9"}, ready: true})
	all.uid = func([]byte) bool { return true }
	all.pod = func(target) (facts, bool) {
		return facts{ipv4: []string{"10.1.1.1"}, ipv6: []string{"fd00::9"}, ready: true}, true
	}
	for _, show := range []func(*codec, []byte, look) shown{(*codec).showSlice, (*codec).showEndpoints} {
		c := codecOf(enc)
		once := show(c, item, all)
		if c.Err != nil {
			continue
		}
		if enc == wire.Protobuf {
			quick := all
			quick.uid = func(uid []byte) bool {
				return slices.ContainsFunc(once.changed, func(t target) bool { return t.uid == string(uid) })
			}
			if got := show(codecOf(enc), item, quick); !bytes.Equal(got.item, once.item) {
				t.Errorf("the quick look misses some:\n%q\n%q", once.item, got.item)
			}
		}
		if len(once.changed) == 0 {
			if !bytes.Equal(once.item, item) {
				t.Errorf("no endpoint has changed, and bytes have:\n%q\n%q", item, once.item)
			}
			continue
		}
		if _, err := wire.ParseItem(enc, once.item); err != nil {
			t.Fatalf("the result can't be read: %v", err)
		}
		twice := show(c, once.item, all)
		if c.Err != nil || len(twice.changed) > 0 {
			t.Errorf("%v: not settled after once: %v\n%q\n%q", c.Err, twice.changed, item, once.item)
		}
	}
}

// sliceOf returns a slice of n pods that no test has in its overlay, but for shop/a.
func sliceOf(n int) *discoveryv1.EndpointSlice {
	yes, node := true, "edge"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-x", UID: "1", ResourceVersion: "7", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range n {
		name := "pod-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		if i == 0 {
			name = "a"
		}
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{"10.0.0.1"},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: new(bool)},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: name, UID: types.UID(name + "-1")},
			NodeName:   &node,
		})
	}
	return s
}

// BenchmarkApply shows what an object costs that the overlay does not concern, and one that it does.
func BenchmarkApply(b *testing.B) {
	w := newWorld(b)
	defer w.close()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a", UID: "a-1", ResourceVersion: "5"}}
	apply := func(name string, kind Kind, enc wire.Encoding, key Key, item []byte, concerned bool) {
		b.Run(name+"/"+enc.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, changed, err := w.overlay.Apply(kind, enc, key, item); err != nil || changed != concerned {
					b.Fatalf("changed %t, error %v", changed, err)
				}
			}
		})
	}
	for _, enc := range encodings() {
		apply("empty-overlay/slice", EndpointSlices, enc, Key{"shop", "web-x"}, encode(b, enc, sliceOf(100)), false)
	}
	if _, err := w.overlay.Patch(b.Context(), wire.JSON, encode(b, wire.JSON, pod), []byte(`{"status":{"podIP":"10.0.0.2"}}`)); err != nil {
		b.Fatal(err)
	}
	others := sliceOf(100)
	others.Endpoints[0].TargetRef.UID = "a-2"
	for _, enc := range encodings() {
		item, err := json.Marshal(pod)
		if enc == wire.Protobuf {
			item, err = pod.Marshal()
		}
		if err != nil {
			b.Fatal(err)
		}
		apply("other/pod", Pods, enc, Key{"shop", "b"}, item, false)
		apply("other/slice", EndpointSlices, enc, Key{"shop", "web-x"}, encode(b, enc, others), false)
		apply("concerned/pod", Pods, enc, Key{"shop", "a"}, item, true)
		apply("concerned/slice", EndpointSlices, enc, Key{"shop", "web-x"}, encode(b, enc, sliceOf(100)), true)
	}
}
