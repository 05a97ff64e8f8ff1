package wire

import "errors"

// ParseObject reads one object as it is the answer to a get or a write. The item's Raw points into body. An answer may be a Status:
// its TypeMeta says so, and ParseStatus reads it. The error wraps ErrNotObject, ErrTruncated or ErrMalformed.
func ParseObject(enc Encoding, body []byte) (Item, TypeMeta, error) {
	return Item{}, TypeMeta{}, errors.ErrUnsupported
}

// ParseItem reads the metadata of an item in item form, as it is kept in a store.
func ParseItem(enc Encoding, raw []byte) (Item, error) { return Item{}, errors.ErrUnsupported }

// AppendObject appends the body of the answer to a get: an item of type tm.
func AppendObject(dst []byte, enc Encoding, tm TypeMeta, item []byte) []byte { return dst }

// AppendItemAt appends an item with its resourceVersion replaced; every other byte stays as it is. A DELETED event needs it,
// whose object is the last one known, at the version of its deletion.
func AppendItemAt(dst []byte, enc Encoding, item []byte, resourceVersion string) ([]byte, error) {
	return dst, errors.ErrUnsupported
}
