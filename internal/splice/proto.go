package splice

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// protoFormat is protobuf, as the API server writes it: fields in the order of their numbers.
type protoFormat struct{}

// Found is one field in a message.
type Found struct {
	Number protowire.Number
	Type   protowire.Type
	Raw    []byte // with tag and length
	Value  []byte
}

// NextField takes the first field of a message that is not empty.
func NextField(message []byte) (f Found, rest []byte, err error) {
	num, typ, head := protowire.ConsumeTag(message)
	if head < 0 {
		return f, nil, malformed(head)
	}
	n := protowire.ConsumeFieldValue(num, typ, message[head:])
	if n < 0 {
		return f, nil, malformed(n)
	}
	f = Found{Number: num, Type: typ, Raw: message[:head+n], Value: message[head : head+n]}
	if typ == protowire.BytesType {
		f.Value, _ = protowire.ConsumeBytes(f.Value)
	}
	return f, message[head+n:], nil
}

func malformed(code int) error {
	return fmt.Errorf("%w protobuf: %w", ErrMalformed, protowire.ParseError(code))
}

func (p protoFormat) All(message []byte, f Field) ([][]byte, error) {
	want := f
	var values [][]byte
	for len(message) > 0 {
		got, rest, err := NextField(message)
		if err != nil {
			return nil, err
		}
		message = rest
		if got.Number != want.Number {
			continue
		}
		if got.Type != want.Type {
			return nil, fmt.Errorf("%w protobuf: %s has wire type %d", ErrMalformed, want.Key, got.Type)
		}
		values = append(values, got.Value)
	}
	return values, nil
}

func (p protoFormat) Set(message []byte, f Field, values [][]byte) ([]byte, error) {
	want := f
	out := make([]byte, 0, len(message)+64)
	written := false
	write := func() {
		if written {
			return
		}
		written = true
		for _, value := range values {
			out = protowire.AppendTag(out, want.Number, want.Type)
			if want.Type == protowire.BytesType {
				out = protowire.AppendVarint(out, uint64(len(value)))
			}
			out = append(out, value...)
		}
	}
	for len(message) > 0 {
		got, rest, err := NextField(message)
		if err != nil {
			return nil, err
		}
		message = rest
		if got.Number >= want.Number {
			write()
		}
		if got.Number != want.Number {
			out = append(out, got.Raw...)
		}
	}
	write()
	return out, nil
}

func (p protoFormat) Label(message []byte, f Field, key string) (string, error) {
	entries, err := p.All(message, f)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		var pair [3]string // by field number
		for len(entry) > 0 {
			got, rest, err := NextField(entry)
			if err != nil {
				return "", err
			}
			if got.Number < protowire.Number(len(pair)) {
				pair[got.Number] = string(got.Value)
			}
			entry = rest
		}
		if pair[1] == key {
			return pair[2], nil
		}
	}
	return "", nil
}

func (p protoFormat) SetLabel(message []byte, f Field, key, value string) ([]byte, error) {
	entries, err := p.All(message, f)
	if err != nil {
		return nil, err
	}
	changed := make([][]byte, len(entries))
	for i, entry := range entries {
		names, err := p.All(entry, Message(1, ""))
		if err != nil {
			return nil, err
		}
		changed[i] = entry
		if len(names) > 0 && string(names[len(names)-1]) == key {
			if changed[i], err = p.Set(entry, Message(2, ""), [][]byte{[]byte(value)}); err != nil {
				return nil, err
			}
		}
	}
	return p.Set(message, f, changed)
}

func (p protoFormat) Mentions(message []byte, has func([]byte) bool, path ...Field) bool {
	want := path[0]
	for len(message) > 0 {
		got, rest, err := NextField(message)
		if err != nil {
			return false
		}
		message = rest
		if got.Number != want.Number || got.Type != want.Type {
			continue
		}
		if len(path) == 1 && has(got.Value) || len(path) > 1 && p.Mentions(got.Value, has, path[1:]...) {
			return true
		}
	}
	return false
}

func (protoFormat) Read(value []byte, to any) error {
	switch to := to.(type) {
	case *string:
		*to = string(value)
		return nil
	case interface{ Unmarshal([]byte) error }:
		if err := to.Unmarshal(value); err != nil {
			return fmt.Errorf("%w protobuf: %w", ErrMalformed, err)
		}
		return nil
	}
	panic(fmt.Sprintf("splice: protobuf has no %T here", to))
}

func (protoFormat) Write(v any) []byte {
	switch v := v.(type) {
	case string:
		return []byte(v)
	case bool:
		return protowire.AppendVarint(nil, protowire.EncodeBool(v))
	case int32:
		return protowire.AppendVarint(nil, uint64(int64(v)))
	default:
		panic(fmt.Sprintf("splice: protobuf has no %T here", v))
	}
}
