package wire

import (
	"errors"
	"fmt"
	"io"
)

const (
	// windowSize is what a window holds at first, and shrinks back to.
	windowSize = 4 << 10
	// windowKeep is the size above which an empty window gives its memory back.
	windowKeep = 64 << 10
)

// window is the part of a stream that is in memory.
//
// Invariant: mark <= pos <= len(buf). buf[mark:pos] is the token being read, which stays together however
// often the window moves on; buf[pos:] was received and waits. What lies before mark may go at any time.
type window struct {
	r     io.Reader
	buf   []byte
	mark  int
	pos   int
	limit int // longest token
	err   error
}

func newWindow(r io.Reader, limit int) window {
	return window{r: r, buf: make([]byte, 0, windowSize), limit: limit}
}

// token returns the bytes between mark and pos. They are valid until the window is filled again.
func (w *window) token() []byte { return w.buf[w.mark:w.pos] }

// fill adds to buf what the stream has. It calls Read until that gives one byte and no further: a watch stream may
// have nothing more to say for minutes, and what has arrived must not wait for it.
func (w *window) fill() error {
	if w.err != nil {
		return w.err
	}
	w.makeRoom()
	for range 100 {
		n, err := w.r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+n]
		w.err = err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// makeRoom gives up what lies before mark and sees that buf has free capacity.
func (w *window) makeRoom() {
	kept := w.buf[w.mark:]
	switch {
	case len(kept) == 0 && cap(w.buf) > windowKeep:
		w.buf = make([]byte, 0, windowSize)
	case w.mark > 0:
		w.buf = w.buf[:copy(w.buf[:cap(w.buf)], kept)]
	case len(w.buf) == cap(w.buf):
		grown := make([]byte, len(w.buf), 2*cap(w.buf))
		copy(grown, w.buf)
		w.buf = grown
	}
	w.pos -= w.mark
	w.mark = 0
}

// next makes the next n bytes the token.
func (w *window) next(n int) ([]byte, error) {
	w.mark = w.pos
	for len(w.buf)-w.pos < n {
		if err := w.fill(); err != nil {
			return nil, truncated(err)
		}
	}
	w.pos += n
	return w.token(), nil
}

// discard skips n bytes.
func (w *window) discard(n int) error {
	for {
		have := min(len(w.buf)-w.pos, n)
		w.pos += have
		w.mark = w.pos
		n -= have
		if n == 0 {
			return nil
		}
		if err := w.fill(); err != nil {
			return truncated(err)
		}
	}
}

// atEnd reports whether the stream ends here.
func (w *window) atEnd() (bool, error) {
	w.mark = w.pos
	for w.pos == len(w.buf) {
		if err := w.fill(); errors.Is(err, io.EOF) {
			return true, nil
		} else if err != nil {
			return false, truncated(err)
		}
	}
	return false, nil
}

// truncated says of an error that came where more had to come what it means. An error of the connection stays what it is.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrTruncated, io.ErrUnexpectedEOF)
	}
	return err
}

// ReadByte takes one byte.
func (w *window) ReadByte() (byte, error) {
	b, err := w.next(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}
