package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Field numbers of the messages that are read: runtime.Unknown, runtime.TypeMeta, metav1.WatchEvent, metav1.ListMeta
// and metav1.ObjectMeta. Every object has its ObjectMeta, and every list its ListMeta, in field 1.
const (
	metadataField = 1
	itemsField    = 2

	unknownTypeMeta        = 1
	unknownRaw             = 2
	unknownContentEncoding = 3
	unknownContentType     = 4

	typeMetaAPIVersion = 1
	typeMetaKind       = 2

	eventType   = 1
	eventObject = 2

	listMetaSelfLink           = 1
	listMetaResourceVersion    = 2
	listMetaContinue           = 3
	listMetaRemainingItemCount = 4

	objectMetaName            = 1
	objectMetaNamespace       = 3
	objectMetaUID             = 5
	objectMetaResourceVersion = 6
	objectMetaAnnotations     = 12
)

const (
	// protoMagic begins every protobuf object that stands alone.
	protoMagic = "k8s\x00"
	// unknownTrailer is the end of every runtime.Unknown: no contentEncoding and no contentType.
	unknownTrailer = "\x1a\x00\x22\x00"
)

// field is one field of a protobuf message.
type field struct {
	num   int
	wire  byte
	value uint64 // of a varint
	bytes []byte // of a length-delimited field
}

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// message is what is left to read of a protobuf message.
type message []byte

// next takes the next field.
func (m *message) next() (field, error) {
	tag, err := m.varint()
	if err != nil {
		return field{}, err
	}
	f := field{num: int(tag >> 3), wire: byte(tag & 7)}
	if tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return f, fmt.Errorf("%w protobuf: field number %d", ErrMalformed, tag>>3)
	}
	switch f.wire {
	case wireVarint:
		f.value, err = m.varint()
	case wireFixed64:
		f.bytes, err = m.take(8)
	case wireFixed32:
		f.bytes, err = m.take(4)
	case wireBytes:
		var n uint64
		if n, err = m.varint(); err == nil {
			f.bytes, err = m.take(n)
		}
	default:
		err = fmt.Errorf("%w protobuf: wire type %d", ErrMalformed, f.wire)
	}
	return f, err
}

func (m *message) varint() (uint64, error) {
	v, n := binary.Uvarint(*m)
	switch {
	case n == 0:
		return 0, fmt.Errorf("%w protobuf", ErrTruncated)
	case n < 0:
		return 0, fmt.Errorf("%w protobuf: varint of more than 64 bits", ErrMalformed)
	}
	*m = (*m)[n:]
	return v, nil
}

func (m *message) take(n uint64) ([]byte, error) {
	if n > uint64(len(*m)) {
		return nil, fmt.Errorf("%w protobuf: %d bytes where %d should be", ErrTruncated, len(*m), n)
	}
	b := (*m)[:n:n]
	*m = (*m)[n:]
	return b, nil
}

// want checks that a field that is read has the wire type that it must have.
func (f field) want(wire byte) error {
	if f.wire != wire {
		return fmt.Errorf("%w protobuf: field %d has wire type %d, not %d", ErrMalformed, f.num, f.wire, wire)
	}
	return nil
}

// text reads a string.
func (f field) text(to *string) error {
	if err := f.want(wireBytes); err != nil {
		return err
	}
	*to = string(f.bytes)
	return nil
}

// number reads an int64; what an int32 is on the wire is one too.
func (f field) number(to *int64) error {
	if err := f.want(wireVarint); err != nil {
		return err
	}
	*to = int64(f.value)
	return nil
}

// parseProtoItem reads the metadata of a bare message, and checks that its fields are well-formed.
func parseProtoItem(b []byte) (Meta, error) {
	var meta Meta
	var seen bool
	for m := message(b); len(m) > 0; {
		f, err := m.next()
		if err != nil {
			return meta, err
		}
		if f.num != metadataField {
			continue
		}
		if seen {
			return meta, fmt.Errorf("%w protobuf: metadata comes twice", ErrMalformed)
		}
		seen = true
		if err := f.want(wireBytes); err != nil {
			return meta, err
		}
		if err := meta.parseProto(f.bytes); err != nil {
			return meta, fmt.Errorf("metadata: %w", err)
		}
	}
	return meta, nil
}

func (m *Meta) parseProto(rest message) error {
	for len(rest) > 0 {
		f, err := rest.next()
		if err != nil {
			return err
		}
		switch f.num {
		case objectMetaName:
			err = f.text(&m.Name)
		case objectMetaNamespace:
			err = f.text(&m.Namespace)
		case objectMetaUID:
			err = f.text(&m.UID)
		case objectMetaResourceVersion:
			err = f.text(&m.ResourceVersion)
		case objectMetaAnnotations:
			err = m.parseAnnotation(f)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Meta) parseAnnotation(entry field) error {
	if err := entry.want(wireBytes); err != nil {
		return err
	}
	var key, value []byte
	for rest := message(entry.bytes); len(rest) > 0; {
		f, err := rest.next()
		if err != nil {
			return err
		}
		switch f.num {
		case 1:
			key = f.bytes
		case 2:
			value = f.bytes
		}
	}
	if string(key) == initialEventsEnd {
		m.InitialEventsEnd = string(value) == "true"
	}
	return nil
}

// parseTypeMeta reads a runtime.TypeMeta.
func parseTypeMeta(m message) (TypeMeta, error) {
	var tm TypeMeta
	for len(m) > 0 {
		f, err := m.next()
		if err != nil {
			return tm, err
		}
		switch f.num {
		case typeMetaAPIVersion:
			err = f.text(&tm.APIVersion)
		case typeMetaKind:
			err = f.text(&tm.Kind)
		}
		if err != nil {
			return tm, err
		}
	}
	return tm, nil
}

// parseUnknown takes a protobuf object out of its wrapping.
func parseUnknown(b []byte) (TypeMeta, []byte, error) {
	var tm TypeMeta
	if len(b) < len(protoMagic) || string(b[:len(protoMagic)]) != protoMagic {
		return tm, nil, fmt.Errorf("%w: no protobuf magic", ErrNotObject)
	}
	m := message(b[len(protoMagic):])
	f, err := m.next()
	if err != nil {
		return tm, nil, err
	}
	if f.num != unknownTypeMeta || f.wire != wireBytes {
		return tm, nil, fmt.Errorf("%w: protobuf field %d where the type should be", ErrNotObject, f.num)
	}
	if tm, err = parseTypeMeta(f.bytes); err != nil {
		return tm, nil, err
	}
	if f, err = m.next(); err != nil {
		return tm, nil, err
	}
	if f.num != unknownRaw || f.wire != wireBytes {
		return tm, nil, fmt.Errorf("%w: protobuf field %d where the object should be", ErrNotObject, f.num)
	}
	return tm, f.bytes, checkTrailer(m)
}

// checkTrailer checks that b is the end of a runtime.Unknown. Protobuf has no other end mark: a body without it may have been cut.
func checkTrailer(b []byte) error {
	switch {
	case string(b) == unknownTrailer:
		return nil
	case len(b) < len(unknownTrailer) && string(b) == unknownTrailer[:len(b)]:
		return fmt.Errorf("%w protobuf: the object's end is missing", ErrTruncated)
	}
	return fmt.Errorf("%w protobuf: an end of %d bytes that is no object's", ErrMalformed, len(b))
}

// varintSize returns the length of v as a varint.
func varintSize(v uint64) int64 { return int64(bits.Len64(v|1)+6) / 7 }

// delimitedSize returns the length of a length-delimited field of n bytes with a number below 16.
func delimitedSize(n int64) int64 { return 1 + varintSize(uint64(n)) + n }

// appendDelimited appends the beginning of a length-delimited field: everything but its n bytes.
func appendDelimited(dst []byte, num byte, n int64) []byte {
	return binary.AppendUvarint(append(dst, num<<3|wireBytes), uint64(n))
}

func appendString(dst []byte, num byte, s string) []byte {
	return append(appendDelimited(dst, num, int64(len(s))), s...)
}

func appendNumber(dst []byte, num byte, v int64) []byte {
	return binary.AppendUvarint(append(dst, num<<3|wireVarint), uint64(v))
}

func (tm TypeMeta) size() int64 {
	return delimitedSize(int64(len(tm.APIVersion))) + delimitedSize(int64(len(tm.Kind)))
}

// unknownSize returns the length of an object of n bytes with its wrapping.
func unknownSize(tm TypeMeta, n int64) int64 {
	return int64(len(protoMagic)) + delimitedSize(tm.size()) + delimitedSize(n) + int64(len(unknownTrailer))
}

// appendUnknownHead appends what stands before the n bytes of an object; unknownTrailer stands behind them.
func appendUnknownHead(dst []byte, tm TypeMeta, n int64) []byte {
	dst = append(dst, protoMagic...)
	dst = appendDelimited(dst, unknownTypeMeta, tm.size())
	dst = appendString(dst, typeMetaAPIVersion, tm.APIVersion)
	dst = appendString(dst, typeMetaKind, tm.Kind)
	return appendDelimited(dst, unknownRaw, n)
}

func appendUnknown(dst []byte, tm TypeMeta, item []byte) []byte {
	dst = appendUnknownHead(dst, tm, int64(len(item)))
	dst = append(dst, item...)
	return append(dst, unknownTrailer...)
}

// editProto appends a well-formed item with e made to its metadata.
func editProto(dst, item []byte, e edit) ([]byte, error) {
	seen := false
	for m := message(item); len(m) > 0; {
		begin := len(item) - len(m)
		f, err := m.next()
		if err != nil {
			return dst, err
		}
		if f.num != metadataField || f.wire != wireBytes {
			dst = append(dst, item[begin:len(item)-len(m)]...)
			continue
		}
		seen = true
		meta, err := editProtoMeta(nil, f.bytes, e)
		if err != nil {
			return dst, err
		}
		dst = appendDelimited(dst, metadataField, int64(len(meta)))
		dst = append(dst, meta...)
	}
	if !seen {
		return dst, errNoMetadata()
	}
	return dst, nil
}

func editProtoMeta(dst, meta []byte, e edit) ([]byte, error) {
	versioned, annotated := false, e.annotations != endAnnotation
	// Fields stand in the order of their numbers; what is added goes to its place.
	until := func(num int) {
		if !versioned && num > objectMetaResourceVersion {
			dst = appendString(dst, objectMetaResourceVersion, e.version)
			versioned = true
		}
		if !annotated && num > objectMetaAnnotations {
			entry := appendString(appendString(nil, 1, initialEventsEnd), 2, "true")
			dst = appendString(dst, objectMetaAnnotations, string(entry))
			annotated = true
		}
	}
	for m := message(meta); len(m) > 0; {
		begin := len(meta) - len(m)
		f, err := m.next()
		if err != nil {
			return dst, err
		}
		until(f.num)
		switch {
		case f.num == objectMetaResourceVersion:
			until(f.num + 1)
		case f.num == objectMetaAnnotations && e.annotations != keepAnnotations:
		default:
			dst = append(dst, meta[begin:len(meta)-len(m)]...)
		}
	}
	until(1 << 29)
	return dst, nil
}
