package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ReadList reads the body of a list and calls fn for each item in order. The item's Raw is valid until fn returns; its
// other fields may be kept. At no time is more than one item in memory.
//
// The error wraps ErrNotList, ErrTruncated, ErrTooLarge (an item longer than maxItem bytes) or ErrMalformed, or is
// the error of r or fn. Items were then delivered, but they are not the list: only a nil error says that the list was complete.
//
// Of the list's own fields the ones in List are read, others are skipped: they describe one answer, not the collection.
func ReadList(r io.Reader, enc Encoding, maxItem int, fn func(Item) error) (List, error) {
	var list List
	var err error
	if enc == Protobuf {
		list, err = readProtoList(newWindow(r, maxItem), fn)
	} else {
		list, err = readJSONList(newWindow(r, maxItem), fn)
	}
	if err != nil {
		return List{}, fmt.Errorf("read list: %w", err)
	}
	return list, nil
}

// checkListType checks that a type is one of a list that can be split.
func checkListType(tm TypeMeta) error {
	switch {
	case tm.Kind == "" || tm.APIVersion == "":
		return fmt.Errorf("%w: no kind or no apiVersion", ErrNotList)
	case tm.IsStatus():
		return fmt.Errorf("%w: a Status", ErrNotList)
	case tm == TypeMeta{"v1", "List"}:
		return fmt.Errorf("%w: a v1 List, whose items are of any kind", ErrNotList)
	case tm.APIVersion == "meta.k8s.io/v1beta1":
		// The fields of its PartialObjectMetadataList have other numbers.
		return fmt.Errorf("%w: a %s of %s", ErrNotList, tm.Kind, tm.APIVersion)
	}
	return nil
}

// itemType returns the type of the items of a list of a Go type: in PodList they are Pods.
func itemType(list TypeMeta) TypeMeta {
	return TypeMeta{list.APIVersion, strings.TrimSuffix(list.Kind, "List")}
}

// ItemSize returns how many bytes of a protobuf list an item of n bytes takes.
func ItemSize(n int) int64 { return delimitedSize(int64(n)) }

// ListSize returns the length of a protobuf list body: its Content-Length. itemsSize is the sum of the
// items' ItemSize.
func ListSize(env Envelope, meta ListMeta, itemsSize int64) int64 {
	return unknownSize(env.List, delimitedSize(listMetaSize(meta))+itemsSize)
}

// ListWriter writes the body of a list. It buffers.
type ListWriter struct {
	w   *bufio.Writer
	enc Encoding
	env Envelope
	// tail is what stands behind the items.
	tail []byte
	// head is room for what stands before an item.
	head []byte
	// left is what the items still to come will take of a protobuf list.
	left  int64
	items int
}

// NewListWriter returns a writer of a list to w. Only protobuf needs itemsSize, the sum of the items' ItemSize.
func NewListWriter(w io.Writer, enc Encoding, env Envelope, meta ListMeta, itemsSize int64) *ListWriter {
	l := &ListWriter{w: bufio.NewWriterSize(w, 16<<10), enc: enc, env: env, left: itemsSize}
	var head []byte
	switch {
	case enc == Protobuf:
		metaSize := listMetaSize(meta)
		head = appendUnknownHead(nil, env.List, delimitedSize(metaSize)+itemsSize)
		head = appendDelimited(head, metadataField, metaSize)
		head = appendListMeta(head, meta)
		l.tail = []byte(unknownTrailer)
	case env.SortedKeys:
		head = append(head, `{"apiVersion":`...)
		head = appendText(head, env.List.APIVersion)
		head = append(head, `,"items":`...)
		l.tail = append(l.tail, `,"kind":`...)
		l.tail = appendText(l.tail, env.List.Kind)
		l.tail = append(l.tail, `,"metadata":`...)
		l.tail = appendListMetaJSON(l.tail, meta, true)
		l.tail = append(l.tail, "}\n"...)
	default:
		head = append(head, `{"kind":`...)
		head = appendText(head, env.List.Kind)
		head = append(head, `,"apiVersion":`...)
		head = appendText(head, env.List.APIVersion)
		head = append(head, `,"metadata":`...)
		head = appendListMetaJSON(head, meta, false)
		head = append(head, `,"items":`...)
		l.tail = append(l.tail, "}\n"...)
	}
	l.w.Write(head) // bufio keeps the error for later
	return l
}

// WriteItem writes the next item, in item form.
func (l *ListWriter) WriteItem(item []byte) error {
	if l.enc == Protobuf {
		if l.left -= ItemSize(len(item)); l.left < 0 {
			return fmt.Errorf("write list: %s: the items are larger than was said", l.env.List.Kind)
		}
		l.head = appendDelimited(l.head[:0], itemsField, int64(len(item)))
	} else {
		l.head, item = l.jsonItem(l.head[:0], item)
	}
	l.items++
	l.w.Write(l.head)
	_, err := l.w.Write(item)
	return err
}

// jsonItem returns an item in two parts, with or without its type as this list has it.
func (l *ListWriter) jsonItem(head, item []byte) ([]byte, []byte) {
	separator := byte(',')
	if l.items == 0 {
		separator = '['
	}
	head = append(head, separator)
	switch typed := hasTypeJSON(item); {
	case typed && !l.env.TypedItems:
		if o, err := parseJSON(item); err == nil && o.rest > 0 {
			return append(head, '{'), item[o.rest+1 : o.end]
		}
	case !typed && l.env.TypedItems:
		return appendJSONObject(head, l.env.Item, item), nil
	}
	return head, item
}

// Close ends the list and flushes it. It does not close the underlying writer. Without an error from Close the body is
// complete; with one it must not reach a client as a complete body.
func (l *ListWriter) Close() error {
	if l.enc == Protobuf && l.left != 0 {
		return fmt.Errorf("write list: %s: %d bytes of items are missing", l.env.List.Kind, l.left)
	}
	switch {
	case l.enc == Protobuf:
	case l.items > 0:
		l.w.WriteByte(']')
	case l.env.List.Kind == partialKind+"List":
		l.w.WriteString("null") // as the API server has it, for this kind alone
	default:
		l.w.WriteString("[]")
	}
	l.w.Write(l.tail)
	return l.w.Flush()
}

// The first byte of a marshalled envelope is its version, the second holds flags.
const (
	envelopeVersion    = 1
	envelopeSortedKeys = 1
	envelopeTypedItems = 2
)

// MarshalBinary returns the envelope in a stable form for storage.
func (e Envelope) MarshalBinary() ([]byte, error) {
	b := []byte{envelopeVersion, 0}
	if e.SortedKeys {
		b[1] |= envelopeSortedKeys
	}
	if e.TypedItems {
		b[1] |= envelopeTypedItems
	}
	for _, s := range []string{e.List.APIVersion, e.List.Kind, e.Item.APIVersion, e.Item.Kind} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return b, nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (e *Envelope) UnmarshalBinary(b []byte) error {
	if len(b) < 2 || b[0] != envelopeVersion || b[1] > envelopeSortedKeys|envelopeTypedItems {
		return errors.New("unmarshal envelope: unknown version")
	}
	got := Envelope{SortedKeys: b[1]&envelopeSortedKeys != 0, TypedItems: b[1]&envelopeTypedItems != 0}
	b = b[2:]
	for _, s := range []*string{&got.List.APIVersion, &got.List.Kind, &got.Item.APIVersion, &got.Item.Kind} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return errors.New("unmarshal envelope: truncated")
		}
		*s = string(b[size:][:n])
		b = b[size:][n:]
	}
	if len(b) > 0 {
		return errors.New("unmarshal envelope: trailing bytes")
	}
	*e = got
	return nil
}
