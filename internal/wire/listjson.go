package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// jsonList reads a JSON list.
type jsonList struct {
	jsonStream
	fn    func(Item) error
	list  List
	seen  keySet
	items int
}

// The keys of a list.
const (
	listKind keySet = 1 << iota
	listAPIVersion
	listMetadata
	listItems
)

func readJSONList(w window, fn func(Item) error) (List, error) {
	l := jsonList{jsonStream: jsonStream{window: w}, fn: fn}
	switch c, err := l.peek(); {
	case errors.Is(err, io.EOF):
		return List{}, fmt.Errorf("%w: %s", ErrNotList, glimpse(nil))
	case err != nil:
		return List{}, truncated(err)
	case c != '{':
		return List{}, fmt.Errorf("%w: %s", ErrNotList, glimpse(l.buf[l.mark:]))
	}
	l.pos++
	if err := l.readMembers(); err != nil {
		return List{}, err
	}
	if err := l.finish(); err != nil {
		return List{}, err
	}
	return l.list, nil
}

func (l *jsonList) readMembers() error {
	if c, err := l.peek(); err != nil {
		return truncated(err)
	} else if c == '}' {
		l.pos++
		return nil
	}
	for {
		if err := l.readMember(); err != nil {
			return err
		}
		if c, err := l.take(',', '}'); err != nil || c == '}' {
			return err
		}
	}
}

func (l *jsonList) readMember() error {
	if c, err := l.peek(); err != nil {
		return truncated(err)
	} else if c != '"' {
		return fmt.Errorf("%w JSON: %q where a key should be", ErrMalformed, c)
	}
	raw, err := l.value()
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	c := cursor{b: raw}
	text, err := c.text()
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	key := string(text.bytes())
	if _, err := l.take(':', ':'); err != nil {
		return err
	}
	if key == "items" {
		if err := l.seen.add(listItems); err != nil {
			return err
		}
		return l.readItems()
	}
	if raw, err = l.value(); err == nil {
		err = l.readValue(key, raw)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// readValue reads the value of any key but items.
func (l *jsonList) readValue(key string, raw []byte) error {
	c := cursor{b: raw}
	switch key {
	case "kind":
		return l.seen.text(&c, listKind, &l.list.List.Kind)
	case "apiVersion":
		l.list.SortedKeys = l.seen&listKind == 0
		return l.seen.text(&c, listAPIVersion, &l.list.List.APIVersion)
	case "metadata":
		if err := l.seen.add(listMetadata); err != nil {
			return err
		}
		return l.list.ListMeta.parseJSON(&c)
	}
	if err := c.skip(1); err != nil {
		return err
	}
	return c.end()
}

func (l *jsonList) readItems() error {
	c, err := l.peek()
	if err != nil {
		return truncated(err)
	}
	if c == 'n' {
		raw, err := l.value()
		if err == nil && string(raw) != "null" {
			err = fmt.Errorf("%w JSON: items: %q", ErrMalformed, raw)
		}
		return err
	}
	if c != '[' {
		return fmt.Errorf("%w: items are no array", ErrNotList)
	}
	l.pos++
	if c, err = l.peek(); err != nil {
		return truncated(err)
	}
	if c == ']' {
		l.pos++
		return nil
	}
	for {
		if err := l.readItem(); err != nil {
			return fmt.Errorf("item %d: %w", l.items, err)
		}
		l.items++
		if c, err := l.take(',', ']'); err != nil || c == ']' {
			return err
		}
	}
}

func (l *jsonList) readItem() error {
	raw, err := l.value()
	if err != nil {
		return err
	}
	o, err := parseJSON(raw)
	if err != nil {
		return err
	}
	if o.Name == "" {
		return fmt.Errorf("%w: no name", ErrMalformed)
	}
	if l.items == 0 {
		l.list.Item = o.TypeMeta
	} else if o.TypeMeta != l.list.Item {
		return fmt.Errorf("%w: a %q after a %q", ErrNotList, o.Kind, l.list.Item.Kind)
	}
	return l.fn(Item{o.Meta, raw})
}

// finish checks what was read, and infers what the list does not say.
func (l *jsonList) finish() error {
	if c, err := l.peek(); err == nil {
		return fmt.Errorf("%w JSON: %q after the end", ErrMalformed, c)
	} else if !errors.Is(err, io.EOF) {
		return truncated(err)
	}
	if l.seen&listItems == 0 {
		return fmt.Errorf("%w: a %q without items", ErrNotList, l.list.List.Kind)
	}
	if err := checkListType(l.list.List); err != nil {
		return err
	}
	if l.items == 0 && l.list.List == (TypeMeta{metaV1, partialKind + "List"}) {
		l.list.Item = itemType(l.list.List)
	}
	l.list.TypedItems = l.list.Item.Kind != "" || l.items == 0 && l.list.SortedKeys
	if !l.list.TypedItems {
		l.list.Item = itemType(l.list.List)
	}
	return nil
}

func (m *ListMeta) parseJSON(c *cursor) error {
	if !c.at('{') {
		return c.word("null")
	}
	var seen keySet
	for first := true; ; first = false {
		key, err := c.member(first)
		if key == nil || err != nil {
			return err
		}
		switch string(key) {
		case "resourceVersion":
			err = seen.text(c, 1, &m.ResourceVersion)
		case "continue":
			err = seen.text(c, 2, &m.Continue)
		case "remainingItemCount":
			begin := c.i
			if err = c.skip(2); err == nil {
				err = json.Unmarshal(c.b[begin:c.i], &m.RemainingItemCount)
			}
		default:
			err = c.skip(2)
		}
		if err != nil {
			return err
		}
	}
}

// appendListMetaJSON appends a ListMeta as the API server spells it: that of a Go type without its empty fields, in
// the order of the type; that of a custom resource, for which sorted is set, with an empty continue, in alphabetical order.
func appendListMetaJSON(dst []byte, meta ListMeta, sorted bool) []byte {
	dst = append(dst, '{')
	if sorted {
		dst = append(dst, `"continue":`...)
		dst = append(appendText(dst, meta.Continue), ',')
		dst = meta.appendRemainingJSON(dst)
		dst = append(dst, `"resourceVersion":`...)
		return append(appendText(dst, meta.ResourceVersion), '}')
	}
	if meta.ResourceVersion != "" {
		dst = append(dst, `"resourceVersion":`...)
		dst = append(appendText(dst, meta.ResourceVersion), ',')
	}
	if meta.Continue != "" {
		dst = append(dst, `"continue":`...)
		dst = append(appendText(dst, meta.Continue), ',')
	}
	dst = meta.appendRemainingJSON(dst)
	if dst[len(dst)-1] == ',' {
		dst = dst[:len(dst)-1]
	}
	return append(dst, '}')
}

func (m ListMeta) appendRemainingJSON(dst []byte) []byte {
	if m.RemainingItemCount == 0 {
		return dst
	}
	dst = append(dst, `"remainingItemCount":`...)
	return append(strconv.AppendInt(dst, m.RemainingItemCount, 10), ',')
}
