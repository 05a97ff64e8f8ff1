package wire

import (
	"fmt"
	"unicode/utf8"
)

const (
	// initialEventsEnd is the annotation of the bookmark that ends a watch's initial events.
	initialEventsEnd = "k8s.io/initial-events-end"

	metaV1      = "meta.k8s.io/v1"
	partialKind = "PartialObjectMetadata"
)

// jsonObject is what one object says of itself. Its offsets are those of the cursor that read it.
type jsonObject struct {
	Meta
	TypeMeta
	begin, end int
	// metadata is where the value of "metadata" begins and ends; zero if there is none.
	metadata struct{ begin, end int }
	// sorted says that apiVersion is the first key: keys are in alphabetical order.
	sorted bool
	// rest is the offset of the comma after a leading kind and apiVersion, in this order, which is how an object of a Go type
	// begins where it stands alone; 0 if it begins otherwise.
	rest int
}

// parseJSON reads one object and checks that it is well-formed, whole and alone.
func parseJSON(b []byte) (jsonObject, error) {
	c := cursor{b: b}
	o, err := c.object()
	if err == nil {
		err = c.end()
	}
	return o, err
}

// object takes one object.
func (c *cursor) object() (jsonObject, error) {
	var seen keySet
	c.space()
	o := jsonObject{begin: c.i}
	for n := 0; ; n++ {
		key, err := c.member(n == 0)
		if err != nil {
			return o, err
		}
		if key == nil {
			o.end = c.i
			return o, nil
		}
		switch string(key) {
		case "kind":
			err = seen.text(c, 1, &o.Kind)
		case "apiVersion":
			o.sorted = n == 0
			err = seen.text(c, 2, &o.APIVersion)
			if n == 1 && seen == 1|2 && c.space() == ',' {
				o.rest = c.i
			}
		case "metadata":
			if err = seen.add(4); err == nil {
				o.metadata.begin = c.i
				err = o.Meta.parseJSON(c)
				o.metadata.end = c.i
			}
		default:
			err = c.skip(1)
		}
		if err != nil {
			return o, err
		}
	}
}

func (m *Meta) parseJSON(c *cursor) error {
	var seen keySet
	for first := true; ; first = false {
		key, err := c.member(first)
		if key == nil || err != nil {
			return err
		}
		switch string(key) {
		case "name":
			err = seen.text(c, 1, &m.Name)
		case "namespace":
			err = seen.text(c, 2, &m.Namespace)
		case "uid":
			err = seen.text(c, 4, &m.UID)
		case "resourceVersion":
			err = seen.text(c, 8, &m.ResourceVersion)
		case "annotations":
			if err = seen.add(16); err == nil {
				err = m.parseAnnotations(c)
			}
		default:
			err = c.skip(2)
		}
		if err != nil {
			return err
		}
	}
}

func (m *Meta) parseAnnotations(c *cursor) error {
	if !c.at('{') {
		return c.word("null")
	}
	for first := true; ; first = false {
		key, err := c.member(first)
		if key == nil || err != nil {
			return err
		}
		if string(key) != initialEventsEnd {
			if err := c.skip(3); err != nil {
				return err
			}
			continue
		}
		value, err := c.text()
		if err != nil {
			return err
		}
		m.InitialEventsEnd = string(value.bytes()) == "true"
	}
}

// keySet remembers which of an object's keys were read. A key that is read may come once: of two, another
// reader might take the other one.
type keySet uint8

func (k *keySet) add(key keySet) error {
	if *k&key != 0 {
		return fmt.Errorf("%w JSON: a key comes twice", ErrMalformed)
	}
	*k |= key
	return nil
}

// text takes a string or null as the value of a key.
func (k *keySet) text(c *cursor, key keySet, to *string) error {
	if err := k.add(key); err != nil {
		return err
	}
	if c.at('n') {
		return c.word("null")
	}
	t, err := c.text()
	if err != nil {
		return err
	}
	if !utf8.Valid(t.spelled) {
		return fmt.Errorf("%w JSON: %q is not UTF-8", ErrMalformed, t.spelled)
	}
	*to = string(t.bytes())
	return nil
}

// bareInLists says whether objects of a type stand without kind and apiVersion in lists, if they begin with the two, in this order, where
// they stand alone. Objects of Go types do. Those of custom resources, with their keys in alphabetical order, don't, and
// the API server gives every PartialObjectMetadata its type.
func bareInLists(tm TypeMeta) bool {
	return tm != TypeMeta{metaV1, partialKind}
}

// itemForm returns the object as it stands in a list. It overwrites one byte of b, from which o was read.
func (o jsonObject) itemForm(b []byte) []byte {
	if o.rest == 0 || !bareInLists(o.TypeMeta) {
		return b[o.begin:o.end]
	}
	b[o.rest] = '{'
	return b[o.rest:o.end]
}

// hasTypeJSON reports whether a well-formed object carries its type. It does not read on once metadata is the first key: in
// both orders of keys that there are, that of Go types and the alphabetical one, the type would have come before.
func hasTypeJSON(b []byte) bool {
	c := cursor{b: b}
	for first := true; ; first = false {
		key, err := c.member(first)
		switch {
		case key == nil || err != nil:
			return false
		case string(key) == "kind" || string(key) == "apiVersion":
			return true
		case first && string(key) == "metadata":
			return false
		}
		if err := c.skip(1); err != nil {
			return false
		}
	}
}

// appendJSONObject appends an item as it stands alone, with its type.
func appendJSONObject(dst []byte, tm TypeMeta, item []byte) []byte {
	if hasTypeJSON(item) {
		return append(dst, item...)
	}
	dst = append(dst, `{"kind":`...)
	dst = appendText(dst, tm.Kind)
	dst = append(dst, `,"apiVersion":`...)
	dst = appendText(dst, tm.APIVersion)
	c := cursor{b: item}
	if key, err := c.member(true); key != nil && err == nil {
		dst = append(dst, ',')
	}
	return append(dst, item[1:]...)
}

// editJSON appends a well-formed item with e made to its metadata.
func editJSON(dst, item []byte, e edit) ([]byte, error) {
	o, err := parseJSON(item)
	if err != nil {
		return dst, err
	}
	if o.metadata.end == 0 {
		return dst, errNoMetadata()
	}
	const ended = `"annotations":{"` + initialEventsEnd + `":"true"},`
	dst = append(dst, item[:o.metadata.begin+1]...)
	body := len(dst)
	if e.annotations == endAnnotation && o.sorted {
		dst = append(dst, ended...)
	}
	c := cursor{b: item, i: o.metadata.begin}
	dst, versioned, err := c.appendMetadata(dst, e)
	if err != nil {
		return dst, err
	}
	if !versioned {
		dst = append(dst, `"resourceVersion":`...)
		dst = append(appendText(dst, e.version), ',')
	}
	if e.annotations == endAnnotation && !o.sorted {
		dst = append(dst, ended...)
	}
	if len(dst) > body {
		dst = dst[:len(dst)-1] // the last comma
	}
	return append(dst, item[o.metadata.end-1:]...), nil
}

// appendMetadata appends the members of the metadata at the cursor as e leaves them, each with a comma behind it. It reports
// whether there is a resourceVersion among them.
func (c *cursor) appendMetadata(dst []byte, e edit) (_ []byte, versioned bool, _ error) {
	for first := true; ; first = false {
		begin := c.i + 1
		key, err := c.member(first)
		if key == nil || err != nil {
			return dst, versioned, err
		}
		value := c.i
		if err := c.skip(2); err != nil {
			return dst, versioned, err
		}
		switch string(key) {
		case "resourceVersion":
			versioned = true
			dst = appendText(append(dst, c.b[begin:value]...), e.version)
		case "annotations":
			if e.annotations != keepAnnotations {
				continue
			}
			dst = append(dst, c.b[begin:c.i]...)
		default:
			dst = append(dst, c.b[begin:c.i]...)
		}
		dst = append(dst, ',')
	}
}
