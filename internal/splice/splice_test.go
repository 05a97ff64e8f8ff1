package splice

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of a message for tests.
var (
	text    = Message(1, "text")
	numbers = List(2, "numbers")
	flag    = Varint(3, "flag")
	entries = List(4, "entries")
)

// message has all of them and, in between, what nobody here knows.
func message(f Format) []byte {
	if f == JSON() {
		return []byte(`{ "other":1.50,"text":"a","numbers":["x", "y"],"flag":true, "entries":{"k":"v","l":"w"},"last":null}`)
	}
	b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "a")
	for _, s := range []string{"x", "y"} {
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), s)
	}
	b = protowire.AppendVarint(protowire.AppendTag(b, 3, protowire.VarintType), 1)
	for _, pair := range [][2]string{{"k", "v"}, {"l", "w"}} {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), pair[0])
		entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), pair[1])
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), entry)
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, 3000, protowire.Fixed64Type), 7)
}

// TestSetAndBack: a field has what it was set to, and every other byte is as it was,
// so that the message is the same again when the old value is back.
func TestSetAndBack(t *testing.T) {
	for name, f := range map[string]Format{"protobuf": Protobuf(), "JSON": JSON()} {
		for field, value := range map[Field]any{text: "much longer than before", flag: false, numbers: "z"} {
			e := &Editor{Format: f}
			before := message(f)
			old, original := e.Many(before, field), bytes.Clone(before)
			changed := e.With(before, field, f.Write(value))
			if got := e.Many(changed, field); len(got) != 1 || !bytes.Equal(got[0], f.Write(value)) {
				t.Errorf("%s, %s: %q", name, field.Key, got)
			}
			if !bytes.Equal(before, original) {
				t.Errorf("%s, %s: the message itself was changed", name, field.Key)
			}
			back := e.With(changed, field, old...)
			if name == "JSON" && field == numbers {
				original = bytes.Replace(original, []byte(`"x", "y"`), []byte(`"x","y"`), 1) // a list is written anew
			}
			if !bytes.Equal(back, original) || e.Err != nil {
				t.Errorf("%s, %s: %q, want %q (%v)", name, field.Key, back, original, e.Err)
			}
		}
	}
}

// TestSetLabel changes the value of one key and no other.
func TestSetLabel(t *testing.T) {
	for name, f := range map[string]Format{"protobuf": Protobuf(), "JSON": JSON()} {
		before := message(f)
		changed, err := f.SetLabel(before, entries, "l", "\u00e9\n")
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"k": "v", "l": "\u00e9\n", "m": ""} {
			if got, err := f.Label(changed, entries, key); got != want || err != nil {
				t.Errorf("%s: %s is %q, %v", name, key, got, err)
			}
		}
		back, err := f.SetLabel(changed, entries, "l", "w")
		if err != nil || !bytes.Equal(back, before) {
			t.Errorf("%s: %q, %v", name, back, err)
		}
		same, err := f.SetLabel(before, entries, "m", "new")
		if err != nil || !bytes.Equal(same, before) {
			t.Errorf("%s: a key that is not there: %q, %v", name, same, err)
		}
	}
}

// TestMalformed: what can't be read is an error, and the first one is kept.
func TestMalformed(t *testing.T) {
	for name, f := range map[string]Format{"protobuf": Protobuf(), "JSON": JSON()} {
		for _, bad := range []string{"\x0a\x05ab", `{"text":`, `{"text":1,"text":2}`, "[]", "\x08\x01"} {
			e := &Editor{Format: f}
			e.With([]byte(bad), text, f.Write("x"))
			e.Many([]byte(bad), text)
			if e.Err != nil && !errors.Is(e.Err, ErrMalformed) {
				t.Errorf("%s, %q: %v", name, bad, e.Err)
			}
			if e.Err == nil {
				t.Errorf("%s, %q: no error", name, bad)
			}
		}
	}
}
