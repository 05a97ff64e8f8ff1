package wire

import (
	"errors"
	"io"
)

// ReadList reads the body of a list and calls fn for each item in order. The item's Raw is valid until fn returns; its
// other fields may be kept. At no time is more than one item in memory.
//
// The error wraps ErrNotList, ErrTruncated, ErrTooLarge (an item longer than maxItem bytes) or ErrMalformed, or is
// the error of r or fn. Items were then delivered, but they are not the list: only a nil error says that the list was complete.
func ReadList(r io.Reader, enc Encoding, maxItem int, fn func(Item) error) (List, error) {
	return List{}, errors.ErrUnsupported
}

// ItemSize returns how many bytes of a protobuf list an item of n bytes takes.
func ItemSize(n int) int64 { return 0 }

// ListSize returns the length of a protobuf list body: its Content-Length. itemsSize is the sum of the
// items' ItemSize.
func ListSize(env Envelope, meta ListMeta, itemsSize int64) int64 { return 0 }

// ListWriter writes the body of a list. It buffers.
type ListWriter struct{}

// NewListWriter returns a writer of a list to w. Only protobuf needs itemsSize, the sum of the items' ItemSize.
func NewListWriter(w io.Writer, enc Encoding, env Envelope, meta ListMeta, itemsSize int64) *ListWriter {
	return &ListWriter{}
}

// WriteItem writes the next item, in item form.
func (w *ListWriter) WriteItem(item []byte) error { return errors.ErrUnsupported }

// Close ends the list and flushes it. It does not close the underlying writer. Without an error from Close the body is
// complete; with one it must not reach a client as a complete body.
func (w *ListWriter) Close() error { return errors.ErrUnsupported }

// MarshalBinary returns the envelope in a stable form for storage.
func (e Envelope) MarshalBinary() ([]byte, error) { return nil, errors.ErrUnsupported }

// UnmarshalBinary reads what MarshalBinary wrote.
func (e *Envelope) UnmarshalBinary(b []byte) error { return errors.ErrUnsupported }
