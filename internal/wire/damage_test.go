package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// someServers are enough for what does not differ from kind to kind.
func someServers(t testing.TB) map[string]server {
	pod := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	return map[string]server{
		"json":     builtin(t, pod, JSON, 1),
		"protobuf": builtin(t, pod, Protobuf, 1),
		"custom":   custom(1),
		"partial":  partial(t, Protobuf, 1),
	}
}

// TestTruncatedListFails cuts lists at every byte.
func TestTruncatedListFails(t *testing.T) {
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			body := s.list(t, []runtime.Object{s.newObject(0), s.newObject(1)}, ListMeta{ResourceVersion: "42"})
			body = bytes.TrimSuffix(body, []byte("\n"))
			for n := range body {
				_, _, err := readAll(bytes.NewReader(body[:n]), s.enc)
				want := ErrTruncated
				if n == 0 {
					want = ErrNotList
				}
				if !errors.Is(err, want) {
					t.Fatalf("cut at byte %d of %d: %v, want %v", n, len(body), err, want)
				}
			}
			if _, _, err := readAll(bytes.NewReader(body), s.enc); err != nil {
				t.Errorf("not cut: %v", err)
			}
		})
	}
}

// TestTruncatedObjectFails cuts objects at every byte.
func TestTruncatedObjectFails(t *testing.T) {
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			body := bytes.TrimSuffix(s.encode(t, s.newObject(0)), []byte("\n"))
			for n := range body {
				if _, _, err := ParseObject(s.enc, body[:n]); !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrNotObject) {
					t.Fatalf("cut at byte %d of %d: %v", n, len(body), err)
				}
			}
		})
	}
}

// TestTruncatedStream cuts watch streams at every byte: the events before the cut come, and whether one was cut is said.
func TestTruncatedStream(t *testing.T) {
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			var stream []byte
			whole := map[int]int{0: 0} // where the stream may end, and how many events it has then
			for n := range 2 {
				stream = append(stream, s.watchEvent(t, watch.Added, s.newObject(n))...)
				whole[len(stream)] = n + 1
				whole[len(bytes.TrimSuffix(stream, []byte("\n")))] = n + 1
			}
			events := 0
			for n := range len(stream) + 1 {
				count, atEnd := whole[n]
				if atEnd {
					events = count
				}
				d := NewWatchDecoder(bytes.NewReader(stream[:n]), s.enc, 1<<20)
				got := 0
				_, err := d.Next()
				for ; err == nil; _, err = d.Next() {
					got++
				}
				want := io.ErrUnexpectedEOF
				if atEnd {
					want = io.EOF
				}
				if got != events || !errors.Is(err, want) {
					t.Fatalf("cut at byte %d of %d: %d events and %v, want %d and %v", n, len(stream), got, err, events, want)
				}
				if _, again := d.Next(); !errors.Is(again, err) {
					t.Fatalf("Next after the end: %v, want %v again", again, err)
				}
			}
		})
	}
}

// TestReaderErrorsComeThrough: what breaks the connection is neither a short list nor the end of a stream.
func TestReaderErrorsComeThrough(t *testing.T) {
	broken := errors.New("connection reset")
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			body := s.list(t, []runtime.Object{s.newObject(0)}, ListMeta{})
			for _, n := range []int{0, 1, len(body) / 2, len(body)} {
				r := io.MultiReader(bytes.NewReader(body[:n]), iotest.ErrReader(broken))
				if _, _, err := readAll(r, s.enc); !errors.Is(err, broken) {
					t.Errorf("list broken at byte %d: %v", n, err)
				}
			}
			event := s.watchEvent(t, watch.Added, s.newObject(0))
			for _, n := range []int{0, 1, len(event) / 2} {
				r := io.MultiReader(bytes.NewReader(event[:n]), iotest.ErrReader(broken))
				if _, err := NewWatchDecoder(r, s.enc, 1<<20).Next(); !errors.Is(err, broken) {
					t.Errorf("event broken at byte %d: %v", n, err)
				}
			}
			stop := errors.New("enough")
			_, err := ReadList(bytes.NewReader(body), s.enc, 1<<20, func(Item) error { return stop })
			if !errors.Is(err, stop) {
				t.Errorf("error of the callback: %v", err)
			}
		})
	}
}

// TestDamagedProtobuf is for protobuf what testdata/scripts is for JSON.
func TestDamagedProtobuf(t *testing.T) {
	pods := TypeMeta{"v1", "PodList"}
	meta := appendString(nil, metadataField, string(appendListMeta(nil, ListMeta{ResourceVersion: "42"})))
	named := appendString(nil, metadataField, string(appendString(nil, objectMetaName, "a")))
	item := appendString(nil, itemsField, string(named))
	list := func(parts ...[]byte) []byte { return appendUnknown(nil, pods, bytes.Join(parts, nil)) }
	tests := []struct {
		name string
		body []byte
		want error
	}{
		{"sound", list(meta, item), nil},
		{"empty", nil, ErrNotList},
		{"json", []byte(`{"kind":"PodList"}`), ErrNotList},
		{"short text", []byte(`{}`), ErrNotList},
		{"object", appendUnknown(nil, TypeMeta{"v1", "Pod"}, named), ErrNotList},
		{"status", AppendStatus(nil, Protobuf, Status{Code: 410}), ErrNotList},
		{"no type", appendUnknown(nil, TypeMeta{}, append(meta, item...)), ErrNotList},
		{"mixed list", appendUnknown(nil, TypeMeta{"v1", "List"}, append(meta, item...)), ErrNotList},
		{"v1beta1", appendUnknown(nil, TypeMeta{"meta.k8s.io/v1beta1", "PartialObjectMetadataList"}, append(meta, item...)), ErrNotList},
		{"no metadata", list(item), ErrMalformed},
		{"metadata behind", list(item, meta), ErrMalformed},
		{"metadata twice", list(meta, meta), ErrMalformed},
		{"unknown field", list(meta, item, appendString(nil, 3, "x")), ErrMalformed},
		{"item without name", list(meta, appendString(nil, itemsField, "\x0a\x00")), ErrMalformed},
		{"item without metadata", list(meta, appendString(nil, itemsField, "")), ErrMalformed},
		{"item beyond the list", list(meta, []byte{itemsField<<3 | wireBytes, 100}), ErrMalformed},
		{"item that is cut", list(meta, appendString(nil, itemsField, string(named[:len(named)-1]))), ErrTruncated},
		{"item with two metadata", list(meta, appendString(nil, itemsField, string(named)+string(named))), ErrMalformed},
		{"item with a group", list(meta, appendString(nil, itemsField, string(named)+"\x13\x14")), ErrMalformed},
		{"item with field 0", list(meta, appendString(nil, itemsField, string(named)+"\x00\x00")), ErrMalformed},
		{"name is a number", list(meta, appendString(nil, itemsField, "\x0a\x02\x08\x01")), ErrMalformed},
		{"endless length", append(append([]byte(protoMagic), unknownTypeMeta<<3|wireBytes), bytes.Repeat([]byte{0xff}, 11)...), ErrMalformed},
		{"huge type", appendDelimited([]byte(protoMagic), unknownTypeMeta, 1<<40), ErrTooLarge},
		{"huge item", list(meta, appendString(nil, itemsField, string(appendString(named, 2, strings.Repeat("x", 1<<20))))), ErrTooLarge},
		{"compressed", append(list(meta, item)[:len(list(meta, item))-4], "\x1a\x04gzip\x22\x00"...), ErrMalformed},
		{"bytes behind", append(list(meta, item), 0), ErrMalformed},
		{"two lists", append(list(meta, item), list(meta, item)...), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, items, err := readAll(bytes.NewReader(tt.body), Protobuf)
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err == nil && len(items) != 1 {
				t.Errorf("%d items, want 1", len(items))
			}
		})
	}
}

// TestProtobufStreamGoesOn: an event that can't be read costs that event.
func TestProtobufStreamGoesOn(t *testing.T) {
	frame := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	named := appendString(nil, objectMetaName, "a")
	item := appendString(nil, metadataField, string(appendString(named, objectMetaResourceVersion, "7")))
	pod := TypeMeta{"v1", "Pod"}
	sound := AppendEvent(nil, Protobuf, Added, pod, item)
	event := func(object string) []byte {
		return frame(appendString(appendString(nil, eventType, "ADDED"), eventObject, object))
	}
	unreadable := []struct {
		name  string
		frame []byte
		want  error
	}{
		{"empty frame", frame(nil), ErrMalformed},
		{"noise", frame([]byte("noise")), ErrMalformed},
		{"no object", frame(appendString(nil, eventType, "ADDED")), ErrMalformed},
		{"unknown type", frame(appendString(appendString(nil, eventType, "BENT"), eventObject, "")), ErrMalformed},
		{"empty object", event(""), ErrTruncated},
		{"bare object", event(string(appendString(nil, 1, string(item)))), ErrNotObject},
		{"two objects", event(strings.Repeat(string(appendString(nil, 1, string(appendUnknown(nil, pod, item)))), 2)), ErrMalformed},
		{"no kind", AppendEvent(nil, Protobuf, Added, TypeMeta{}, item), ErrNotObject},
		{"no name", AppendEvent(nil, Protobuf, Added, pod, []byte("\x0a\x03\x32\x017")), ErrMalformed},
		{"no version", AppendEvent(nil, Protobuf, Added, pod, appendString(nil, metadataField, string(named))), ErrMalformed},
		{"cut object", AppendEvent(nil, Protobuf, Added, pod, item[:len(item)-1]), ErrTruncated},
		{"too large", AppendEvent(nil, Protobuf, Added, pod, append(item, appendString(nil, 2, strings.Repeat("x", 5000))...)), ErrTooLarge},
	}
	for _, tt := range unreadable {
		t.Run(tt.name, func(t *testing.T) {
			stream := bytes.Join([][]byte{sound, tt.frame, sound}, nil)
			d := NewWatchDecoder(iotest.HalfReader(bytes.NewReader(stream)), Protobuf, 4096)
			if ev, err := d.Next(); err != nil || ev.Name != "a" {
				t.Errorf("first event: %v, %v", ev, err)
			}
			_, err := d.Next()
			var frameError *FrameError
			if !errors.As(err, &frameError) || frameError.Frame != 1 || !errors.Is(err, tt.want) {
				t.Errorf("error %v, want a FrameError of 1 with %v", err, tt.want)
			}
			if ev, err := d.Next(); err != nil || ev.Name != "a" {
				t.Errorf("event behind: %v, %v", ev, err)
			}
			if _, err := d.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("end: %v", err)
			}
		})
	}
	t.Run("no protobuf at all", func(t *testing.T) {
		d := NewWatchDecoder(strings.NewReader("<html>"), Protobuf, 4096)
		_, err := d.Next()
		var frameError *FrameError
		if !errors.Is(err, ErrMalformed) || errors.As(err, &frameError) {
			t.Errorf("error %v, want ErrMalformed and no FrameError", err)
		}
	})
}

// TestEventComesWhenItIsThere: the decoder does not wait for more than one event needs.
func TestEventComesWhenItIsThere(t *testing.T) {
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			silent := errors.New("nothing more to read")
			r := &refillable{empty: silent}
			d := NewWatchDecoder(r, s.enc, 1<<20)
			for n := range 3 {
				r.Write(bytes.TrimSuffix(s.watchEvent(t, watch.Added, s.newObject(n)), []byte("\n")))
				if _, err := d.Next(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := d.Next(); !errors.Is(err, silent) {
				t.Errorf("error %v, want %v", err, silent)
			}
		})
	}
}

// refillable is a stream that fails where it would have to wait.
type refillable struct {
	bytes.Buffer
	empty error
}

func (r *refillable) Read(p []byte) (int, error) {
	if r.Len() == 0 {
		return 0, r.empty
	}
	return r.Buffer.Read(p)
}

// TestWindowGivesMemoryBack: one large event does not cost its memory for the rest of the stream.
func TestWindowGivesMemoryBack(t *testing.T) {
	small := AppendEvent(nil, JSON, Added, TypeMeta{"v1", "Pod"}, []byte(`{"metadata":{"name":"a","resourceVersion":"1"}}`))
	large := bytes.Replace(small, []byte(`"a"`), fmt.Appendf(nil, "%q", strings.Repeat("a", 1<<20)), 1)
	r := io.MultiReader(bytes.NewReader(large), bytes.NewReader(small), bytes.NewReader(small))
	d := NewWatchDecoder(r, JSON, 2<<20)
	for range 3 {
		if _, err := d.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if got := cap(d.stream.buf); got > windowKeep {
		t.Errorf("the window keeps %d bytes", got)
	}
}

func TestEnvelope(t *testing.T) {
	envelopes := []Envelope{
		{},
		{List: TypeMeta{"v1", "PodList"}, Item: TypeMeta{"v1", "Pod"}},
		{List: TypeMeta{"example.com/v1", "Oxen"}, SortedKeys: true, TypedItems: true},
	}
	for _, e := range envelopes {
		b, err := e.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got Envelope
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for n := range b {
			if err := got.UnmarshalBinary(b[:n]); err == nil {
				t.Errorf("%d bytes of %d pass for an envelope", n, len(b))
			}
		}
		if err := got.UnmarshalBinary(append(b, 0)); err == nil {
			t.Error("an envelope with a byte behind it passes")
		}
	}
}

// TestStoredEnvelopeStaysReadable: envelopes are stored, so what was written once is read for ever.
func TestStoredEnvelopeStaysReadable(t *testing.T) {
	stored := []byte("\x01\x03\x0eexample.com/v1\x04Oxen\x0eexample.com/v1\x02Ox")
	want := Envelope{List: TypeMeta{"example.com/v1", "Oxen"}, Item: TypeMeta{"example.com/v1", "Ox"}, SortedKeys: true, TypedItems: true}
	var got Envelope
	if err := got.UnmarshalBinary(stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if b, _ := want.MarshalBinary(); !bytes.Equal(b, stored) {
		t.Errorf("written now: %q", b)
	}
}

// TestListWriterKeepsItsWord: a protobuf list whose items are not as long as was said is no list.
func TestListWriterKeepsItsWord(t *testing.T) {
	env := Envelope{List: TypeMeta{"v1", "PodList"}, Item: TypeMeta{"v1", "Pod"}}
	for _, off := range []int64{-1, 1} {
		w := NewListWriter(io.Discard, Protobuf, env, ListMeta{}, ItemSize(3)+off)
		err := w.WriteItem([]byte("abc"))
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			t.Errorf("%d bytes off: no error", off)
		}
	}
}

// TestListWriterTakesEitherForm: items are written as the list has them, whichever form they were kept in.
func TestListWriterTakesEitherForm(t *testing.T) {
	bare, typed := []byte(`{"metadata":{"name":"a"}}`), []byte(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}`)
	for _, typedItems := range []bool{false, true} {
		env := Envelope{List: TypeMeta{"v1", "PodList"}, Item: TypeMeta{"v1", "Pod"}, TypedItems: typedItems}
		want := string(bare)
		if typedItems {
			want = string(typed)
		}
		want = `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[` + want + "," + want + "]}\n"
		got := writeAll(t, JSON, List{Envelope: env}, []Item{{Raw: bare}, {Raw: typed}})
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("typed %v (-want +got):\n%s", typedItems, diff)
		}
	}
}
