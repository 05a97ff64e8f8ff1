package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeySize is the length of a key of Options.Keys.
const KeySize = 32

const (
	nonceSize = 12
	tagSize   = 16
	// sealOverhead is what a sealed value takes beside its content: nonce, ciphertext, tag.
	sealOverhead = nonceSize + tagSize
)

// keyID names a key without saying anything about it. Its low half is in every frame, and never 0; 0 is no key.
type keyID uint64

func (id keyID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

func (id keyID) tag() uint16 { return uint16(id) }

// masterKey is a key of Options.Keys. It seals nothing itself: each segment has a key of its own, derived from it, so
// that no key is used for more than a segment's worth of values.
type masterKey struct {
	id     keyID
	secret []byte
	prints cipher.Block
}

func newMasterKey(secret []byte) (*masterKey, error) {
	if len(secret) != KeySize {
		return nil, fmt.Errorf("use key of %d bytes: want %d", len(secret), KeySize)
	}
	id, err := hkdf.Key(sha256.New, secret, nil, "yurt store: name of the key", 8)
	if err != nil {
		return nil, fmt.Errorf("derive name of key: %w", err)
	}
	forPrints, err := hkdf.Key(sha256.New, secret, nil, "yurt store: fingerprints", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key of fingerprints: %w", err)
	}
	prints, err := aes.NewCipher(forPrints)
	if err != nil {
		return nil, fmt.Errorf("use key of fingerprints: %w", err)
	}
	return &masterKey{id: keyID(binary.LittleEndian.Uint64(id) | 1), secret: secret, prints: prints}, nil
}

// print is a fingerprint of a value, from its checksum: it tells equal values of a key and revision from different ones,
// and nothing to who has not the key, as the checksum would. It is never 0.
func (k *masterKey) print(crc, size uint32, revision uint64) uint32 {
	var b [aes.BlockSize]byte
	binary.LittleEndian.PutUint32(b[0:], crc)
	binary.LittleEndian.PutUint32(b[4:], size)
	binary.LittleEndian.PutUint64(b[8:], revision)
	k.prints.Encrypt(b[:], b[:])
	return max(binary.LittleEndian.Uint32(b[:]), 1)
}

// location is that of a value which will be written, without its place. A nil key stands for values as they are.
func (k *masterKey) location(crc, size uint32, revision uint64) location {
	if k == nil {
		return location{size: size, crc: crc}
	}
	return location{size: size + sealOverhead, print: k.print(crc, size, revision)}
}

// box seals and opens the values of one segment.
type box struct {
	master *masterKey
	aead   cipher.AEAD
}

// box derives the key of the segment of that id and salt.
func (k *masterKey) box(segment, salt uint32) (*box, error) {
	name := binary.LittleEndian.AppendUint32(nil, segment)
	name = binary.LittleEndian.AppendUint32(name, salt)
	key, err := hkdf.Key(sha256.New, k.secret, name, "yurt store: segment", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive key of segment %d: %w", segment, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use key of segment %d: %w", segment, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("use key of segment %d: %w", segment, err)
	}
	return &box{k, aead}, nil
}

// appendBinding appends what a sealed value is bound to: it opens as this record of this table only.
func appendBinding(b []byte, table, key string, revision uint64) []byte {
	b = binary.LittleEndian.AppendUint64(b, revision)
	b = binary.AppendUvarint(b, uint64(len(table)))
	b = append(b, table...)
	return append(b, key...)
}

// seal appends the sealed value to dst. The nonce is random and not a counter: a counter would begin again where a copy
// of the files does (a restored snapshot of the machine), and GCM does not forgive a nonce that is used twice.
func (x *box) seal(dst, value, binding []byte) []byte {
	begin := len(dst)
	dst = append(dst, make([]byte, nonceSize)...)
	_, _ = rand.Read(dst[begin:]) // it never fails
	return x.aead.Seal(dst, dst[begin:begin+nonceSize], value, binding)
}

var errForged = errors.New("it does not open: it is damaged, or was written by somebody else")

// open decrypts a sealed value in its place.
func (x *box) open(sealed, binding []byte) ([]byte, error) {
	content := sealed[nonceSize:]
	value, err := x.aead.Open(content[:0], sealed[:nonceSize], content, binding)
	if err != nil {
		return nil, errForged
	}
	return value[:len(value):len(value)], nil
}

// openValue returns the content of what lies at the place of e, which is overwritten with it if it is sealed.
func (seg *segment) openValue(table string, e *entry, stored []byte, binding *[]byte) ([]byte, error) {
	switch {
	case !e.at.sealed() && seg.key == 0:
		return stored, nil
	case e.at.sealed() != (seg.key != 0):
		return nil, errForged // else it would be enough to say that a value is not sealed
	case seg.box == nil:
		return nil, seg.unknownKey()
	}
	*binding = appendBinding((*binding)[:0], table, e.key, e.revision)
	return seg.box.open(stored, *binding)
}

func (seg *segment) unknownKey() error { return fmt.Errorf("key %s: %w", seg.key, ErrKeyUnknown) }

// blind reports whether the values of a segment are sealed by a key that is not known.
func (seg *segment) blind() bool { return seg.key != 0 && seg.box == nil }

func (s *Store) takeKeys() error {
	if s.opts.Keys == nil {
		return nil
	}
	secrets, err := s.opts.Keys()
	if err != nil {
		return err
	}
	for _, secret := range secrets {
		k, err := newMasterKey(secret)
		if err != nil {
			return err
		}
		s.keys = append(s.keys, k)
	}
	return nil
}

// unlock gives a segment the box for its values, if it needs one and its key is known.
func (s *Store) unlock(seg *segment) error {
	for _, k := range s.keys {
		if k.id != seg.key {
			continue
		}
		var err error
		seg.box, err = k.box(seg.id, seg.salt)
		return err
	}
	return nil
}

// sealingKey is the key for what is written; nil if that is not sealed.
func (s *Store) sealingKey() *masterKey {
	if len(s.keys) == 0 {
		return nil
	}
	return s.keys[0]
}

// sealingID is the name of the key for what is written.
func (s *Store) sealingID() keyID {
	if k := s.sealingKey(); k != nil {
		return k.id
	}
	return 0
}

// valueOverhead is what a value takes in the log beside its content.
func (s *Store) valueOverhead() int64 {
	if s.sealingKey() == nil {
		return 0
	}
	return sealOverhead
}

// keyOfTag finds the key of a segment whose header is lost by what its frames say of it.
func (s *Store) keyOfTag(tag uint16) keyID {
	for _, k := range s.keys {
		if k.id.tag() == tag {
			return k.id
		}
	}
	return keyID(tag) // a name that no key has
}

// staleLocked counts the segments to be written again: their values are in clear, or sealed by an older key. Those of an
// unknown key are left, as it may be found, and so are those behind them, as a log ends at its oldest segment.
func (s *Store) staleLocked() int {
	if s.sealingKey() == nil {
		return 0
	}
	n := 0
	for i, seg := range s.set.list {
		if seg.blind() {
			break
		}
		if seg.key != s.sealingID() {
			n = i + 1
		}
	}
	return n
}

// Unopened is what a store can't open for want of a key.
type Unopened struct {
	Records int      // live ones; they read as DamagedError
	Keys    []string // the names of the keys
}

// Unopened looks at all records, if there is anything that can't be opened.
func (s *Store) Unopened() Unopened {
	var u Unopened
	s.mu.Lock()
	if s.set == nil {
		s.mu.Unlock()
		return u
	}
	set := s.pinLocked()
	snapshots := make([]*snapshot, 0, len(s.tables))
	for _, t := range s.tables {
		snapshots = append(snapshots, t.now)
	}
	s.mu.Unlock()
	defer s.unpin(set)
	if !set.blind() {
		return u
	}
	keys := map[keyID]bool{}
	for _, snap := range snapshots {
		for seg := range snap.blindIn(set) {
			u.Records++
			if !keys[seg.key] {
				keys[seg.key] = true
				u.Keys = append(u.Keys, seg.key.String())
			}
		}
	}
	return u
}

// blind reports whether there is a segment of an unknown key.
func (set *segmentSet) blind() bool {
	for _, seg := range set.list {
		if seg.blind() {
			return true
		}
	}
	return false
}

// blind reports whether there is a record whose value can't be opened.
func (c *contents) blind(set *segmentSet) bool {
	for range c.blindIn(set) {
		return true
	}
	return false
}

// blindIn gives the segment of each record whose value is sealed by an unknown key.
func (c *contents) blindIn(set *segmentSet) func(yield func(*segment) bool) {
	return func(yield func(*segment) bool) {
		c.tree.Ascend(func(e *entry) bool {
			if e.at.lost() || !e.at.sealed() {
				return true
			}
			seg := set.find(e.at.segment)
			return seg == nil || !seg.blind() || yield(seg)
		})
	}
}
