package wire

import (
	"encoding/json"
	"fmt"
)

// maxDepth is how deep JSON may be nested: as deep as encoding/json allows.
const maxDepth = 10000

// cursor walks over JSON that is in memory as a whole, and checks that it is JSON.
type cursor struct {
	b []byte
	i int
}

// fail says what is wrong at the cursor.
func (c *cursor) fail(want string) error {
	if c.i >= len(c.b) {
		return fmt.Errorf("%w: JSON ends where %s should be", ErrTruncated, want)
	}
	return fmt.Errorf("%w JSON: %q at byte %d where %s should be", ErrMalformed, c.b[c.i], c.i, want)
}

// space skips white space and returns the next byte without taking it, or 0 at the end.
func (c *cursor) space() byte {
	for ; c.i < len(c.b); c.i++ {
		switch ch := c.b[c.i]; ch {
		case ' ', '\t', '\r', '\n':
		default:
			return ch
		}
	}
	return 0
}

// member moves to the value of an object's next member and returns its key, or nil at the object's end, which
// it takes. The first call has to be told that it is the first.
func (c *cursor) member(first bool) ([]byte, error) {
	key, more, err := c.next(first)
	if !more || err != nil {
		return nil, err
	}
	return key.bytes(), nil
}

// next is member for callers that may not want the key.
func (c *cursor) next(first bool) (key jsonText, more bool, err error) {
	ch := c.space()
	switch {
	case first && ch != '{':
		return key, false, c.fail("an object")
	case !first && ch == '}':
		c.i++
		return key, false, nil
	case !first && ch != ',':
		return key, false, c.fail("',' or '}'")
	}
	c.i++
	if c.space() == '}' && first {
		c.i++
		return key, false, nil
	}
	if key, err = c.text(); err != nil {
		return key, false, err
	}
	if c.space() != ':' {
		return key, false, c.fail("':'")
	}
	c.i++
	c.space()
	return key, true, nil
}

// skip takes the next value.
func (c *cursor) skip(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%w JSON: nested deeper than %d", ErrMalformed, maxDepth)
	}
	switch ch := c.space(); ch {
	case '{':
		return c.skipObject(depth)
	case '[':
		return c.skipArray(depth)
	case '"':
		_, err := c.text()
		return err
	case 't':
		return c.word("true")
	case 'f':
		return c.word("false")
	case 'n':
		return c.word("null")
	default:
		return c.number()
	}
}

func (c *cursor) skipObject(depth int) error {
	for first := true; ; first = false {
		_, more, err := c.next(first)
		if !more || err != nil {
			return err
		}
		if err := c.skip(depth + 1); err != nil {
			return err
		}
	}
}

func (c *cursor) skipArray(depth int) error {
	c.i++
	if c.space() == ']' {
		c.i++
		return nil
	}
	for {
		if err := c.skip(depth + 1); err != nil {
			return err
		}
		switch c.space() {
		case ',':
			c.i++
		case ']':
			c.i++
			return nil
		default:
			return c.fail("',' or ']'")
		}
	}
}

func (c *cursor) word(w string) error {
	for j := range len(w) {
		if c.i == len(c.b) || c.b[c.i] != w[j] {
			return c.fail(w)
		}
		c.i++
	}
	return nil
}

func (c *cursor) number() error {
	if c.at('-') {
		c.i++
	}
	switch {
	case c.at('0'):
		c.i++
	default:
		if err := c.digits("a value"); err != nil {
			return err
		}
	}
	if c.at('.') {
		c.i++
		if err := c.digits("a digit"); err != nil {
			return err
		}
	}
	if c.at('e') || c.at('E') {
		c.i++
		if c.at('+') || c.at('-') {
			c.i++
		}
		return c.digits("a digit")
	}
	return nil
}

func (c *cursor) at(ch byte) bool { return c.i < len(c.b) && c.b[c.i] == ch }

func (c *cursor) digits(want string) error {
	start := c.i
	for c.i < len(c.b) && '0' <= c.b[c.i] && c.b[c.i] <= '9' {
		c.i++
	}
	if c.i == start {
		return c.fail(want)
	}
	return nil
}

// text takes a string.
func (c *cursor) text() (jsonText, error) {
	if !c.at('"') {
		return jsonText{}, c.fail("a string")
	}
	c.i++
	start, escaped := c.i, false
	for c.i < len(c.b) {
		switch ch := c.b[c.i]; {
		case ch == '"':
			c.i++
			return jsonText{c.b[start : c.i-1], escaped}, nil
		case ch == '\\':
			c.i++
			escaped = true
			if err := c.escape(); err != nil {
				return jsonText{}, err
			}
		case ch < ' ':
			return jsonText{}, c.fail("no control character")
		default:
			c.i++
		}
	}
	return jsonText{}, c.fail("the end of a string")
}

// escape takes what follows a backslash.
func (c *cursor) escape() error {
	if c.i == len(c.b) {
		return c.fail("an escape")
	}
	switch c.b[c.i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		c.i++
		return nil
	case 'u':
		c.i++
	default:
		return c.fail("an escape")
	}
	for range 4 {
		if c.i == len(c.b) {
			return c.fail("a hexadecimal digit")
		}
		switch ch := c.b[c.i]; {
		case '0' <= ch && ch <= '9', 'a' <= ch && ch <= 'f', 'A' <= ch && ch <= 'F':
			c.i++
		default:
			return c.fail("a hexadecimal digit")
		}
	}
	return nil
}

// end checks that nothing but white space follows.
func (c *cursor) end() error {
	c.space()
	if c.i < len(c.b) {
		return c.fail("the end")
	}
	return nil
}

// jsonText is what stands between the quotes of a well-formed JSON string.
type jsonText struct {
	spelled []byte
	escaped bool
}

// bytes returns the string itself, never nil.
func (t jsonText) bytes() []byte {
	if !t.escaped {
		return t.spelled
	}
	var s string
	quoted := append(append([]byte{'"'}, t.spelled...), '"')
	if err := json.Unmarshal(quoted, &s); err != nil {
		panic(fmt.Sprintf("wire: well-formed JSON string %s: %v", quoted, err))
	}
	return []byte(s)
}

// appendText appends s as encoding/json spells it.
func appendText(dst []byte, s string) []byte {
	for i := range len(s) {
		switch ch := s[i]; {
		case ch < ' ', ch > '~', ch == '"', ch == '\\', ch == '<', ch == '>', ch == '&':
			spelled, err := json.Marshal(s)
			if err != nil {
				panic(fmt.Sprintf("wire: spell %q in JSON: %v", s, err))
			}
			return append(dst, spelled...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}
