package comeback

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"yurt/internal/credential"
	"yurt/internal/replica"
	apirequest "yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

const (
	// probing is how often a hub looks whether the link is back.
	probing = time.Second
	// answering is how long the API server takes.
	answering = 20 * time.Millisecond
)

// hubs are the feeds of the hubs of many nodes, over one store: their keys differ
// by the client.
type hubs struct {
	t     *testing.T
	seen  *tally
	store *store.Store
	links []*link
	sets  []*replica.Set
}

func newHubs(t *testing.T, n int, seen *tally) *hubs {
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(t.TempDir(), store.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	h := &hubs{t: t, seen: seen, store: st}
	for range n {
		l := &link{seen: seen, now: upstream.Link{State: upstream.Up, Since: time.Now()}, changed: make(chan struct{}), version: 100, streams: map[*io.PipeWriter]struct{}{}}
		set, err := replica.Open(st, l, log)
		if err != nil {
			t.Fatal(err)
		}
		h.links, h.sets = append(h.links, l), append(h.sets, set)
	}
	return h
}

func (h *hubs) begin(ctx context.Context, running *sync.WaitGroup) {
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	var sets, committer sync.WaitGroup
	committer.Go(func() { _ = h.store.Run(storeCtx) })
	for i, set := range h.sets {
		sets.Go(func() { _ = set.Run(ctx) })
		for _, c := range collections() {
			h.use(i, c)
		}
	}
	running.Go(func() {
		sets.Wait()
		stopStore()
		committer.Wait()
		if err := h.store.Close(); err != nil {
			h.t.Error(err)
		}
	})
}

func (h *hubs) use(i int, c collection) {
	group, version, _ := strings.Cut(c.version, "/")
	if version == "" {
		group, version = "", group
	}
	key := replica.Key{
		Resource:       apirequest.Resource{Group: group, Version: version, Resource: c.resource},
		Representation: wire.Representation{Preference: wire.OnlyJSON},
		// The store is shared: the name keeps one node's collections from another's.
		LabelSelector: fmt.Sprintf("node=%d", i),
	}
	if c.selector != "" {
		key.FieldSelector = strings.ReplaceAll(c.selector, "%s", fmt.Sprintf("node-%d", i))
	}
	if c.client != "node" {
		key.Identity = credential.Identity{Name: c.client}
	}
	if _, err := h.sets[i].Use(key, credential.Credential{Identity: key.Identity}, 0); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hubs) cut(historyLost bool) {
	for _, l := range h.links {
		l.set(upstream.Down)
		if historyLost {
			l.mu.Lock()
			l.floor, l.version = 200, 200
			l.mu.Unlock()
		}
	}
}

// heal: each hub notices with its next probe.
func (h *hubs) heal() {
	for _, l := range h.links {
		time.AfterFunc(rand.N(probing), func() { l.set(upstream.Up) })
	}
}

// link is the way of one hub to the API server.
type link struct {
	seen *tally

	mu             sync.Mutex
	now            upstream.Link
	changed        chan struct{}
	version, floor int
	streams        map[*io.PipeWriter]struct{}
}

func (l *link) Link() upstream.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *link) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *link) WaitUp(ctx context.Context) error {
	for {
		changed := l.Changed()
		if l.Link().State == upstream.Up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *link) set(state upstream.State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = upstream.Link{State: state, Since: time.Now()}
	close(l.changed)
	l.changed = make(chan struct{})
	for w := range l.streams {
		w.CloseWithError(io.ErrUnexpectedEOF)
	}
	clear(l.streams)
}

func (l *link) RoundTrip(r *http.Request, _ credential.Credential) (*http.Response, error) {
	if l.Link().State != upstream.Up {
		return nil, upstream.ErrDown
	}
	q := apirequest.Parse(r)
	watch := q.Verb == apirequest.Watch
	l.seen.note(!watch && q.Options.Limit == 0)
	time.Sleep(answering)
	l.mu.Lock()
	defer l.mu.Unlock()
	resp := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}}}
	if !watch {
		resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(`{"kind":"ThingList","apiVersion":"v1","metadata":{"resourceVersion":"%d"},"items":[`+
			`{"kind":"Thing","apiVersion":"v1","metadata":{"name":"a","uid":"u","resourceVersion":"%d"}}]}`, l.version, l.version)))
		return resp, nil
	}
	var from int
	if _, err := fmt.Sscan(q.Options.ResourceVersion, &from); err != nil {
		return nil, err
	}
	if from < l.floor {
		resp.Body = io.NopCloser(strings.NewReader(
			`{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","reason":"Expired","code":410}}` + "\n"))
		return resp, nil
	}
	body, w := io.Pipe()
	l.streams[w] = struct{}{}
	context.AfterFunc(r.Context(), func() { w.CloseWithError(io.ErrUnexpectedEOF) })
	resp.Body = body
	return resp, nil
}
