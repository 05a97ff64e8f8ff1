package wire

import (
	"errors"
	"fmt"
	"io"
)

// EventType is the type of a watch event.
type EventType uint8

// The types of watch events. The zero EventType is none of them.
const (
	Added EventType = iota + 1
	Modified
	Deleted
	Bookmark
	Error
)

// String returns the type as it is on the wire: ADDED.
func (t EventType) String() string { return "" }

// Event is one event of a watch stream.
type Event struct {
	Type EventType
	TypeMeta
	// Item is the object in item form. For Error it is a Status, which ParseStatus reads.
	Item
}

// FrameError says that one event of a watch stream could not be read. The stream goes on after it.
type FrameError struct {
	// Frame counts the events of the stream from 0.
	Frame int
	Err   error
}

func (e *FrameError) Error() string { return fmt.Sprintf("watch event %d: %v", e.Frame, e.Err) }
func (e *FrameError) Unwrap() error { return e.Err }

// WatchDecoder reads a watch stream.
type WatchDecoder struct{}

// NewWatchDecoder returns a decoder of the stream r whose events may each have maxFrame bytes.
func NewWatchDecoder(r io.Reader, enc Encoding, maxFrame int) *WatchDecoder { return &WatchDecoder{} }

// Next returns the next event. Its Raw is valid until the next call.
//
// The error is io.EOF where the stream ended between two events, io.ErrUnexpectedEOF where it ended within one, a
// *FrameError if this event could not be read but the next one can, else an error of the stream, after which there is
// no next event.
func (d *WatchDecoder) Next() (Event, error) { return Event{}, errors.ErrUnsupported }

// AppendEvent appends one framed watch event about an item of type tm.
func AppendEvent(dst []byte, enc Encoding, typ EventType, tm TypeMeta, item []byte) []byte { return dst }

// AppendBookmark appends a framed bookmark at a version, with the annotation k8s.io/initial-events-end if
// initialEventsEnd is set. The template is the item of any bookmark of this collection that the API server sent, and gives the
// new one its shape, which differs between types; without one (nil) the bookmark has type and metadata only, which
// every client can read too.
func AppendBookmark(dst []byte, enc Encoding, tm TypeMeta, template []byte, resourceVersion string, initialEventsEnd bool) ([]byte, error) {
	return dst, errors.ErrUnsupported
}

// AppendErrorEvent appends a framed event of type Error with a status.
func AppendErrorEvent(dst []byte, enc Encoding, s Status) []byte { return dst }
