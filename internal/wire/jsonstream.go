package wire

import "fmt"

// jsonStream cuts a stream of JSON into values. It looks at brackets and quotes only; whether what is between them is JSON is
// for the cursor to say, which gets each value whole.
type jsonStream struct {
	window
	// dropping is set while a value that is too large is skipped instead of kept.
	dropping bool
}

// peek skips white space and returns the next byte without taking it. Its error may be io.EOF.
func (s *jsonStream) peek() (byte, error) {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			switch c := s.buf[s.pos]; c {
			case ' ', '\t', '\r', '\n':
			default:
				s.mark = s.pos
				return c, nil
			}
		}
		s.mark = s.pos
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
}

// take skips white space and takes the next byte, which must be one of a and b.
func (s *jsonStream) take(a, b byte) (byte, error) {
	c, err := s.peek()
	if err != nil {
		return 0, truncated(err)
	}
	if c != a && c != b {
		return 0, fmt.Errorf("%w JSON: %q where %q should be", ErrMalformed, c, a)
	}
	s.pos++
	return c, nil
}

// value takes the next value. If it is larger than the limit, value skips it and returns ErrTooLarge.
func (s *jsonStream) value() ([]byte, error) {
	c, err := s.peek()
	if err != nil {
		return nil, truncated(err)
	}
	s.dropping = false
	switch c {
	case '{', '[':
		err = s.nested()
	case '"':
		s.pos++
		err = s.text()
	default:
		err = s.literal()
	}
	if err != nil {
		return nil, err
	}
	if s.dropping || s.pos-s.mark > s.limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, s.limit)
	}
	return s.token(), nil
}

// more goes on reading inside a value.
func (s *jsonStream) more() error {
	if s.pos-s.mark > s.limit {
		s.dropping = true
	}
	if s.dropping {
		s.mark = s.pos
	}
	if err := s.fill(); err != nil {
		return truncated(err)
	}
	return nil
}

// nested takes an object or an array.
func (s *jsonStream) nested() error {
	depth := 0
	for {
		for s.pos < len(s.buf) {
			c := s.buf[s.pos]
			s.pos++
			switch c {
			case '"':
				if err := s.text(); err != nil {
					return err
				}
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return nil
				}
			}
		}
		if err := s.more(); err != nil {
			return err
		}
	}
}

// text takes the rest of a string, of which the opening quote was taken.
func (s *jsonStream) text() error {
	escaped := false
	for {
		for i, c := range s.buf[s.pos:] {
			switch {
			case escaped:
				escaped = false
			case c == '\\':
				escaped = true
			case c == '"':
				s.pos += i + 1
				return nil
			}
		}
		s.pos = len(s.buf)
		if err := s.more(); err != nil {
			return err
		}
	}
}

// literal takes a number, true, false or null.
func (s *jsonStream) literal() error {
	for {
		for ; s.pos < len(s.buf); s.pos++ {
			switch s.buf[s.pos] {
			case ' ', '\t', '\r', '\n', ',', ':', '}', ']', '{', '[', '"':
				if s.pos == s.mark {
					return fmt.Errorf("%w JSON: %q where a value should be", ErrMalformed, s.buf[s.pos])
				}
				return nil
			}
		}
		if err := s.more(); err != nil {
			return err
		}
	}
}
