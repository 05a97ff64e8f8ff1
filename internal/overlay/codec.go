package overlay

import (
	"google.golang.org/protobuf/encoding/protowire"

	"yurt/internal/wire"
)

// field is a field of one of the messages that are read or changed. What is done to a message is written once, in these; a
// format knows how they look.
type field uint8

const (
	metadata field = iota + 1
	metaLabels
	podStatus
	serviceSpec

	sliceAddressType
	sliceEndpoints
	endpointAddresses
	endpointConditions
	endpointTarget
	endpointNode
	conditionReady
	conditionServing
	conditionTerminating

	subsets
	subsetReady
	subsetNotReady
	addressIP
	addressTarget
	addressNode

	refUID
)

// spec is how a field looks on the wire.
type spec struct {
	num      protowire.Number
	typ      protowire.Type
	repeated bool
	key      string
}

var specs = [...]spec{
	metadata:    {1, protowire.BytesType, false, "metadata"},
	metaLabels:  {11, protowire.BytesType, true, "labels"},
	podStatus:   {3, protowire.BytesType, false, "status"},
	serviceSpec: {2, protowire.BytesType, false, "spec"},

	sliceAddressType:     {4, protowire.BytesType, false, "addressType"},
	sliceEndpoints:       {2, protowire.BytesType, true, "endpoints"},
	endpointAddresses:    {1, protowire.BytesType, true, "addresses"},
	endpointConditions:   {2, protowire.BytesType, false, "conditions"},
	endpointTarget:       {4, protowire.BytesType, false, "targetRef"},
	endpointNode:         {6, protowire.BytesType, false, "nodeName"},
	conditionReady:       {1, protowire.VarintType, false, "ready"},
	conditionServing:     {2, protowire.VarintType, false, "serving"},
	conditionTerminating: {3, protowire.VarintType, false, "terminating"},

	subsets:        {2, protowire.BytesType, true, "subsets"},
	subsetReady:    {1, protowire.BytesType, true, "addresses"},
	subsetNotReady: {2, protowire.BytesType, true, "notReadyAddresses"},
	addressIP:      {1, protowire.BytesType, false, "ip"},
	addressTarget:  {2, protowire.BytesType, false, "targetRef"},
	addressNode:    {4, protowire.BytesType, false, "nodeName"},

	refUID: {4, protowire.BytesType, false, "uid"},
}

func (f field) spec() spec { return specs[f] }

// format is an encoding of messages. A value is what a field holds, apart from its name and length: the payload of a
// protobuf field, or JSON text. A message is a value too.
type format interface {
	// all returns the values of a field: those of a repeated one in their order, of another one at most one.
	all(message []byte, f field) ([][]byte, error)
	// set returns the message with these values of the field instead of those that it has; every other byte stays. The
	// message itself is not touched.
	set(message []byte, f field, values [][]byte) ([]byte, error)
	// label returns the value of one key of a map from string to string.
	label(message []byte, f field, key string) (string, error)
	// mentions reports whether one of the values that the path leads to satisfies has. It is quick, it may say yes where it
	// is not so, and no about a message that is malformed.
	mentions(message []byte, has func(value []byte) bool, path ...field) bool
	// read reads a value into a *string, or a message into a type of k8s.io/api.
	read(value []byte, to any) error
	// write makes a value of a string or a bool.
	write(v any) []byte
}

// codec reads and changes messages of one format. It keeps the first error, after which its results mean nothing.
type codec struct {
	format
	err error
}

func codecOf(enc wire.Encoding) *codec {
	if enc == wire.Protobuf {
		return &codec{format: protoFormat{}}
	}
	return &codec{format: jsonFormat{}}
}

func (c *codec) keep(err error) {
	if c.err == nil {
		c.err = err
	}
}

// many returns all values of a field.
func (c *codec) many(message []byte, f field) [][]byte {
	values, err := c.all(message, f)
	c.keep(err)
	return values
}

// one returns the value of a field that is there at most once, or nil.
func (c *codec) one(message []byte, f field) []byte {
	if values := c.many(message, f); len(values) > 0 {
		return values[len(values)-1] // in protobuf the last one counts
	}
	return nil
}

func (c *codec) text(message []byte, f field) string {
	var s string
	if value := c.one(message, f); value != nil {
		c.keep(c.read(value, &s))
	}
	return s
}

// with returns a message with other values of a field.
func (c *codec) with(message []byte, f field, values ...[]byte) []byte {
	changed, err := c.set(message, f, values)
	c.keep(err)
	return changed
}
