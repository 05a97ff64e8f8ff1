package store

import (
	"bytes"
	"errors"
	"io"
	"os"
)

// part is a piece of a segment, as a scan found it: a frame, or bytes that are none.
type part struct {
	offset, end int64
	frame       frameHeader // kind 0: not a frame
	index       []byte
}

// scanner reads a segment frame by frame, without its footer.
type scanner struct {
	file  *os.File
	id    uint32
	salt  uint32
	limit int64 // bytes behind are not part of the log

	window []byte
	at     int64 // offset of window
}

const scanWindow = 256 << 10

// bytes returns n bytes at off, valid until the next call; fewer at the end of the file.
func (sc *scanner) bytes(off int64, n int) ([]byte, error) {
	if off < sc.at || off+int64(n) > sc.at+int64(len(sc.window)) {
		want := min(int64(max(n, scanWindow)), max(sc.limit-off, 0))
		if int64(cap(sc.window)) < want {
			sc.window = make([]byte, want)
		}
		sc.window, sc.at = sc.window[:want], off
		got, err := sc.file.ReadAt(sc.window, off)
		sc.window = sc.window[:got]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	b := sc.window[off-sc.at:]
	return b[:min(n, len(b))], nil
}

// frame reads the frame at off, with a copy of its index. It does not look at the values.
func (sc *scanner) frame(off int64) (part, error) {
	head, err := sc.bytes(off, frameHeaderSize)
	if err != nil {
		return part{}, err
	}
	h, err := decodeFrameHeader(head)
	if err != nil {
		return part{}, err
	}
	if h.salt != sc.salt || h.end(off) > sc.limit {
		return part{}, errNoFrame
	}
	all, err := sc.bytes(off, frameHeaderSize+int(h.indexLen))
	if err != nil {
		return part{}, err
	}
	if len(all) < frameHeaderSize+int(h.indexLen) || frameChecksum(sc.id, all[:frameHeaderSize], all[frameHeaderSize:]) != h.crc {
		return part{}, errNoFrame
	}
	return part{offset: off, end: h.end(off), frame: h, index: bytes.Clone(all[frameHeaderSize:])}, nil
}

// seek returns the offset of the next valid frame from off on, or limit.
func (sc *scanner) seek(off int64) int64 {
	for off < sc.limit {
		b, err := sc.bytes(off, scanWindow)
		if err != nil {
			off = (off + 4096) &^ 4095 // an unreadable block: try the next
			continue
		}
		i := findFrame(b, sc.salt)
		if i < 0 {
			if len(b) < frameHeaderSize {
				break
			}
			off += int64(len(b)) - 7 // a frame's first bytes may lie across the end
			continue
		}
		if _, err := sc.frame(off + int64(i)); err == nil {
			return off + int64(i)
		}
		off += int64(i) + 1
	}
	return sc.limit
}

// scan returns the parts of a segment in order, up to its footer or limit. Behind the last frame there may be anything.
func (sc *scanner) scan() []part {
	var parts []part
	off := int64(segmentHeaderSize)
	for off < sc.limit {
		p, err := sc.frame(off)
		if err != nil {
			next := sc.seek(off + 1)
			if next == sc.limit {
				break
			}
			parts = append(parts, part{offset: off, end: next})
			off = next
			continue
		}
		parts = append(parts, p)
		off = p.end
		if p.frame.kind == frameFooter {
			break
		}
	}
	return parts
}

// durableEnd is the offset before which all was durable, as later frames say.
func durableEnd(parts []part) int64 {
	end := int64(0)
	for _, p := range parts {
		if p.frame.kind != 0 {
			end = max(end, int64(p.frame.synced))
		}
	}
	return end
}

// whole verifies the values of a frame.
func (sc *scanner) whole(p part) bool {
	d := indexReader{rest: p.index, segment: sc.id, values: p.frame.valuesAt(p.offset)}
	var r record
	for d.next(&r) {
		if r.flags&(flagElsewhere|flagLost) != 0 || r.kind == recTable || r.kind == recRevision || r.kind == recDropped {
			continue
		}
		value, err := sc.bytes(int64(r.value.offset), int(r.value.size))
		if err != nil || len(value) != int(r.value.size) || checksum(value) != r.value.crc {
			return false
		}
	}
	return d.err == nil
}

// findSalt returns the salt and the tag of the key of the first valid frame of a segment whose header is lost; false if
// there is none.
func findSalt(f *os.File, id uint32, size int64) (salt uint32, tag uint16, ok bool) {
	sc := &scanner{file: f, id: id, limit: size}
	magic := frameNeedle(0)[:4]
	for off := int64(0); off < size; {
		b, err := sc.bytes(off, scanWindow)
		if err != nil || len(b) == 0 {
			off = (off + 4096) &^ 4095
			continue
		}
		i := bytes.Index(b, magic)
		if i < 0 {
			off += max(int64(len(b))-3, 1)
			continue
		}
		at := off + int64(i)
		if head, err := sc.bytes(at, frameHeaderSize); err == nil {
			if h, err := decodeFrameHeader(head); err == nil {
				sc.salt = h.salt
				if _, err := sc.frame(at); err == nil {
					return h.salt, h.key, true
				}
			}
		}
		off = at + 1
	}
	return 0, 0, false
}

func anyFrame(f *os.File, id uint32) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	_, _, ok := findSalt(f, id, info.Size())
	return ok
}
