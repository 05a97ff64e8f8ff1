package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// The files are described in docs/store-format.md; what is here and what is there must agree.
const (
	// A segment is of the oldest format that can say what is in it: one that no key is needed for stays readable by the
	// releases that know no keys.
	formatPlain   = 1
	formatSealed  = 2
	formatVersion = formatSealed

	segmentMagic      = "YURTLOG\n"
	segmentHeaderSize = 64

	frameMagic      = 0x4d524659 // "YFRM"
	frameHeaderSize = 28

	maxFrame = 1 << 30
)

// castagnoli is the polynomial of every checksum in the files: CPUs know it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errNoFrame = errors.New("no valid frame")

func checksum(value []byte) uint32 { return crc32.Checksum(value, castagnoli) }

// segmentHeader begins each file of the log.
type segmentHeader struct {
	version uint32
	id      uint32
	// salt is random, and in every frame of the segment: what a recycled file held before can't be taken for its own.
	salt uint32
	// The end of the previous segment's data, and where its footer begins (0: it has none). What lies behind that end is
	// not part of the log.
	prevEnd, prevFooter uint32
	// key is what the segment's values are sealed by; 0: they are as they are.
	key keyID
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, segmentHeaderSize)
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], h.version)
	le.PutUint32(b[16:], h.id)
	le.PutUint32(b[20:], h.salt)
	le.PutUint32(b[24:], h.prevEnd)
	le.PutUint32(b[28:], h.prevFooter)
	le.PutUint64(b[32:], uint64(h.key))
	le.PutUint32(b[segmentHeaderSize-4:], checksum(b[:segmentHeaderSize-4]))
	return b
}

// decodeSegmentHeader fails with ErrNewer for a later format, whose other fields may mean anything.
func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	if len(b) < segmentHeaderSize || string(b[:8]) != segmentMagic {
		return segmentHeader{}, errors.New("no segment header")
	}
	le := binary.LittleEndian
	h := segmentHeader{
		version: le.Uint32(b[8:]), id: le.Uint32(b[16:]), salt: le.Uint32(b[20:]),
		prevEnd: le.Uint32(b[24:]), prevFooter: le.Uint32(b[28:]),
	}
	if le.Uint32(b[segmentHeaderSize-4:]) != checksum(b[:segmentHeaderSize-4]) {
		return segmentHeader{}, errors.New("segment header fails its checksum")
	}
	if h.version > formatVersion {
		return segmentHeader{}, fmt.Errorf("format %d: %w", h.version, ErrNewer)
	}
	if h.version >= formatSealed {
		h.key = keyID(le.Uint64(b[32:]))
	}
	return h, nil
}

type frameKind uint16

const (
	frameBatch  frameKind = iota + 1 // index of records, then their values
	frameStaged                      // values only, that the records of a later frame may point at
	frameFooter                      // the indexes of all frames of the segment, once more
	frameMark                        // nothing: says that all before it was durable
)

// frameHeader begins each frame. A batch is one frame, so that it is whole or not there.
type frameHeader struct {
	kind                frameKind
	indexLen, valuesLen uint32
	synced              uint32 // everything before this offset was durable when the frame was written
	salt                uint32
	key                 uint16 // tag of what the values are sealed by; 0: they are as they are
	crc                 uint32 // of this header and the index; values have their checksums in the index
}

func (h frameHeader) end(off int64) int64 {
	return off + frameHeaderSize + int64(h.indexLen) + int64(h.valuesLen)
}

func (h frameHeader) valuesAt(off int64) int64 { return off + frameHeaderSize + int64(h.indexLen) }

// putFrame writes the header of a frame into b, which begins with room for it, followed by the index.
func putFrame(b []byte, segment uint32, h frameHeader) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], frameMagic)
	le.PutUint32(b[4:], h.salt)
	le.PutUint32(b[12:], h.indexLen)
	le.PutUint32(b[16:], h.valuesLen)
	le.PutUint32(b[20:], h.synced)
	le.PutUint16(b[24:], uint16(h.kind))
	le.PutUint16(b[26:], h.key)
	le.PutUint32(b[8:], frameChecksum(segment, b[:frameHeaderSize], b[frameHeaderSize:frameHeaderSize+h.indexLen]))
}

func frameChecksum(segment uint32, header, index []byte) uint32 {
	crc := crc32.Update(0, castagnoli, binary.LittleEndian.AppendUint32(nil, segment))
	crc = crc32.Update(crc, castagnoli, header[4:8])
	crc = crc32.Update(crc, castagnoli, header[12:frameHeaderSize])
	return crc32.Update(crc, castagnoli, index)
}

// decodeFrameHeader reads a header without its checksum, which covers the index too.
func decodeFrameHeader(b []byte) (frameHeader, error) {
	le := binary.LittleEndian
	if len(b) < frameHeaderSize || le.Uint32(b) != frameMagic {
		return frameHeader{}, errNoFrame
	}
	h := frameHeader{
		kind: frameKind(le.Uint16(b[24:])), indexLen: le.Uint32(b[12:]), valuesLen: le.Uint32(b[16:]),
		synced: le.Uint32(b[20:]), salt: le.Uint32(b[4:]), crc: le.Uint32(b[8:]), key: le.Uint16(b[26:]),
	}
	if h.indexLen > maxFrame || h.valuesLen > maxFrame || h.kind < frameBatch || h.kind > frameMark {
		return frameHeader{}, errNoFrame
	}
	return h, nil
}

func frameNeedle(salt uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, frameMagic)
	return binary.LittleEndian.AppendUint32(b, salt)
}

type recordKind uint8

const (
	recTable    recordKind = iota + 1 // a table: name, revision, meta
	recRevision                       // its revision moved; comes before the table's other records in a frame
	recAdded
	recModified
	recDeleted
	recMoved // written again by compaction: no change
	recDropped
)

type recordFlags uint8

const (
	flagElsewhere recordFlags = 1 << iota // the value is not in this frame; where, follows
	flagLost                              // the value could not be read when it was to be moved
	flagNoHistory                         // recTable: the table keeps none
	flagNew                               // recTable: the table did not exist before
	flagDoubt                             // recTable: the table may lack changes
	flagSwap                              // recRevision: this frame replaces the contents
	flagCut                               // recRevision: the history begins anew here
	flagSealed                            // the value is sealed, and a fingerprint of it follows
)

// location is where a value lies. At offset 0 there never is one: then the value is lost, and segment is where its record
// lies.
type location struct {
	segment, offset uint32
	size, crc       uint32 // of the bytes there
	print           uint32 // fingerprint of the content, if it is sealed; else 0
}

func (a location) lost() bool { return a.offset == 0 }

func (a location) sealed() bool { return a.print != 0 }

// content is the size of the value that is to be had there.
func (a location) content() int {
	if a.sealed() {
		return int(a.size) - sealOverhead
	}
	return int(a.size)
}

// record is one entry of a frame's index.
type record struct {
	kind     recordKind
	flags    recordFlags
	table    uint32
	key      string // recTable: the name
	revision uint64
	from     uint64 // recRevision: the revision before
	identity uint64
	meta     []byte // recTable
	value    location
}

func appendRecord(b []byte, r *record) []byte {
	flags := r.flags
	if r.value.sealed() {
		flags |= flagSealed
	}
	b = append(b, byte(r.kind), byte(flags))
	b = binary.AppendUvarint(b, uint64(r.table))
	if r.kind == recDropped {
		return b
	}
	b = binary.AppendUvarint(b, r.revision)
	if r.kind == recRevision {
		return binary.AppendUvarint(b, r.from)
	}
	b = binary.AppendUvarint(b, uint64(len(r.key)))
	b = append(b, r.key...)
	if r.kind == recTable {
		b = binary.AppendUvarint(b, uint64(len(r.meta)))
		return append(b, r.meta...)
	}
	b = binary.LittleEndian.AppendUint64(b, r.identity)
	b = binary.AppendUvarint(b, uint64(r.value.size))
	b = binary.LittleEndian.AppendUint32(b, r.value.crc)
	if r.value.sealed() {
		b = binary.LittleEndian.AppendUint32(b, r.value.print)
	}
	if r.flags&flagElsewhere != 0 {
		b = binary.AppendUvarint(b, uint64(r.value.segment))
		b = binary.AppendUvarint(b, uint64(r.value.offset))
	}
	return b
}

// indexReader decodes the index of one frame. Records whose value lies in the frame get their location in the file.
type indexReader struct {
	rest    []byte
	segment uint32
	values  int64 // offset in the segment of the next value of this frame
	err     error
}

func (d *indexReader) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit {
		d.err = errors.New("index does not parse")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *indexReader) take(n uint64) []byte {
	if d.err != nil || uint64(len(d.rest)) < n {
		d.err = errors.New("index does not parse")
		return make([]byte, min(n, 8))
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// next decodes one record; false at the end, or with d.err set.
func (d *indexReader) next(r *record) bool {
	if len(d.rest) == 0 || d.err != nil {
		return false
	}
	head := d.take(2)
	*r = record{kind: recordKind(head[0]), flags: recordFlags(head[1])}
	if r.kind < recTable || r.kind > recDropped {
		d.err = fmt.Errorf("record of unknown kind %d", r.kind)
		return false
	}
	r.table = uint32(d.uvarint(math.MaxUint32))
	if r.kind == recDropped {
		return d.err == nil
	}
	r.revision = d.uvarint(math.MaxUint64)
	if r.kind == recRevision {
		r.from = d.uvarint(math.MaxUint64)
		return d.err == nil
	}
	key := d.uvarint(maxFrame)
	r.key = string(d.take(key))
	if r.kind == recTable {
		r.meta = bytes.Clone(d.take(d.uvarint(maxFrame)))
		return d.err == nil
	}
	r.identity = binary.LittleEndian.Uint64(d.take(8))
	r.value.size = uint32(d.uvarint(maxFrame))
	r.value.crc = binary.LittleEndian.Uint32(d.take(4))
	if r.flags&flagSealed != 0 {
		r.value.print = binary.LittleEndian.Uint32(d.take(4))
		if !r.value.sealed() || r.value.content() < 0 {
			d.err = errors.New("index does not parse")
			return false
		}
	}
	if r.flags&flagElsewhere != 0 {
		r.value.segment = uint32(d.uvarint(math.MaxUint32))
		r.value.offset = uint32(d.uvarint(math.MaxUint32))
		return d.err == nil
	}
	r.value.segment = d.segment
	if r.flags&flagLost == 0 {
		r.value.offset = uint32(d.values)
		d.values += int64(r.value.size)
	}
	return d.err == nil
}

// A footer repeats the index of every batch frame: where its values begin, length, index.
func appendFooter(b []byte, valuesAt int64, index []byte) []byte {
	b = binary.AppendUvarint(b, uint64(valuesAt))
	b = binary.AppendUvarint(b, uint64(len(index)))
	return append(b, index...)
}

// eachIndex calls fn for every index in a footer.
func eachIndex(footer []byte, fn func(valuesAt int64, index []byte) error) error {
	d := indexReader{rest: footer}
	for len(d.rest) > 0 {
		at := d.uvarint(math.MaxUint32)
		index := d.take(d.uvarint(maxFrame))
		if d.err != nil {
			return d.err
		}
		if err := fn(int64(at), index); err != nil {
			return err
		}
	}
	return nil
}

// findFrame returns the offset of the next place in b where a frame of this salt may begin, or -1.
func findFrame(b []byte, salt uint32) int { return bytes.Index(b, frameNeedle(salt)) }
