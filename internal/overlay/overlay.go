package overlay

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"yurt/internal/store"
	"yurt/internal/wire"
)

const tableName = "overlay"

// Key names an object in its collection.
type Key struct{ Namespace, Name string }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

func parseKey(s string) (Key, bool) {
	namespace, name, ok := strings.Cut(s, "/")
	return Key{namespace, name}, ok && namespace != "" && name != ""
}

// Options are what Open may be told.
type Options struct {
	Logger *slog.Logger
	// Publishes reports whether a Service publishes the addresses of pods that are not ready; known is false where the node
	// does not see that Service. Without it, or where it does not know, the slice's own endpoints have to tell.
	Publishes func(namespace, service string) (publishes, known bool)
}

// Overlay is the status of this node's pods as the kubelet has told it and the cloud does not know yet. It begins as it is
// with the cloud away. Its methods may be called by several goroutines; those that show an object take no lock.
type Overlay struct {
	store     *store.Store
	table     *store.Table
	logger    *slog.Logger
	publishes func(namespace, service string) (publishes, known bool)

	// writing is held by who writes to the store, from reading the entry to publishing its successor. Whoever only notes a
	// fact takes mu alone, and never waits for the disk.
	writing sync.Mutex
	mu      sync.Mutex // held to replace state
	state   atomic.Pointer[state]
}

// state is what the overlay is at one moment. It never changes.
type state struct {
	dark    bool
	seq     uint64        // number of the newest change that clients see
	changed chan struct{} // closed when there is a newer state with another seq
	entries map[Key]*entry
	uids    map[string]struct{} // of the entries that are not lifted
}

// Open reads the overlay out of the store. An entry that can't be read is left out: its pod shows as the cloud has it, until
// the kubelet's next status write.
func Open(s *store.Store, opts Options) (*Overlay, error) {
	table, err := s.Table(tableName, store.NoHistory)
	if err != nil {
		return nil, fmt.Errorf("open table %s: %w", tableName, err)
	}
	o := &Overlay{store: s, table: table, logger: opts.Logger, publishes: opts.Publishes}
	if o.logger == nil {
		o.logger = slog.New(slog.DiscardHandler)
	}
	if o.publishes == nil {
		o.publishes = func(string, string) (bool, bool) { return false, false }
	}
	first := &state{dark: true, changed: make(chan struct{}), entries: map[Key]*entry{}}
	view := table.View()
	defer view.Release()
	now := time.Now()
	for record, err := range view.Records("") {
		var e *entry
		key, ok := parseKey(record.Key)
		if err == nil && !ok {
			err = fmt.Errorf("key is not that of a pod")
		}
		if err == nil {
			e, err = unmarshalEntry(record.Value, now)
		}
		if err != nil {
			o.logger.Error("pod status written in the dark is lost", "pod", record.Key, "err", err)
			continue
		}
		first.seq++
		e.seq = first.seq
		first.entries[key] = e
	}
	first.collect()
	o.state.Store(first)
	return o, nil
}

// collect gathers the uids of the entries.
func (s *state) collect() {
	s.uids = map[string]struct{}{}
	for _, e := range s.entries {
		if e.state != Lifted {
			s.uids[e.uid] = struct{}{}
		}
	}
}

func (s *state) hasUID(uid []byte) bool {
	_, ok := s.uids[string(uid)]
	return ok
}

// transition is a change of the overlay being made.
type transition struct {
	state
	visible bool
}

// show puts an entry that clients see differently from now on.
func (t *transition) show(key Key, e *entry) {
	e.seq = t.seq + 1
	t.visible = true
	t.entries[key] = e
}

// change makes the next state. It waits for nothing.
func (o *Overlay) change(f func(*transition)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.state.Load()
	t := &transition{state: *before}
	t.entries = maps.Clone(before.entries)
	f(t)
	t.collect()
	if t.visible {
		t.seq++
		t.changed = make(chan struct{})
	}
	next := t.state
	o.state.Store(&next)
	if t.visible {
		close(before.changed)
	}
}

// Changed returns a channel that is closed at the next change that clients see. To wait without missing one, take the channel
// first, then ask Since.
func (o *Overlay) Changed() <-chan struct{} { return o.state.Load().changed }

// Since returns the pods whose entries have come, changed or gone since a change of this number, and the number of the newest.
// Who shows the pods themselves sends each of them again, who shows endpoints those that Index.Naming has for it. Since(0) is
// for a watch that resumes: all that may have changed since its client last knew.
func (o *Overlay) Since(seq uint64) (pods []Key, now uint64) {
	s := o.state.Load()
	if seq >= s.seq {
		return nil, s.seq
	}
	for key, e := range s.entries {
		if e.seq > seq {
			pods = append(pods, key)
		}
	}
	slices.SortFunc(pods, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
	return pods, s.seq
}

// Empty reports whether there is no entry, not even one that is lifted: nothing shows, and no watch has anything to be told.
func (o *Overlay) Empty() bool { return len(o.state.Load().entries) == 0 }

// Pods returns the pods that have an entry which may still show. After Open, and when a feed has listed anew, those of them
// that the cloud no longer has are Gone.
func (o *Overlay) Pods() []Key {
	var pods []Key
	for key, e := range o.state.Load().entries {
		if e.state != Lifted {
			pods = append(pods, key)
		}
	}
	slices.SortFunc(pods, func(a, b Key) int { return strings.Compare(a.String(), b.String()) })
	return pods
}

// State returns the state of a pod's entry; false if it has none.
func (o *Overlay) State(pod Key) (State, bool) {
	e, ok := o.state.Load().entries[pod]
	if !ok {
		return 0, false
	}
	return e.state, true
}

// Apply returns an object, in item form, as the node's clients should see it. item is as the cloud sent it, and comes back as
// it is where the overlay does not concern it; then changed is false. With an error it comes back too: the cloud's word is
// better than none.
func (o *Overlay) Apply(kind Kind, enc wire.Encoding, key Key, item []byte) (shows []byte, changed bool, err error) {
	s := o.state.Load()
	if len(s.uids) == 0 {
		return item, false, nil
	}
	switch kind {
	case Pods:
		shows, err = s.applyPod(enc, key, item)
	case EndpointSlices, Endpoints:
		var lit shown
		lit, err = o.applyEndpoints(s, object{kind, key}, enc, item)
		shows = lit.item
	default:
		return item, false, nil
	}
	if err != nil {
		return item, false, fmt.Errorf("lay status over %s: %w", key, err)
	}
	return shows, len(shows) == 0 || len(item) == 0 || &shows[0] != &item[0], nil
}

func (s *state) applyPod(enc wire.Encoding, key Key, item []byte) ([]byte, error) {
	e, ok := s.entries[key]
	if !ok || e.state != Dark {
		return item, nil
	}
	meta, err := wire.ParseItem(enc, item)
	if err != nil || meta.UID != e.uid || !e.overPod(version(meta.Meta)) {
		return item, err
	}
	return spliceStatus(enc, item, e.status)
}

// applyEndpoints shows endpoints of those pods whose entries have not given way to this version of the object.
func (o *Overlay) applyEndpoints(s *state, at object, enc wire.Encoding, item []byte) (shown, error) {
	c := codecOf(enc)
	var atVersion lazyVersion
	own := sync.OnceValue(func() bool { return at.kind == Endpoints || c.managedByKubernetes(item) })
	return o.show(c, at, item, s.hasUID, func(t target) (facts, bool) {
		e, ok := s.entries[t.Key]
		if !ok || e.uid != t.uid || !e.overEndpoint() || e.onlyAssumed() && !own() {
			return facts{}, false
		}
		if caughtUp, ok := e.caughtUp[at]; ok && atVersion.of(c, enc, item) >= caughtUp {
			return facts{}, false
		}
		return e.facts, true
	})
}

// lazyVersion is the version of an item, read when it is first needed.
type lazyVersion struct {
	known bool
	value uint64
}

func (v *lazyVersion) of(c *codec, enc wire.Encoding, item []byte) uint64 {
	if !v.known {
		meta, err := wire.ParseItem(enc, item)
		c.Keep(err)
		v.known, v.value = true, version(meta.Meta)
	}
	return v.value
}

// show lays what pod returns over an object.
func (o *Overlay) show(c *codec, at object, item []byte, uid func([]byte) bool, pod func(target) (facts, bool)) (shown, error) {
	l := look{uid: uid, pod: pod}
	var s shown
	if at.kind == Endpoints {
		l.publishes = func() (bool, bool) { return o.publishes(at.Namespace, at.Name) }
		s = c.showEndpoints(item, l)
	} else {
		l.publishes = func() (bool, bool) {
			service, err := c.Label(c.One(item, metadata), metaLabels, serviceNameLabel)
			c.Keep(err)
			return o.publishes(at.Namespace, service)
		}
		s = c.showSlice(item, l)
	}
	if c.Err != nil {
		return shown{item: item}, c.Err
	}
	return s, nil
}

const (
	serviceNameLabel = "kubernetes.io/service-name"
	managedByLabel   = "endpointslice.kubernetes.io/managed-by"
)

// managedByKubernetes reports whether a slice is made from the readiness of its pods. What others make may say something else.
func (c *codec) managedByKubernetes(slice []byte) bool {
	by, err := c.Label(c.One(slice, metadata), metaLabels, managedByLabel)
	c.Keep(err)
	return by == "endpointslice-controller.k8s.io"
}

// PublishesNotReady reads a Service, for Options.Publishes.
func PublishesNotReady(enc wire.Encoding, service []byte) (bool, error) {
	c := codecOf(enc)
	var spec corev1.ServiceSpec
	if value := c.One(service, serviceSpec); value != nil {
		c.Keep(c.Read(value, &spec))
	}
	if c.Err != nil {
		return false, fmt.Errorf("read service: %w", c.Err)
	}
	return spec.PublishNotReadyAddresses, nil
}

// commit makes records durable. A disk that does not take them, full or failing, must not leave the Services of a dark node
// dead: they are then valid until the next reboot. saved tells which it was; err is only for a caller that has given up, and
// a store that is closed.
func (o *Overlay) commit(ctx context.Context, b *store.Batch) (saved bool, err error) {
	err = o.store.Commit(ctx, b)
	if err == nil || ctx.Err() != nil || isClosed(err) {
		return err == nil, err
	}
	o.logger.Error("pod status is kept in memory only", "err", err)
	return false, nil
}
