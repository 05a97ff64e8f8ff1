// Package wire splits and stitches the bodies that a Kubernetes API server sends: objects, lists and
// watch streams, in JSON and in protobuf.
//
// It reads of each object its kind and a few fields of its metadata, and passes the object's own bytes on as they
// came. So it works for every kind and every version of Kubernetes, keeps the fields that it does not know, and
// needs memory for one object where it reads a list of any length.
//
// It guarantees that what it writes is, byte for byte, what an API server writes for the same objects, and that a body
// that is cut short or damaged is reported as an error and never as a shorter list.
//
// It never decodes an object, never changes one but for the resourceVersion and the bookmark annotation that
// its caller asks for, and knows nothing of HTTP beyond media types.
package wire

import (
	"errors"
	"fmt"

	"yurt/internal/splice"
)

// Errors of reading, wrapped with what was read. All but ErrTooLarge mean that the answer did not come from a
// sound API server, or not completely.
var (
	// ErrNotList: the body is something else than a list that can be split into items: nothing at all, HTML, a
	// Status, a Table, a list of another shape.
	ErrNotList = errors.New("not a list")
	// ErrNotObject: the body is not an API object: it is empty, HTML, or has no kind.
	ErrNotObject = errors.New("not an API object")
	// ErrTruncated: the body ends before the list or object does.
	ErrTruncated = errors.New("truncated")
	// ErrTooLarge: one item or frame is larger than the caller allows.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed: the bytes are not JSON or protobuf, go on after their end, or lack what every API object has.
	ErrMalformed = splice.ErrMalformed
)

// Encoding is the format in which objects travel.
type Encoding uint8

// The encodings. The zero Encoding is none of them.
const (
	JSON Encoding = iota + 1
	Protobuf
)

func (e Encoding) String() string {
	switch e {
	case JSON:
		return "json"
	case Protobuf:
		return "protobuf"
	}
	return fmt.Sprintf("Encoding(%d)", uint8(e))
}

// TypeMeta is what says of which type an object is.
type TypeMeta struct{ APIVersion, Kind string }

// Meta is what of an object's metadata is needed to keep it in a collection.
type Meta struct {
	Namespace, Name, UID, ResourceVersion string
	// InitialEventsEnd says that the annotation k8s.io/initial-events-end is "true": the object is the
	// bookmark that ends the initial events of a watch.
	InitialEventsEnd bool
}

// Item is one object in the form that it has inside a list.
//
// In protobuf this is the bare message. In JSON it is the object as the API server puts it into a list: objects of
// Go types (all built-in kinds) without kind and apiVersion, objects of custom resources and PartialObjectMetadata with
// them. Functions that take an item accept it with or without its type and write what the place requires.
type Item struct {
	Meta
	Raw []byte
}

// ListMeta is what differs from one answer to the next of the same list.
type ListMeta struct {
	ResourceVersion string
	Continue        string
	// RemainingItemCount is 0 when the server does not say it.
	RemainingItemCount int64
}

// Envelope is what a list is apart from its items and its ListMeta. It stays the same as long as the collection exists.
type Envelope struct {
	// List is the type of the list: {v1 PodList}.
	List TypeMeta
	// Item is the type of its items. It is zero when nothing tells it: in an empty list of a custom
	// resource, whose list kind may be any word.
	Item TypeMeta
	// SortedKeys says that in JSON the keys of the list are in alphabetical order, as for custom resources, not
	// in the order of a Go type.
	SortedKeys bool
	// TypedItems says that in JSON the items carry their kind and apiVersion.
	TypedItems bool
}

// List is what ReadList found around the items.
type List struct {
	Envelope
	ListMeta
}
