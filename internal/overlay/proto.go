package overlay

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"yurt/internal/wire"
)

// protoFormat is protobuf, as the API server writes it: fields in the order of their numbers.
type protoFormat struct{}

// protoField is one field in a message.
type protoField struct {
	num   protowire.Number
	typ   protowire.Type
	raw   []byte // with tag and length
	value []byte
}

// next takes the first field of a message that is not empty.
func (protoFormat) next(message []byte) (f protoField, rest []byte, err error) {
	num, typ, head := protowire.ConsumeTag(message)
	if head < 0 {
		return f, nil, malformed(head)
	}
	n := protowire.ConsumeFieldValue(num, typ, message[head:])
	if n < 0 {
		return f, nil, malformed(n)
	}
	f = protoField{num: num, typ: typ, raw: message[:head+n], value: message[head : head+n]}
	if typ == protowire.BytesType {
		f.value, _ = protowire.ConsumeBytes(f.value)
	}
	return f, message[head+n:], nil
}

func malformed(code int) error {
	return fmt.Errorf("%w protobuf: %w", wire.ErrMalformed, protowire.ParseError(code))
}

func (p protoFormat) all(message []byte, f field) ([][]byte, error) {
	want := f.spec()
	var values [][]byte
	for len(message) > 0 {
		got, rest, err := p.next(message)
		if err != nil {
			return nil, err
		}
		message = rest
		if got.num != want.num {
			continue
		}
		if got.typ != want.typ {
			return nil, fmt.Errorf("%w protobuf: %s has wire type %d", wire.ErrMalformed, want.key, got.typ)
		}
		values = append(values, got.value)
	}
	return values, nil
}

func (p protoFormat) set(message []byte, f field, values [][]byte) ([]byte, error) {
	want := f.spec()
	out := make([]byte, 0, len(message)+64)
	written := false
	write := func() {
		if written {
			return
		}
		written = true
		for _, value := range values {
			out = protowire.AppendTag(out, want.num, want.typ)
			if want.typ == protowire.BytesType {
				out = protowire.AppendVarint(out, uint64(len(value)))
			}
			out = append(out, value...)
		}
	}
	for len(message) > 0 {
		got, rest, err := p.next(message)
		if err != nil {
			return nil, err
		}
		message = rest
		if got.num >= want.num {
			write()
		}
		if got.num != want.num {
			out = append(out, got.raw...)
		}
	}
	write()
	return out, nil
}

func (p protoFormat) label(message []byte, f field, key string) (string, error) {
	entries, err := p.all(message, f)
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		var pair [3]string // by field number
		for len(entry) > 0 {
			got, rest, err := p.next(entry)
			if err != nil {
				return "", err
			}
			if got.num < protowire.Number(len(pair)) {
				pair[got.num] = string(got.value)
			}
			entry = rest
		}
		if pair[1] == key {
			return pair[2], nil
		}
	}
	return "", nil
}

func (p protoFormat) mentions(message []byte, has func([]byte) bool, path ...field) bool {
	want := path[0].spec()
	for len(message) > 0 {
		got, rest, err := p.next(message)
		if err != nil {
			return false
		}
		message = rest
		if got.num != want.num || got.typ != want.typ {
			continue
		}
		if len(path) == 1 && has(got.value) || len(path) > 1 && p.mentions(got.value, has, path[1:]...) {
			return true
		}
	}
	return false
}

func (protoFormat) read(value []byte, to any) error {
	switch to := to.(type) {
	case *string:
		*to = string(value)
		return nil
	case interface{ Unmarshal([]byte) error }:
		if err := to.Unmarshal(value); err != nil {
			return fmt.Errorf("%w protobuf: %w", wire.ErrMalformed, err)
		}
		return nil
	}
	panic(fmt.Sprintf("overlay: protobuf has no %T here", to))
}

func (protoFormat) write(v any) []byte {
	switch v := v.(type) {
	case string:
		return []byte(v)
	case bool:
		return protowire.AppendVarint(nil, protowire.EncodeBool(v))
	default:
		panic(fmt.Sprintf("overlay: protobuf has no %T here", v))
	}
}
