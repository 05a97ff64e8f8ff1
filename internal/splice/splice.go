// Package splice reads and changes single fields of messages, in protobuf and in
// JSON, without knowing the messages.
//
// It guarantees that every byte which is not of the field that is set stays as it
// is, fields that nobody here knows included, and that a message which is handed
// in is not touched. It never checks more of a message than it has to read.
package splice

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed: the bytes are not what they should be.
var ErrMalformed = errors.New("malformed")

// Field is how a field of a message looks in both encodings. Which message has it
// is for the caller to know.
type Field struct {
	Number   protowire.Number
	Type     protowire.Type
	Repeated bool
	Key      string // in JSON
}

// Message is a field that is there at most once and has a message, a text or bytes.
func Message(number protowire.Number, key string) Field {
	return Field{Number: number, Type: protowire.BytesType, Key: key}
}

// Varint is a field that is there at most once and has a number or a flag.
func Varint(number protowire.Number, key string) Field {
	return Field{Number: number, Type: protowire.VarintType, Key: key}
}

// List is a field that may be there several times.
func List(number protowire.Number, key string) Field {
	return Field{Number: number, Type: protowire.BytesType, Repeated: true, Key: key}
}

// Format is an encoding of messages. A value is what a field holds, apart from its name and length: the payload of a
// protobuf field, or JSON text. A message is a value too.
type Format interface {
	// All returns the values of a field: those of a repeated one in their order, of another one at most one.
	All(message []byte, f Field) ([][]byte, error)
	// Set returns the message with these values of the field instead of those that it has; every other byte stays. The
	// message itself is not touched.
	Set(message []byte, f Field, values [][]byte) ([]byte, error)
	// Label returns the value of one key of a map from string to string.
	Label(message []byte, f Field, key string) (string, error)
	// SetLabel returns the message with another value of a key that the map has; every other byte stays. A map without the
	// key stays as it is.
	SetLabel(message []byte, f Field, key, value string) ([]byte, error)
	// Mentions reports whether one of the values that the path leads to satisfies has. It is quick, it may say yes where it
	// is not so, and no about a message that is malformed.
	Mentions(message []byte, has func(value []byte) bool, path ...Field) bool
	// Read reads a value into a *string, or a message into a type of k8s.io/api.
	Read(value []byte, to any) error
	// Write makes a value of a string, a bool or an int32.
	Write(v any) []byte
}

// Protobuf is the protobuf encoding.
func Protobuf() Format { return protoFormat{} }

// JSON is the JSON encoding.
func JSON() Format { return jsonFormat{} }

// Editor reads and changes messages of one format. It keeps the first error, after
// which its results mean nothing.
type Editor struct {
	Format
	Err error
}

// Keep keeps an error, if it is the first.
func (e *Editor) Keep(err error) {
	if e.Err == nil {
		e.Err = err
	}
}

// Many returns all values of a field.
func (e *Editor) Many(message []byte, f Field) [][]byte {
	values, err := e.All(message, f)
	e.Keep(err)
	return values
}

// One returns the value of a field that is there at most once, or nil.
func (e *Editor) One(message []byte, f Field) []byte {
	if values := e.Many(message, f); len(values) > 0 {
		return values[len(values)-1] // in protobuf the last one counts
	}
	return nil
}

// Text returns the text of a field, or nothing.
func (e *Editor) Text(message []byte, f Field) string {
	var s string
	if value := e.One(message, f); value != nil {
		e.Keep(e.Read(value, &s))
	}
	return s
}

// With returns a message with other values of a field.
func (e *Editor) With(message []byte, f Field, values ...[]byte) []byte {
	changed, err := e.Set(message, f, values)
	e.Keep(err)
	return changed
}
