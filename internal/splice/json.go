package splice

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// jsonFormat is JSON. null is as good as absent.
type jsonFormat struct{}

// span is where a value lies in a text.
type span struct{ begin, end int }

func (s span) of(text []byte) []byte { return text[s.begin:s.end:s.end] }

// member returns where the value of a key lies in an object, and whether the object has members at all.
func (jsonFormat) member(object []byte, key string) (at span, found, some bool, err error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if err := open(d, '{'); err != nil {
		return at, false, false, err
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return at, found, some, malformedJSON(err)
		}
		value, err := element(d)
		if err != nil {
			return at, found, some, err
		}
		some = true
		if name != key {
			continue
		}
		if found {
			return at, found, some, fmt.Errorf("%w JSON: %s comes twice", ErrMalformed, key)
		}
		at, found = value, true
	}
	if _, err := d.Token(); err != nil {
		return at, found, some, malformedJSON(err)
	}
	return at, found, some, nil
}

func open(d *json.Decoder, want json.Delim) error {
	token, err := d.Token()
	if err != nil {
		return malformedJSON(err)
	}
	if token != want {
		return fmt.Errorf("%w JSON: %v where %s should be", ErrMalformed, token, want)
	}
	return nil
}

// element takes the next value.
func element(d *json.Decoder) (span, error) {
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return span{}, malformedJSON(err)
	}
	end := int(d.InputOffset())
	return span{end - len(raw), end}, nil
}

func malformedJSON(err error) error { return fmt.Errorf("%w JSON: %w", ErrMalformed, err) }

func isNull(value []byte) bool { return len(value) == 0 || string(value) == "null" }

func (j jsonFormat) All(message []byte, f Field) ([][]byte, error) {
	if isNull(message) {
		return nil, nil
	}
	at, found, _, err := j.member(message, f.Key)
	if err != nil || !found || isNull(at.of(message)) {
		return nil, err
	}
	value := at.of(message)
	if !f.Repeated {
		return [][]byte{value}, nil
	}
	d := json.NewDecoder(bytes.NewReader(value))
	if err := open(d, '['); err != nil {
		return nil, err
	}
	var values [][]byte
	for d.More() {
		at, err := element(d)
		if err != nil {
			return nil, err
		}
		values = append(values, at.of(value))
	}
	return values, nil
}

func (j jsonFormat) Set(message []byte, f Field, values [][]byte) ([]byte, error) {
	if isNull(message) {
		message = []byte("{}")
	}
	want := f
	at, found, some, err := j.member(message, want.Key)
	if err != nil {
		return nil, err
	}
	if !found && len(values) == 0 {
		return message, nil
	}
	value := bytes.Join(values, []byte{','})
	switch {
	case len(values) == 0:
		value = []byte("null") // as the API server writes an empty list
	case want.Repeated:
		value = append(append([]byte{'['}, value...), ']')
	}
	if !found {
		last := bytes.LastIndexByte(message, '}')
		at = span{last, last}
		value = append([]byte(`"`+want.Key+`":`), value...)
		if some {
			value = append([]byte{','}, value...)
		}
	}
	out := make([]byte, 0, len(message)+len(value))
	out = append(append(out, message[:at.begin]...), value...)
	return append(out, message[at.end:]...), nil
}

func (j jsonFormat) Label(message []byte, f Field, key string) (string, error) {
	at, found, _, err := j.member(message, f.Key)
	if err != nil || !found {
		return "", err
	}
	var labels map[string]string
	if err := json.Unmarshal(at.of(message), &labels); err != nil {
		return "", malformedJSON(err)
	}
	return labels[key], nil
}

func (j jsonFormat) SetLabel(message []byte, f Field, key, value string) ([]byte, error) {
	at, found, _, err := j.member(message, f.Key)
	if err != nil || !found || isNull(at.of(message)) {
		return message, err
	}
	_, has, _, err := j.member(at.of(message), key)
	if err != nil || !has {
		return message, err
	}
	changed, err := j.Set(at.of(message), Message(0, key), [][]byte{j.Write(value)})
	if err != nil {
		return nil, err
	}
	return j.Set(message, Message(0, f.Key), [][]byte{changed})
}

// Mentions looks for the path's last key wherever it is. No API server escapes the letters of a key.
func (jsonFormat) Mentions(message []byte, has func([]byte) bool, path ...Field) bool {
	key := []byte(`"` + path[len(path)-1].Key + `"`)
	for {
		at := bytes.Index(message, key)
		if at < 0 {
			return false
		}
		message = message[at+len(key):]
		value := bytes.TrimLeft(message, " \t\r\n:")
		if len(value) == 0 || value[0] != '"' {
			continue
		}
		value = value[1:]
		end := bytes.IndexByte(value, '"')
		if end < 0 {
			return false
		}
		if bytes.IndexByte(value[:end], '\\') >= 0 || has(value[:end]) {
			return true
		}
	}
}

func (jsonFormat) Read(value []byte, to any) error {
	if err := json.Unmarshal(value, to); err != nil {
		return malformedJSON(err)
	}
	return nil
}

func (jsonFormat) Write(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("splice: write %T: %v", v, err)) // strings and flags can be written
	}
	return text
}
