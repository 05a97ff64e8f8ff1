package wire

import (
	"bytes"
	"fmt"
)

// ParseObject reads one object as it is the answer to a get or a write. body stays as it is, and Raw may point into it. An
// answer may be a Status: its TypeMeta says so, and ParseStatus reads it.
//
// The error wraps ErrNotObject, ErrTruncated or ErrMalformed.
func ParseObject(enc Encoding, body []byte) (Item, TypeMeta, error) {
	if enc == Protobuf {
		return parseUnknownItem(body)
	}
	c := cursor{b: body}
	if c.space() != '{' {
		return Item{}, TypeMeta{}, fmt.Errorf("%w: %s", ErrNotObject, glimpse(body))
	}
	o, err := parseJSON(body)
	if err != nil {
		return Item{}, TypeMeta{}, err
	}
	if o.Kind == "" {
		return Item{}, TypeMeta{}, fmt.Errorf("%w: no kind", ErrNotObject)
	}
	if o.rest > 0 {
		body = bytes.Clone(body)
	}
	return Item{o.Meta, o.itemForm(body)}, o.TypeMeta, nil
}

func parseUnknownItem(body []byte) (Item, TypeMeta, error) {
	tm, raw, err := parseUnknown(body)
	if err != nil {
		return Item{}, tm, err
	}
	if tm.Kind == "" {
		return Item{}, tm, fmt.Errorf("%w: no kind", ErrNotObject)
	}
	if tm.IsStatus() {
		// The first field of a Status is a ListMeta.
		return Item{Raw: raw}, tm, nil
	}
	meta, err := parseProtoItem(raw)
	return Item{meta, raw}, tm, err
}

// ParseItem reads the metadata of an item.
func ParseItem(enc Encoding, raw []byte) (Item, error) {
	if enc == Protobuf {
		meta, err := parseProtoItem(raw)
		return Item{meta, raw}, err
	}
	o, err := parseJSON(raw)
	return Item{o.Meta, raw}, err
}

// AppendObject appends the body of the answer to a get: an item of type tm.
func AppendObject(dst []byte, enc Encoding, tm TypeMeta, item []byte) []byte {
	if enc == Protobuf {
		return appendUnknown(dst, tm, item)
	}
	return append(appendJSONObject(dst, tm, item), '\n')
}

// AppendItemAt appends an item with its resourceVersion replaced; every other byte stays as it is. A DELETED event needs
// it, whose object is the last one known, at the version of its deletion.
func AppendItemAt(dst []byte, enc Encoding, item []byte, resourceVersion string) ([]byte, error) {
	return appendEdited(dst, enc, item, edit{version: resourceVersion})
}

// edit is a change of an item's metadata.
type edit struct {
	version     string
	annotations annotations
}

// annotations says what becomes of an item's annotations.
type annotations uint8

const (
	keepAnnotations annotations = iota
	noAnnotation
	// endAnnotation leaves k8s.io/initial-events-end alone.
	endAnnotation
)

func errNoMetadata() error { return fmt.Errorf("%w: no metadata", ErrMalformed) }

func appendEdited(dst []byte, enc Encoding, item []byte, e edit) ([]byte, error) {
	if enc == Protobuf {
		return editProto(dst, item, e)
	}
	return editJSON(dst, item, e)
}

// glimpse returns the beginning of a body, for an error.
func glimpse(body []byte) string {
	if len(body) == 0 {
		return "an empty body"
	}
	const enough = 32
	if len(body) > enough {
		return fmt.Sprintf("a body that begins with %q", body[:enough])
	}
	return fmt.Sprintf("%q", body)
}
