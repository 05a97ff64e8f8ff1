package wire

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// readAll reads a list and keeps its items.
func readAll(r io.Reader, enc Encoding) (List, []Item, error) {
	var items []Item
	list, err := ReadList(r, enc, 1<<20, func(item Item) error {
		item.Raw = bytes.Clone(item.Raw)
		items = append(items, item)
		return nil
	})
	return list, items, err
}

func writeAll(t testing.TB, enc Encoding, list List, items []Item) []byte {
	t.Helper()
	var size int64
	for _, item := range items {
		size += ItemSize(len(item.Raw))
	}
	var body bytes.Buffer
	w := NewListWriter(&body, enc, list.Envelope, list.ListMeta, size)
	for _, item := range items {
		if err := w.WriteItem(item.Raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if enc == Protobuf && ListSize(list.Envelope, list.ListMeta, size) != int64(body.Len()) {
		t.Errorf("ListSize is %d, the list has %d bytes", ListSize(list.Envelope, list.ListMeta, size), body.Len())
	}
	return body.Bytes()
}

func diffBytes(t testing.TB, what string, want, got []byte) {
	t.Helper()
	if !bytes.Equal(want, got) {
		t.Errorf("%s is not the API server's\nwant %q\ngot  %q", what, want, got)
	}
}

// TestBytesAreTheServers holds what the package guarantees: lists, objects and watch streams taken apart and put together again are, byte for
// byte, what the API server's encoders make of the same objects.
func TestBytesAreTheServers(t *testing.T) {
	forEachServer(t, func(t *testing.T, s server) {
		for _, meta := range []ListMeta{
			{ResourceVersion: "8"},
			{ResourceVersion: "12345", Continue: "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTJ9<&>", RemainingItemCount: 1 << 40},
		} {
			for _, count := range []int{0, 1, 3} {
				checkList(t, s, meta, count)
			}
		}
		checkObject(t, s)
		checkWatch(t, s)
	})
}

func checkList(t *testing.T, s server, meta ListMeta, count int) {
	t.Helper()
	objects := []runtime.Object{}
	for n := range count {
		objects = append(objects, s.newObject(n))
	}
	body := s.list(t, objects, meta)
	for _, r := range []io.Reader{bytes.NewReader(body), iotest.OneByteReader(bytes.NewReader(body)), iotest.DataErrReader(bytes.NewReader(body))} {
		list, items, err := readAll(r, s.enc)
		if err != nil {
			t.Fatalf("%v\nof %q", err, body)
		}
		if diff := cmp.Diff(meta, list.ListMeta); diff != "" {
			t.Errorf("ListMeta (-want +got):\n%s", diff)
		}
		unknown := count == 0 && list.SortedKeys
		if list.Item != s.tm && !unknown {
			t.Errorf("items are %v, want %v", list.Item, s.tm)
		}
		if len(items) != count {
			t.Fatalf("%d items, want %d", len(items), count)
		}
		for i, obj := range objects {
			if diff := cmp.Diff(metaOf(t, obj), items[i].Meta); diff != "" {
				t.Errorf("item %d (-want +got):\n%s", i, diff)
			}
			diffBytes(t, "object", s.encode(t, obj), AppendObject(nil, s.enc, s.tm, items[i].Raw))
			diffBytes(t, "event", s.watchEvent(t, watch.Added, obj), AppendEvent(nil, s.enc, Added, s.tm, items[i].Raw))
		}
		diffBytes(t, "list", body, writeAll(t, s.enc, list, items))
	}
}

func checkObject(t *testing.T, s server) {
	t.Helper()
	obj := s.newObject(0)
	body := s.encode(t, obj)
	kept := bytes.Clone(body)
	item, tm, err := ParseObject(s.enc, body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(metaOf(t, obj), item.Meta); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
	if tm != s.tm {
		t.Errorf("object is a %v, want %v", tm, s.tm)
	}
	_, items, err := readAll(bytes.NewReader(s.list(t, []runtime.Object{obj}, ListMeta{})), s.enc)
	if err != nil {
		t.Fatal(err)
	}
	diffBytes(t, "item form", items[0].Raw, item.Raw)
	diffBytes(t, "body after ParseObject", kept, body)
	again, err := ParseItem(s.enc, item.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(item, again); diff != "" {
		t.Errorf("ParseItem (-want +got):\n%s", diff)
	}
	checkVersion(t, s, obj, item)
}

// checkVersion checks that AppendItemAt changes what the server would change.
func checkVersion(t *testing.T, s server, obj runtime.Object, item Item) {
	t.Helper()
	setVersion(t, obj, "99999999999")
	want, _, err := ParseObject(s.enc, s.encode(t, obj))
	if err != nil {
		t.Fatal(err)
	}
	got, err := AppendItemAt([]byte("dst"), s.enc, item.Raw, "99999999999")
	if err != nil {
		t.Fatal(err)
	}
	diffBytes(t, "item at another version", append([]byte("dst"), want.Raw...), got)
}

func checkWatch(t *testing.T, s server) {
	t.Helper()
	types := []struct {
		typ  EventType
		want watch.EventType
	}{{Added, watch.Added}, {Modified, watch.Modified}, {Deleted, watch.Deleted}}
	var stream []byte
	var objects []runtime.Object
	for n, typ := range types {
		obj := s.newObject(n)
		objects = append(objects, obj)
		stream = append(stream, s.watchEvent(t, typ.want, obj)...)
	}
	for _, r := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
		d := NewWatchDecoder(r, s.enc, 1<<20)
		var again []byte
		for n, typ := range types {
			ev, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			if ev.Type != typ.typ || ev.TypeMeta != s.tm {
				t.Errorf("event %d: %v of %v", n, ev.Type, ev.TypeMeta)
			}
			if diff := cmp.Diff(metaOf(t, objects[n]), ev.Meta); diff != "" {
				t.Errorf("event %d (-want +got):\n%s", n, diff)
			}
			again = AppendEvent(again, s.enc, ev.Type, ev.TypeMeta, ev.Raw)
		}
		if _, err := d.Next(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last event: %v, want EOF", err)
		}
		diffBytes(t, "stream", stream, again)
	}
}

// TestBookmarksAreTheServers makes bookmarks from each kind of bookmark that the server may have sent before.
func TestBookmarksAreTheServers(t *testing.T) {
	forEachServer(t, func(t *testing.T, s server) {
		for _, before := range []bool{false, true} {
			d := NewWatchDecoder(bytes.NewReader(s.bookmark(t, "7", before)), s.enc, 1<<20)
			template, err := d.Next()
			if err != nil {
				t.Fatal(err)
			}
			if template.Type != Bookmark || template.ResourceVersion != "7" || template.InitialEventsEnd != before {
				t.Errorf("bookmark read as %v", template.Meta)
			}
			for _, after := range []bool{false, true} {
				what := fmt.Sprintf("bookmark (initial events end %v) after one (%v)", after, before)
				want := s.bookmark(t, "31415926535", after)
				got, err := AppendBookmark(nil, s.enc, s.tm, template.Raw, "31415926535", after)
				if err != nil {
					t.Fatal(err)
				}
				diffBytes(t, what, want, got)

				got, err = AppendBookmark(nil, s.enc, s.tm, nil, "31415926535", after)
				if err != nil {
					t.Fatal(err)
				}
				ev, err := NewWatchDecoder(bytes.NewReader(got), s.enc, 1<<20).Next()
				if err != nil || ev.Type != Bookmark || ev.TypeMeta != s.tm || ev.Meta != (Meta{ResourceVersion: "31415926535", InitialEventsEnd: after}) {
					t.Errorf("%s without a template: %v, %v", what, ev, err)
				}
			}
		}
	})
}

func (s server) bookmark(t testing.TB, version string, initialEventsEnd bool) []byte {
	t.Helper()
	obj := s.empty()
	setVersion(t, obj, version)
	if initialEventsEnd {
		annotate(t, obj)
	}
	return s.watchEvent(t, watch.Bookmark, obj)
}

// TestObjectsWithoutLists are those that are only created or are part of others: TokenReview, Scale, Binding.
func TestObjectsWithoutLists(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	tested := 0
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		_, isObject := reflect.New(typ).Interface().(metav1.Object)
		if !isObject || gvk.Version == runtime.APIVersionInternal || slices.Contains(listKinds(), gvk) {
			continue
		}
		for _, enc := range []Encoding{JSON, Protobuf} {
			t.Run(fmt.Sprintf("%s/%s/%s", gvk.GroupVersion(), gvk.Kind, enc), func(t *testing.T) {
				s := builtin(t, gvk, enc, seed)
				obj := s.newObject(0)
				body := s.encode(t, obj)
				item, tm, err := ParseObject(enc, body)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(metaOf(t, obj), item.Meta); diff != "" || tm != s.tm {
					t.Errorf("a %v, want a %v (-want +got):\n%s", tm, s.tm, diff)
				}
				diffBytes(t, "object", body, AppendObject(nil, enc, tm, item.Raw))
			})
			tested++
		}
	}
	if tested == 0 {
		t.Error("no kind is without a list")
	}
}
