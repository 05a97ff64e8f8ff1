package wire

import (
	"encoding/binary"
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
func (t EventType) String() string {
	switch t {
	case Added:
		return "ADDED"
	case Modified:
		return "MODIFIED"
	case Deleted:
		return "DELETED"
	case Bookmark:
		return "BOOKMARK"
	case Error:
		return "ERROR"
	}
	return fmt.Sprintf("EventType(%d)", uint8(t))
}

func parseEventType(b []byte) (EventType, error) {
	switch string(b) {
	case "ADDED":
		return Added, nil
	case "MODIFIED":
		return Modified, nil
	case "DELETED":
		return Deleted, nil
	case "BOOKMARK":
		return Bookmark, nil
	case "ERROR":
		return Error, nil
	}
	return 0, fmt.Errorf("%w: event type %q", ErrMalformed, b)
}

// Event is one event of a watch stream.
type Event struct {
	Type EventType
	TypeMeta
	// Item is the object in item form. For Error it is a Status, which ParseStatus reads.
	Item
}

// FrameError says that one event of a watch stream could not be read. The stream goes on after it.
type FrameError struct {
	// Frame is the number of the event in its stream, from 0.
	Frame int
	Err   error
}

func (e *FrameError) Error() string { return fmt.Sprintf("read watch event %d: %v", e.Frame, e.Err) }
func (e *FrameError) Unwrap() error { return e.Err }

// WatchDecoder reads a watch stream.
type WatchDecoder struct {
	enc    Encoding
	stream jsonStream
	frame  int
	err    error
}

// NewWatchDecoder returns a decoder of the stream r whose events may each have maxFrame bytes.
func NewWatchDecoder(r io.Reader, enc Encoding, maxFrame int) *WatchDecoder {
	return &WatchDecoder{enc: enc, stream: jsonStream{window: newWindow(r, maxFrame)}}
}

// Next returns the next event. Its Raw is valid until the next call.
//
// The error is io.EOF where the stream ended between two events, wraps io.ErrUnexpectedEOF where it ended within
// one, and is a *FrameError if this event could not be read but the next one can. After any other error, which may be one of the
// underlying stream, there is no next event.
func (d *WatchDecoder) Next() (Event, error) {
	if d.err != nil {
		return Event{}, d.err
	}
	frame, err := d.nextFrame()
	number := d.frame
	d.frame++
	if err != nil && !errors.Is(err, ErrTooLarge) {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read watch event %d: %w", number, err)
		}
		d.err = err
		return Event{}, err
	}
	var ev Event
	if err == nil {
		ev, err = parseEvent(d.enc, frame)
	}
	if err != nil {
		return Event{}, &FrameError{number, err}
	}
	return ev, nil
}

// nextFrame returns the bytes of the next event. After ErrTooLarge the stream stands behind that event.
func (d *WatchDecoder) nextFrame() ([]byte, error) {
	if d.enc == Protobuf {
		return d.nextProtoFrame()
	}
	c, err := d.stream.peek()
	if err != nil {
		return nil, err
	}
	if c != '{' {
		return nil, fmt.Errorf("%w: %q where an event should be", ErrMalformed, c)
	}
	return d.stream.value()
}

// maxSkip is the largest frame that is skipped when it is too large to be read. No API server sends one by far; beyond it the
// stream is not protobuf.
const maxSkip = 256 << 20

func (d *WatchDecoder) nextProtoFrame() ([]byte, error) {
	if end, err := d.stream.atEnd(); err != nil {
		return nil, err
	} else if end {
		return nil, io.EOF
	}
	header, err := d.stream.next(4)
	if err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header)
	switch {
	case n > maxSkip:
		return nil, fmt.Errorf("%w: a frame of %d bytes", ErrMalformed, n)
	case int(n) > d.stream.limit:
		if err := d.stream.discard(int(n)); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrTooLarge, n, d.stream.limit)
	}
	return d.stream.next(int(n))
}

func parseEvent(enc Encoding, frame []byte) (Event, error) {
	parse := parseJSONEvent
	if enc == Protobuf {
		parse = parseProtoEvent
	}
	ev, err := parse(frame)
	switch {
	case err != nil:
	case ev.Kind == "":
		err = fmt.Errorf("%w: %s of an object without kind", ErrMalformed, ev.Type)
	case ev.Type == Error:
	case ev.ResourceVersion == "":
		err = fmt.Errorf("%w: %s without resourceVersion", ErrMalformed, ev.Type)
	case ev.Name == "" && ev.Type != Bookmark:
		err = fmt.Errorf("%w: %s without name", ErrMalformed, ev.Type)
	}
	return ev, err
}

func parseJSONEvent(frame []byte) (Event, error) {
	var ev Event
	var seen keySet
	var o jsonObject
	c := cursor{b: frame}
	for first := true; ; first = false {
		key, err := c.member(first)
		if err != nil {
			return ev, err
		}
		if key == nil {
			break
		}
		switch string(key) {
		case "type":
			err = seen.add(1)
			if err == nil {
				ev.Type, err = c.eventType()
			}
		case "object":
			err = seen.add(2)
			if err == nil {
				o, err = c.object()
			}
		default:
			err = c.skip(1)
		}
		if err != nil {
			return ev, err
		}
	}
	if seen != 1|2 {
		return ev, fmt.Errorf("%w: no type or no object", ErrMalformed)
	}
	ev.TypeMeta, ev.Item = o.TypeMeta, Item{o.Meta, o.itemForm(frame)}
	return ev, nil
}

func (c *cursor) eventType() (EventType, error) {
	t, err := c.text()
	if err != nil {
		return 0, err
	}
	return parseEventType(t.bytes())
}

func parseProtoEvent(frame []byte) (Event, error) {
	var ev Event
	var object message
	for m := message(frame); len(m) > 0; {
		f, err := m.next()
		if err != nil {
			return ev, err
		}
		switch f.num {
		case eventType:
			ev.Type, err = parseEventType(f.bytes)
		case eventObject:
			err = f.want(wireBytes)
			object = f.bytes
		}
		if err != nil {
			return ev, err
		}
	}
	if ev.Type == 0 || object == nil {
		return ev, fmt.Errorf("%w: no type or no object", ErrMalformed)
	}
	f, err := object.next() // of a RawExtension, which has one field
	if err != nil {
		return ev, err
	}
	if f.num != 1 || f.wire != wireBytes || len(object) > 0 {
		return ev, fmt.Errorf("%w: not one raw object", ErrMalformed)
	}
	ev.Item, ev.TypeMeta, err = parseUnknownItem(f.bytes)
	return ev, err
}

// AppendEvent appends one framed watch event about an item of type tm.
func AppendEvent(dst []byte, enc Encoding, typ EventType, tm TypeMeta, item []byte) []byte {
	if enc == Protobuf {
		return appendProtoEvent(dst, typ, tm, item)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, typ.String()...)
	dst = append(dst, `","object":`...)
	dst = appendJSONObject(dst, tm, item)
	return append(dst, "}\n"...)
}

func appendProtoEvent(dst []byte, typ EventType, tm TypeMeta, item []byte) []byte {
	object := unknownSize(tm, int64(len(item)))
	extension := delimitedSize(object)
	name := typ.String()
	dst = binary.BigEndian.AppendUint32(dst, uint32(delimitedSize(int64(len(name)))+delimitedSize(extension)))
	dst = appendString(dst, eventType, name)
	dst = appendDelimited(dst, eventObject, extension)
	dst = appendDelimited(dst, 1, object)
	return appendUnknown(dst, tm, item)
}

// AppendBookmark appends a framed bookmark at a version, with the annotation k8s.io/initial-events-end if
// initialEventsEnd is set. The template is the item of any bookmark of this collection that the API server sent, and gives the
// new one its shape, which differs between types; without one (nil) the bookmark has type and metadata only, which
// every client can read too.
func AppendBookmark(dst []byte, enc Encoding, tm TypeMeta, template []byte, resourceVersion string, initialEventsEnd bool) ([]byte, error) {
	if template == nil {
		template = []byte(`{"metadata":{}}`)
		if enc == Protobuf {
			template = appendDelimited(nil, metadataField, 0)
		}
	}
	e := edit{resourceVersion, noAnnotation}
	if initialEventsEnd {
		e.annotations = endAnnotation
	}
	item, err := appendEdited(nil, enc, template, e)
	if err != nil {
		return dst, fmt.Errorf("make bookmark of %s: %w", tm.Kind, err)
	}
	return AppendEvent(dst, enc, Bookmark, tm, item), nil
}

// AppendErrorEvent appends a framed event of type Error with a status.
func AppendErrorEvent(dst []byte, enc Encoding, s Status) []byte {
	return AppendEvent(dst, enc, Error, statusType(), s.item(enc))
}
