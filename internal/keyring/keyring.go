// Package keyring finds the keys that seal what is at rest: in a file, among systemd's credentials, or beside the data,
// where one is made if there is none.
//
// It guarantees that a key is read only from a regular file that nobody but this process's user and root can read, and
// that a key which it has made is durable before it is used. It never logs a key or a part of one, and replaces none.
package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"yurt/internal/atomicfile"
)

const (
	// LocalFile is the key that is made here, in the hub's directory.
	LocalFile = "encryption-key"
	// CredentialName is the key among systemd's credentials.
	CredentialName = "yurthub-encryption-key"

	keySize = 32
	maxFile = 64 << 10
)

// Places are where a key may be. The first that has one counts.
type Places struct {
	File        string // that the user names; must be there
	Credentials string // directory of systemd's credentials, "" if there are none
	Dir         string // where the key is made otherwise
}

// Ring is what was found.
type Ring struct {
	Keys   [][]byte // newest first
	Source string   // where the newest is from, for people
	// Local: it was made here. It protects a copy of the data, and not the disk that it is on itself.
	Local bool
}

// Open finds the keys. The one made here is at the end of the ring, if it is still there when the newest is from
// elsewhere: what it has sealed can be opened, and sealed anew.
func Open(p Places, log *slog.Logger) (*Ring, error) {
	ring, err := openGiven(p)
	if err != nil {
		return nil, err
	}
	local := filepath.Join(p.Dir, LocalFile)
	keys, err := readLocal(local, log)
	if ring != nil {
		// Only an older key: without it the hub is not worse off than when it is removed.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the encryption key that was made here can't be read", "error", err)
		}
		ring.add(keys)
		return ring, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		log.Info("making an encryption key beside the data: it protects copies of the data, and not a stolen disk", "file", local)
		if err = makeKey(local); err == nil {
			keys, err = readKeys(local, 0o077, unix.O_NOFOLLOW)
		}
	}
	if err != nil {
		return nil, err
	}
	return &Ring{Keys: keys, Source: "made here, beside the data", Local: true}, nil
}

// openGiven returns nil if no key is given from outside.
func openGiven(p Places) (*Ring, error) {
	if p.File != "" {
		keys, err := readKeys(p.File, 0o077, 0)
		if err != nil {
			return nil, err
		}
		return &Ring{Keys: keys, Source: "file " + p.File}, nil
	}
	if p.Credentials == "" {
		return nil, nil
	}
	// What systemd grants a user by an access control list shows as the group's.
	keys, err := readKeys(filepath.Join(p.Credentials, CredentialName), 0o007, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &Ring{Keys: keys, Source: "systemd credential " + CredentialName}, nil
}

// add puts keys at the end that are not there yet.
func (r *Ring) add(keys [][]byte) {
	for _, key := range keys {
		if !holds(r.Keys, key) {
			r.Keys = append(r.Keys, key)
		}
	}
}

func holds(keys [][]byte, key []byte) bool {
	for _, k := range keys {
		if bytes.Equal(k, key) {
			return true
		}
	}
	return false
}

// readLocal reads the key that was made here. A damaged one is set aside: what it has sealed is lost, the node is not.
func readLocal(name string, log *slog.Logger) ([][]byte, error) {
	keys, err := readKeys(name, 0o077, unix.O_NOFOLLOW)
	var bad *contentError
	if !errors.As(err, &bad) {
		return keys, err
	}
	log.Error("the encryption key that was made here is damaged and set aside; what it has sealed is lost", "error", err)
	if err := os.Rename(name, name+".damaged"); err != nil {
		return nil, fmt.Errorf("set damaged encryption key aside: %w", err)
	}
	return nil, fs.ErrNotExist
}

func makeKey(name string) error {
	key := make([]byte, keySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make encryption key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("make encryption key: %w", err)
	}
	text := base64.StdEncoding.AppendEncode(nil, key)
	if err := atomicfile.Write(name, append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("make encryption key: %w", err)
	}
	return nil
}

// readKeys reads a file that none of the given permissions is granted of.
func readKeys(name string, forbidden fs.FileMode, flags int) ([][]byte, error) {
	keys, err := tryReadKeys(name, forbidden, flags)
	if err != nil {
		return nil, fmt.Errorf("read encryption key %s: %w", name, err)
	}
	return keys, nil
}

func tryReadKeys(name string, forbidden fs.FileMode, flags int) ([][]byte, error) {
	// A pipe would wait for its writer.
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|flags, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link")
	}
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("it belongs to user %d, who could read and replace it", st.Uid)
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, fmt.Errorf("others can read or write it (mode %04o): chmod 600 it", mode)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, withoutPath(err)
	}
	keys, err := parse(data)
	if err != nil {
		return nil, &contentError{err}
	}
	return keys, nil
}

// withoutPath leaves out what the caller says anyway.
func withoutPath(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

// contentError: the file is there, and is none of keys. It says nothing of what is in it.
type contentError struct{ err error }

func (e *contentError) Error() string { return e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// parse takes 32 raw bytes, or lines of 32 bytes in base64, the newest key first.
func parse(data []byte) ([][]byte, error) {
	if len(data) == keySize {
		return check([][]byte{data})
	}
	var keys [][]byte
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		key, err := base64.StdEncoding.AppendDecode(nil, line)
		if err != nil || len(key) != keySize {
			return nil, fmt.Errorf("want %d raw bytes, or lines of base64 of %d bytes each, the newest key first; "+
				"it has %d bytes, and line %d is not such a line (to make one: openssl rand -base64 %d)", keySize, keySize, len(data), n, keySize)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it has no key")
	}
	return check(keys)
}

// check refuses what nobody means by a key.
func check(keys [][]byte) ([][]byte, error) {
	for i, key := range keys {
		switch {
		case bytes.Count(key, key[:1]) == keySize:
			return nil, fmt.Errorf("all bytes of key %d are the same", i+1)
		case bytes.IndexFunc(key, func(c rune) bool { return c < ' ' || c > '~' }) < 0:
			return nil, fmt.Errorf("key %d is text: a key is random bytes", i+1)
		case holds(keys[:i], key):
			return nil, fmt.Errorf("key %d is there twice", i+1)
		}
	}
	return keys, nil
}
