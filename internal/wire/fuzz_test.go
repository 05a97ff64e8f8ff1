package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// checkReadTwice reads a list in one piece and byte by byte, which may make no difference, and writes and reads it again.
// It returns nil if the list can't be read.
func checkReadTwice(t *testing.T, enc Encoding, body []byte) []Item {
	list, items, err := readAll(bytes.NewReader(body), enc)
	slow, slowItems, slowErr := readAll(iotest.OneByteReader(bytes.NewReader(body)), enc)
	if (err == nil) != (slowErr == nil) {
		t.Fatalf("read at once: %v; byte by byte: %v", err, slowErr)
	}
	for _, sentinel := range []error{ErrNotList, ErrTruncated, ErrTooLarge, ErrMalformed} {
		if errors.Is(err, sentinel) != errors.Is(slowErr, sentinel) {
			t.Fatalf("read at once: %v; byte by byte: %v", err, slowErr)
		}
	}
	if diff := cmp.Diff(list, slow) + cmp.Diff(items, slowItems); diff != "" {
		t.Fatalf("read at once and byte by byte differ:\n%s", diff)
	}
	if err != nil {
		return nil
	}
	again, itemsAgain, err := readAll(bytes.NewReader(writeAll(t, enc, list, items)), enc)
	if err != nil {
		t.Fatalf("read what was written: %v", err)
	}
	if len(items) == 0 {
		again.TypedItems, again.Item = list.TypedItems, list.Item // an empty list does not tell
	}
	if diff := cmp.Diff(list, again) + cmp.Diff(items, itemsAgain); diff != "" {
		t.Fatalf("written and read again (-want +got):\n%s", diff)
	}
	if items == nil {
		items = []Item{}
	}
	return items
}

func seedLists(f *testing.F, enc Encoding) {
	for _, s := range someServers(f) {
		if s.enc != enc {
			continue
		}
		f.Add(s.list(f, []runtime.Object{s.newObject(0), s.newObject(1)}, ListMeta{ResourceVersion: "42"}))
		f.Add(s.list(f, nil, ListMeta{ResourceVersion: "42", Continue: "abc", RemainingItemCount: 3}))
		f.Add(s.list(f, []runtime.Object{s.empty()}, ListMeta{}))
	}
}

// FuzzReadListJSON compares with encoding/json.
func FuzzReadListJSON(f *testing.F) {
	seedLists(f, JSON)
	f.Add([]byte(`{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"42"},"items":[{"metadata":{"name":"a","namespace":"ns","uid":"u1","annotations":{"k8s.io/initial-events-end":"true"}},"spec":[-1.5e+7,null,true,false,"\u00e4\"\\"]}]}`))
	f.Add([]byte(` { "apiVersion" : "e/v1" , "items" : [ { "apiVersion":"e/v1", "kind":"Ox", "metadata":{"name":"a"} } ] , "kind" : "Oxen" } `))
	f.Fuzz(func(t *testing.T, body []byte) {
		items := checkReadTwice(t, JSON, body)
		if items == nil {
			return
		}
		var judge map[string]json.RawMessage
		if err := json.Unmarshal(body, &judge); err != nil {
			t.Fatalf("read %q: %v", body, err)
		}
		var raws []json.RawMessage
		if err := json.Unmarshal(judge["items"], &raws); err != nil {
			t.Fatal(err)
		}
		if len(raws) != len(items) {
			t.Fatalf("%d items, want %d", len(items), len(raws))
		}
		for i, raw := range raws {
			if !bytes.Equal(raw, items[i].Raw) {
				t.Errorf("item %d is %q, want %q", i, items[i].Raw, raw)
			}
			compareJSONMeta(t, raw, items[i].Meta)
		}
	})
}

func compareJSONMeta(t *testing.T, raw []byte, got Meta) {
	t.Helper()
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	var metadata map[string]json.RawMessage
	if err := json.Unmarshal(object["metadata"], &metadata); err != nil {
		t.Fatal(err)
	}
	text := func(key string) (s string) {
		if metadata[key] != nil {
			if err := json.Unmarshal(metadata[key], &s); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	want := Meta{
		Namespace: text("namespace"), Name: text("name"), UID: text("uid"), ResourceVersion: text("resourceVersion"),
		InitialEventsEnd: got.InitialEventsEnd,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metadata of %s (-want +got):\n%s", raw, diff)
	}
}

// FuzzReadListProtobuf compares with the decoder of PartialObjectMetadata, which every object is one of.
func FuzzReadListProtobuf(f *testing.F) {
	seedLists(f, Protobuf)
	f.Fuzz(func(t *testing.T, body []byte) {
		items := checkReadTwice(t, Protobuf, body)
		if items == nil {
			return
		}
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(body[len(protoMagic):]); err != nil {
			t.Fatal(err)
		}
		var judge metav1.PartialObjectMetadataList
		if err := judge.Unmarshal(unknown.Raw); err != nil {
			return // by something in the metadata that is not read here
		}
		if len(judge.Items) != len(items) {
			t.Fatalf("%d items, want %d", len(items), len(judge.Items))
		}
		for i := range judge.Items {
			if diff := cmp.Diff(metaOf(t, &judge.Items[i]), items[i].Meta); diff != "" {
				t.Errorf("item %d (-want +got):\n%s", i, diff)
			}
		}
	})
}

// FuzzWatchDecoder reads streams at once and byte by byte, and each event written again.
func FuzzWatchDecoder(f *testing.F) {
	for _, s := range someServers(f) {
		var stream []byte
		for _, typ := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
			stream = append(stream, s.watchEvent(f, typ, s.newObject(0))...)
		}
		stream = append(stream, s.bookmark(f, "7", true)...)
		stream = append(stream, AppendErrorEvent(nil, s.enc, Status{Code: 410, Reason: "Expired", Message: "no"})...)
		f.Add(s.enc == Protobuf, stream)
	}
	f.Fuzz(func(t *testing.T, protobuf bool, stream []byte) {
		enc := JSON
		if protobuf {
			enc = Protobuf
		}
		const limit = 1000
		fast := NewWatchDecoder(bytes.NewReader(stream), enc, limit)
		slow := NewWatchDecoder(iotest.OneByteReader(bytes.NewReader(stream)), enc, limit)
		for range len(stream) + 1 {
			ev, err := fast.Next()
			slowEv, slowErr := slow.Next()
			if (err == nil) != (slowErr == nil) || err != nil && err.Error() != slowErr.Error() {
				t.Fatalf("read at once: %v; byte by byte: %v", err, slowErr)
			}
			var frame *FrameError
			switch {
			case errors.As(err, &frame):
				continue
			case err != nil:
				return
			}
			if diff := cmp.Diff(ev, slowEv); diff != "" {
				t.Fatalf("read at once and byte by byte differ:\n%s", diff)
			}
			checkEventAgain(t, enc, ev)
		}
		t.Fatal("more events than bytes")
	})
}

func checkEventAgain(t *testing.T, enc Encoding, ev Event) {
	t.Helper()
	written := AppendEvent(nil, enc, ev.Type, ev.TypeMeta, ev.Raw)
	d := NewWatchDecoder(bytes.NewReader(written), enc, 1<<20)
	again, err := d.Next()
	if err != nil {
		t.Fatalf("%q: %v", written, err)
	}
	if diff := cmp.Diff(ev, again); diff != "" {
		t.Fatalf("written and read again (-want +got):\n%s", diff)
	}
	if _, err := d.Next(); !errors.Is(err, io.EOF) {
		t.Fatalf("%q: %v where the end should be", written, err)
	}
	if ev.Type == Error {
		return
	}
	bookmark, err := AppendBookmark(nil, enc, ev.TypeMeta, ev.Raw, "99", true)
	if errors.Is(err, ErrMalformed) {
		return // a template without metadata
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err = NewWatchDecoder(bytes.NewReader(bookmark), enc, 1<<20).Next()
	if err != nil || again.ResourceVersion != "99" || !again.InitialEventsEnd {
		t.Fatalf("bookmark %q: %v, %v", bookmark, again, err)
	}
}

// FuzzParseObject parses objects, and what is made of them again.
func FuzzParseObject(f *testing.F) {
	for _, s := range someServers(f) {
		f.Add(s.enc == Protobuf, s.encode(f, s.newObject(0)))
		f.Add(s.enc == Protobuf, AppendStatus(nil, s.enc, Status{Code: 410, Reason: "Expired", Details: &StatusDetails{Causes: []StatusCause{{}}}}))
	}
	f.Fuzz(func(t *testing.T, protobuf bool, body []byte) {
		enc := JSON
		if protobuf {
			enc = Protobuf
		}
		kept := bytes.Clone(body)
		item, tm, err := ParseObject(enc, body)
		if !bytes.Equal(kept, body) {
			t.Fatalf("ParseObject changes %q to %q", kept, body)
		}
		if err != nil {
			return
		}
		if enc == JSON && !json.Valid(body) {
			t.Fatalf("%q is not JSON", body)
		}
		again, tmAgain, err := ParseObject(enc, AppendObject(nil, enc, tm, item.Raw))
		if err != nil || tmAgain != tm {
			t.Fatalf("parsed again: %v, %v", tmAgain, err)
		}
		if diff := cmp.Diff(item, again); diff != "" {
			t.Fatalf("parsed again (-want +got):\n%s", diff)
		}
		if tm.IsStatus() {
			checkStatusAgain(t, enc, item)
			return
		}
		moved, err := AppendItemAt(nil, enc, item.Raw, "99")
		if errors.Is(err, ErrMalformed) {
			return // an object without metadata
		}
		if err != nil {
			t.Fatal(err)
		}
		want := item
		want.ResourceVersion, want.Raw = "99", moved
		if got, err := ParseItem(enc, moved); err != nil || cmp.Diff(want, got) != "" {
			t.Fatalf("at another version %q: %v\n%s", moved, err, cmp.Diff(want, got))
		}
	})
}

func checkStatusAgain(t *testing.T, enc Encoding, item Item) {
	t.Helper()
	s, err := ParseStatus(enc, item.Raw)
	if err != nil {
		return
	}
	again, err := ParseStatus(enc, s.item(enc))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again); diff != "" {
		t.Fatalf("status parsed again (-want +got):\n%s", diff)
	}
}
