package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// protoList reads a protobuf list.
type protoList struct {
	window
	fn   func(Item) error
	list List
	// left is how much of the list is still to come.
	left int64
}

func readProtoList(w window, fn func(Item) error) (List, error) {
	p := protoList{window: w, fn: fn}
	if err := p.readHead(); err != nil {
		return List{}, err
	}
	if err := p.readListMeta(); err != nil {
		return List{}, fmt.Errorf("metadata: %w", err)
	}
	for n := 0; p.left > 0; n++ {
		if err := p.readItem(); err != nil {
			return List{}, fmt.Errorf("item %d: %w", n, err)
		}
	}
	return p.list, p.readTrailer()
}

// readHead reads up to the list's first field.
func (p *protoList) readHead() error {
	if end, err := p.atEnd(); err != nil {
		return err
	} else if end {
		return fmt.Errorf("%w: %s", ErrNotList, glimpse(nil))
	}
	magic, err := p.next(len(protoMagic))
	if errors.Is(err, ErrTruncated) {
		if have := p.buf[p.mark:]; !bytes.HasPrefix([]byte(protoMagic), have) {
			return fmt.Errorf("%w: %s", ErrNotList, glimpse(have))
		}
	}
	if err != nil {
		return err
	}
	if string(magic) != protoMagic {
		return fmt.Errorf("%w: %s", ErrNotList, glimpse(p.buf[p.mark:]))
	}
	tm, err := p.readField(unknownTypeMeta, math.MaxInt64)
	if err != nil {
		return err
	}
	if p.list.List, err = parseTypeMeta(tm); err != nil {
		return fmt.Errorf("type: %w", err)
	}
	if err := checkListType(p.list.List); err != nil {
		return err
	}
	p.list.Item = itemType(p.list.List)
	if p.list.Item.Kind == p.list.List.Kind {
		return fmt.Errorf("%w: a %s", ErrNotList, p.list.List.Kind)
	}
	p.left, err = p.readLength(unknownRaw, math.MaxInt64)
	return err
}

func (p *protoList) readListMeta() error {
	meta, err := p.readInList(metadataField)
	if err != nil {
		return err
	}
	p.list.ListMeta, err = parseListMeta(meta)
	return err
}

func (p *protoList) readItem() error {
	raw, err := p.readInList(itemsField)
	if err != nil {
		return err
	}
	item, err := ParseItem(Protobuf, raw)
	if err != nil {
		return err
	}
	if item.Name == "" {
		return fmt.Errorf("%w: no name", ErrMalformed)
	}
	return p.fn(item)
}

func (p *protoList) readTrailer() error {
	trailer, err := p.next(len(unknownTrailer))
	if err != nil {
		return err
	}
	if err := checkTrailer(trailer); err != nil {
		return err
	}
	if end, err := p.atEnd(); err != nil {
		return err
	} else if !end {
		return fmt.Errorf("%w: bytes after the end", ErrMalformed)
	}
	return nil
}

// readInList reads the next field of the list, which must have this number.
func (p *protoList) readInList(num int) ([]byte, error) {
	n, err := p.readLength(num, p.left)
	if err != nil {
		return nil, err
	}
	if p.left -= delimitedSize(n); p.left < 0 {
		return nil, fmt.Errorf("%w protobuf: field %d goes beyond the list", ErrMalformed, num)
	}
	return p.readBytes(n)
}

// readField reads a length-delimited field whole.
func (p *protoList) readField(num int, left int64) ([]byte, error) {
	n, err := p.readLength(num, left)
	if err != nil {
		return nil, err
	}
	return p.readBytes(n)
}

func (p *protoList) readBytes(n int64) ([]byte, error) {
	if n > int64(p.limit) {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrTooLarge, n, p.limit)
	}
	return p.next(int(n))
}

// readLength reads the tag and the length of a length-delimited field.
func (p *protoList) readLength(num int, left int64) (int64, error) {
	tag, err := p.next(1)
	if err != nil {
		return 0, err
	}
	if int(tag[0]) != num<<3|wireBytes {
		return 0, fmt.Errorf("%w protobuf: tag %#x where field %d should be", ErrMalformed, tag[0], num)
	}
	n, err := binary.ReadUvarint(&p.window)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return 0, truncated(err)
	case err != nil:
		return 0, fmt.Errorf("%w protobuf: length of field %d: %w", ErrMalformed, num, err)
	case n > uint64(left):
		return 0, fmt.Errorf("%w protobuf: length %d of field %d", ErrMalformed, n, num)
	}
	return int64(n), nil
}

func listMetaSize(meta ListMeta) int64 {
	n := delimitedSize(0) + delimitedSize(int64(len(meta.ResourceVersion))) + delimitedSize(int64(len(meta.Continue)))
	if meta.RemainingItemCount != 0 {
		n += 1 + varintSize(uint64(meta.RemainingItemCount))
	}
	return n
}

// appendListMeta appends a ListMeta as the API server spells it: with its empty fields.
func appendListMeta(dst []byte, meta ListMeta) []byte {
	dst = appendString(dst, listMetaSelfLink, "")
	dst = appendString(dst, listMetaResourceVersion, meta.ResourceVersion)
	dst = appendString(dst, listMetaContinue, meta.Continue)
	if meta.RemainingItemCount != 0 {
		dst = appendNumber(dst, listMetaRemainingItemCount, meta.RemainingItemCount)
	}
	return dst
}

func parseListMeta(m message) (ListMeta, error) {
	var meta ListMeta
	for len(m) > 0 {
		f, err := m.next()
		if err != nil {
			return meta, err
		}
		switch f.num {
		case listMetaResourceVersion:
			err = f.text(&meta.ResourceVersion)
		case listMetaContinue:
			err = f.text(&meta.Continue)
		case listMetaRemainingItemCount:
			err = f.number(&meta.RemainingItemCount)
		}
		if err != nil {
			return meta, err
		}
	}
	return meta, nil
}
