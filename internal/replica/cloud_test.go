package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/upstream"
)

// cloud is an API server for ConfigMaps, in JSON, whose link, history and mood
// a test can change. It keeps to the protocol; what it makes go wrong is what a
// real one can't be made to do at a chosen moment.
type cloud struct {
	mu       sync.Mutex
	link     upstream.Link
	changed  chan struct{}
	revision uint64
	objects  map[string]object
	events   []cloudEvent // all since floor
	floor    uint64
	past     []cloudEvent // all there ever were
	streams  map[*io.PipeWriter]struct{}
	wake     chan struct{}
	requests []string // since the last look

	deny     int    // status code for every request
	busy     int    // so many requests are answered 429
	silent   bool   // requests get no answer
	breathes bool   // watches end as soon as they have begun
	forgets  bool   // watches are answered 410
	expired  string // the token that gets a 401
	truncate int    // items after which a list breaks off
	body     string // instead of a list
	mime     string
}

type object struct {
	UID      string
	Revision uint64
	Value    string
}

type cloudEvent struct {
	typ  string
	key  string
	body object
}

func newCloud() *cloud {
	return &cloud{
		link: upstream.Link{State: upstream.Up, Since: time.Now()}, changed: make(chan struct{}),
		revision: 100, floor: 100, objects: map[string]object{}, streams: map[*io.PipeWriter]struct{}{}, wake: make(chan struct{}), mime: "application/json",
	}
}

func (c *cloud) Link() upstream.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *cloud) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *cloud) WaitUp(ctx context.Context) error {
	for {
		changed := c.Changed()
		if c.Link().State == upstream.Up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// set changes the link and, if it goes down, breaks every stream.
func (c *cloud) set(state upstream.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = upstream.Link{State: state, Since: time.Now()}
	close(c.changed)
	c.changed = make(chan struct{})
	c.breakStreams(errors.New("connection lost"))
}

func (c *cloud) breakStreams(err error) {
	for w := range c.streams {
		w.CloseWithError(err)
	}
	clear(c.streams)
}

// change makes a revision.
func (c *cloud) change(typ, key, value string, recreate bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision++
	o, known := c.objects[key]
	if !known || recreate {
		o.UID = fmt.Sprintf("uid-%d", c.revision)
	}
	o.Revision = c.revision
	if typ == "DELETED" {
		delete(c.objects, key)
	} else {
		o.Value = value
		c.objects[key] = o
		if typ = "MODIFIED"; !known {
			typ = "ADDED"
		}
	}
	c.add(cloudEvent{typ, key, o})
}

func (c *cloud) add(e cloudEvent) {
	c.events = append(c.events, e)
	c.past = append(c.past, e)
	close(c.wake)
	c.wake = make(chan struct{})
}

// RoundTrip answers as an API server does.
func (c *cloud) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	q := request.Parse(r)
	if c.hangs(q) {
		<-r.Context().Done()
		return nil, context.Cause(r.Context())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link.State != upstream.Up {
		return nil, upstream.ErrDown
	}
	o := q.Options
	c.requests = append(c.requests, fmt.Sprintf("%s version=%q match=%q", q.Verb, o.ResourceVersion, o.ResourceVersionMatch))
	if c.busy > 0 {
		c.busy--
		busy := c.answer(http.StatusTooManyRequests, "application/json", statusBody(http.StatusTooManyRequests, "TooManyRequests"))
		busy.Header.Set("Retry-After", "1")
		return busy, nil
	}
	if c.deny != 0 {
		return c.answer(c.deny, "application/json", statusBody(c.deny, "Forbidden")), nil
	}
	if c.expired != "" && c.expired == cred.Token {
		return c.answer(http.StatusUnauthorized, "application/json", statusBody(http.StatusUnauthorized, "Unauthorized")), nil
	}
	if q.Verb == request.Watch && c.breathes {
		return c.answer(http.StatusOK, "application/json", nil), nil
	}
	if q.Verb == request.Watch {
		return c.watch(r.Context(), o.ResourceVersion, o.Timeout)
	}
	if c.body != "" {
		return c.answer(http.StatusOK, c.mime, []byte(c.body)), nil
	}
	if version, err := strconv.ParseUint(o.ResourceVersion, 10, 64); err == nil && version > c.revision {
		return c.answer(http.StatusGatewayTimeout, "application/json", []byte(tooLargeBody)), nil
	}
	return c.list(), nil
}

func (c *cloud) hangs(q *request.Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent {
		c.requests = append(c.requests, fmt.Sprintf("%s unanswered", q.Verb))
	}
	return c.silent
}

func (c *cloud) answer(code int, contentType string, body []byte) *http.Response {
	return &http.Response{
		StatusCode: code, Status: strconv.Itoa(code) + " " + http.StatusText(code),
		Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(bytes.NewReader(body)),
	}
}

func statusBody(code int, reason string) []byte {
	return fmt.Appendf(nil, `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":%q,"code":%d}`, reason, code)
}

// tooLargeBody is what the API server says about a version that is yet to come.
const tooLargeBody = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Too large resource version","reason":"Timeout",` +
	`"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}]},"code":504}`

func (c *cloud) list() *http.Response {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[`, c.revision)
	for i, key := range slices.Sorted(maps.Keys(c.objects)) {
		if c.truncate > 0 && i == c.truncate {
			r, w := io.Pipe()
			c.streams[w] = struct{}{}
			return &http.Response{
				StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {c.mime}},
				Body: struct {
					io.Reader
					io.Closer
				}{io.MultiReader(&b, r), r},
			}
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(itemBody(key, c.objects[key]))
	}
	b.WriteString("]}\n")
	return c.answer(http.StatusOK, c.mime, b.Bytes())
}

// text is what a list of the cloud should read like.
func (c *cloud) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out strings.Builder
	fmt.Fprintf(&out, "ConfigMapList @%d:", c.revision)
	for _, key := range slices.Sorted(maps.Keys(c.objects)) {
		fmt.Fprintf(&out, " %s=%s", key, c.objects[key].Value)
	}
	return out.String() + "\n"
}

func itemBody(key string, o object) []byte {
	return fmt.Appendf(nil, `{"metadata":{"name":%q,"namespace":"shop","uid":%q,"resourceVersion":"%d"},"data":{"v":%q}}`, key, o.UID, o.Revision, o.Value)
}

// watch streams what came after a version, and ends with the request.
func (c *cloud) watch(ctx context.Context, version string, timeout time.Duration) (*http.Response, error) {
	from, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	c.streams[w] = struct{}{}
	if from < c.floor || c.forgets {
		go func() {
			fmt.Fprintf(w, `{"type":"ERROR","object":%s}`+"\n", statusBody(http.StatusGone, "Expired"))
			w.Close()
		}()
	} else {
		go c.stream(ctx, w, from, time.After(timeout))
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}, Body: r}, nil
}

func (c *cloud) stream(ctx context.Context, w *io.PipeWriter, from uint64, over <-chan time.Time) {
	defer w.Close()
	for {
		c.mu.Lock()
		wake, _ := c.wake, c.streams[w]
		var next []cloudEvent
		for _, e := range c.events {
			if e.body.Revision > from {
				next = append(next, e)
			}
		}
		c.mu.Unlock()
		for _, e := range next {
			from = e.body.Revision
			if _, err := w.Write(eventBody(e)); err != nil {
				return
			}
		}
		select {
		case <-wake:
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

func eventBody(e cloudEvent) []byte {
	if e.typ == "BOOKMARK" {
		return fmt.Appendf(nil, `{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d"}}}`+"\n", e.body.Revision)
	}
	if e.typ == "GARBAGE" {
		return []byte(`{"type":"MODIFIED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":7}}` + "\n")
	}
	item := itemBody(e.key, e.body)
	return fmt.Appendf(nil, `{"type":%q,"object":{"kind":"ConfigMap","apiVersion":"v1",%s}`+"\n", e.typ, item[1:])
}

func (c *cloud) takeRequests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.requests
	c.requests = nil
	return taken
}

// seen is an event as a client sees it.
type seen struct {
	typ, kind, name, uid, value string
	revision                    uint64
	end                         bool // of the initial events
	code                        int  // of an error
}

func parseEvents(stream []byte) []seen {
	var all []seen
	decoder := json.NewDecoder(bytes.NewReader(stream))
	for {
		var e struct {
			Type   string
			Object struct {
				Kind     string
				Code     int
				Metadata struct {
					Name, UID, ResourceVersion string
					Annotations                map[string]string
				}
				Data map[string]string
			}
		}
		if err := decoder.Decode(&e); err != nil {
			return all
		}
		m := e.Object.Metadata
		revision, _ := strconv.ParseUint(m.ResourceVersion, 10, 64)
		all = append(all, seen{
			typ: e.Type, kind: e.Object.Kind, name: m.Name, uid: m.UID, value: e.Object.Data["v"],
			revision: revision, end: m.Annotations["k8s.io/initial-events-end"] == "true", code: e.Object.Code,
		})
	}
}

// decodeEvents turns a watch stream into a line an event.
func decodeEvents(stream []byte) string {
	var out strings.Builder
	for _, e := range parseEvents(stream) {
		switch {
		case e.typ == "ERROR":
			fmt.Fprintf(&out, "ERROR %d\n", e.code)
		case e.end:
			fmt.Fprintf(&out, "BOOKMARK %s @%d end of initial events\n", e.kind, e.revision)
		case e.typ == "BOOKMARK":
			fmt.Fprintf(&out, "BOOKMARK %s @%d\n", e.kind, e.revision)
		default:
			fmt.Fprintf(&out, "%s %s=%s @%d\n", e.typ, e.name, e.value, e.revision)
		}
	}
	return out.String()
}
