package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Stream is a watch in protobuf.
type Stream struct {
	body   io.ReadCloser
	reader *bufio.Reader
	frame  []byte
	Bytes  int64 // of frames so far
}

// ErrServerSaid is an event of type ERROR.
var ErrServerSaid = errors.New("the server ended the watch")

// Watch begins a watch. The parameters are added to those that every client-go watch has.
func (c *Client) Watch(ctx context.Context, path string, params url.Values) (*Stream, error) {
	query := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {"1800"}}
	for key, value := range params {
		query[key] = value
	}
	resp, err := c.send(ctx, http.MethodGet, path+"?"+query.Encode(), Protobuf, http.NoBody) //nolint:bodyclose // Stream.Close closes it
	if err != nil {
		return nil, err
	}
	return &Stream{body: resp.Body, reader: bufio.NewReaderSize(resp.Body, 64<<10)}, nil
}

// WatchList returns the parameters of a reflector's first watch.
func WatchList(fieldSelector string) url.Values {
	v := url.Values{"sendInitialEvents": {"true"}, "resourceVersionMatch": {"NotOlderThan"}}
	if fieldSelector != "" {
		v.Set("fieldSelector", fieldSelector)
	}
	return v
}

// Next returns the type and the object of the next event. The object is valid until the call after it.
func (s *Stream) Next() (typ string, object []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(s.reader, head[:]); err != nil {
		return "", nil, fmt.Errorf("read watch: %w", err)
	}
	size := int(binary.BigEndian.Uint32(head[:]))
	if size > 16<<20 {
		return "", nil, fmt.Errorf("read watch: an event of %d bytes", size)
	}
	if size > cap(s.frame) {
		s.frame = make([]byte, size)
	}
	s.frame = s.frame[:size]
	if _, err := io.ReadFull(s.reader, s.frame); err != nil {
		return "", nil, fmt.Errorf("read watch: %w", err)
	}
	s.Bytes += int64(size + len(head))
	name := field(s.frame, 1)
	raw := field(s.frame, 2)
	object = field(raw, 1)
	if string(name) == "ERROR" {
		return "ERROR", object, fmt.Errorf("read watch: %w: %q", ErrServerSaid, object)
	}
	return string(name), object, nil
}

// Sync reads the initial events and returns how many objects there were.
func (s *Stream) Sync() (int, error) {
	for n := 0; ; n++ {
		typ, object, err := s.Next()
		if err != nil {
			return n, err
		}
		if typ == "BOOKMARK" && bytes.Contains(object, []byte("k8s.io/initial-events-end")) {
			return n, nil
		}
	}
}

// Mark returns what follows a mark in an object, as many bytes as size.
func Mark(object []byte, mark string, size int) (string, bool) {
	at := bytes.Index(object, []byte(mark))
	if at < 0 || at+len(mark)+size > len(object) {
		return "", false
	}
	return string(object[at+len(mark) : at+len(mark)+size]), true
}

// Close ends the watch.
func (s *Stream) Close() { s.body.Close() }
