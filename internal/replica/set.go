// Package replica keeps a durable local copy of every list+watch that clients
// on this node make, and answers them from it, whether the cloud can be
// reached or not.
//
// Each collection has a feed that follows the cloud with the client's own
// credential: it lists once, watches from there, resumes from its stored
// revision after an outage, and lists again only when the API server no longer
// has the history. Clients' watches are cursors over the store's history, so
// that they neither break when the link does nor hold anything back.
//
// It guarantees that no client sees an event before it is durable, that lists
// are complete at one revision or not answered at all, and that no client's
// view goes back in time. It never edits an object and never answers for an
// identity with what was fetched for another.
package replica

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"yurt/internal/credential"
	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
)

// Upstream is the way to the cloud.
type Upstream interface {
	RoundTrip(*http.Request, credential.Credential) (*http.Response, error)
	Link() upstream.Link
	Changed() <-chan struct{}
	WaitUp(context.Context) error
}

const (
	// tablePrefix marks the store's tables that are collections.
	tablePrefix = "collection "

	// defaultLinger is how long a feed goes on after its last client: a client
	// that restarts finds its collection as fresh as it left it.
	defaultLinger = 15 * time.Minute
)

// Set is all collections of the node.
type Set struct {
	store  *store.Store
	up     Upstream
	log    *slog.Logger
	linger time.Duration
	spread func(most time.Duration) time.Duration // draws a time to wait

	overlay *overlay.Overlay // nil: none
	node    string           // whose pods it is about

	retention atomic.Pointer[Retention]

	unauthorized func(credential.Credential) // nil: nobody wants to know

	history history

	turns  turns
	starts chan func(context.Context)
	ended  chan struct{} // Run has

	mu          sync.Mutex
	collections map[Key]*Collection
}

// Open returns the set of the collections that the store holds. They are
// readable at once; their feeds start when somebody asks for them.
func Open(st *store.Store, up Upstream, log *slog.Logger) (*Set, error) {
	s := &Set{
		store: st, up: up, log: log, linger: defaultLinger, spread: rand.N[time.Duration],
		starts:      make(chan func(context.Context)),
		ended:       make(chan struct{}),
		collections: map[Key]*Collection{},
	}
	for _, name := range st.Tables() {
		rest, ok := strings.CutPrefix(name, tablePrefix)
		if !ok {
			continue
		}
		key, err := ParseKey(rest)
		if err != nil {
			log.Warn("the store holds a collection that can't be named, it is left alone", "error", err)
			continue
		}
		if _, err := s.open(key); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// OnUnauthorized makes f be told of credentials with which the API server no
// longer lets a feed in. It must be called before Run.
func (s *Set) OnUnauthorized(f func(credential.Credential)) { s.unauthorized = f }

// Run runs the feeds until ctx ends and all of them have ended.
func (s *Set) Run(ctx context.Context) error {
	var feeds sync.WaitGroup // and refreshes
	defer feeds.Wait()
	defer close(s.ended)
	feeds.Go(func() { s.forgetAll(ctx) })
	for {
		select {
		case work := <-s.starts:
			feeds.Go(func() { work(ctx) })
		case <-ctx.Done():
			return nil
		}
	}
}

// start makes work begin. It is called with a context that ends with Run; after
// that, work is called with one that has ended.
func (s *Set) start(work func(context.Context)) {
	select {
	case s.starts <- work:
	case <-s.ended:
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		work(ended)
	}
}

// open returns the collection of key, made if it is new.
func (s *Set) open(key Key) (*Collection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.collections[key]; c != nil {
		return c, nil
	}
	table, err := s.store.Table(tablePrefix+key.String(), store.KeepHistory)
	if err != nil {
		return nil, fmt.Errorf("open collection %s: %w", key, err)
	}
	c := newCollection(key, table, s)
	s.collections[key] = c
	return c, nil
}

// Use returns the collection of key and keeps it fed with the credential from
// now on. If it is new and startAt is not 0, its history begins at that version
// if the API server still has it.
func (s *Set) Use(key Key, cred credential.Credential, startAt uint64) (*Collection, error) {
	for {
		c, err := s.open(key)
		if err != nil {
			return nil, err
		}
		c.startAt.CompareAndSwap(0, startAt)
		if c.use(cred) {
			return c, nil
		}
		c.mu.Lock()
		leaving := c.leaving
		c.mu.Unlock()
		if leaving != nil {
			<-leaving // for as long as one commit takes
		}
	}
}

// Lookup returns the collection of key if there is one.
func (s *Set) Lookup(key Key) (*Collection, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.collections[key]
	return c, ok
}

// All returns the collections in the order of their names.
func (s *Set) All() []*Collection {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.collections))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *Collection) int { return strings.Compare(a.Key.String(), b.Key.String()) })
	return all
}

// Holding returns the populated collections of an identity that may hold
// objects of the resource in the namespace.
func (s *Set) Holding(identity credential.Identity, resource request.Resource, namespace string) []*Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var holding []*Collection
	for key, c := range s.collections {
		if key.Identity != identity || key.Resource != resource || key.Namespace != "" && key.Namespace != namespace {
			continue
		}
		if _, populated := c.current(); populated && c.Denied() == nil {
			holding = append(holding, c)
		}
	}
	return holding
}

func (s *Set) down() bool { return s.up.Link().State == upstream.Down }
