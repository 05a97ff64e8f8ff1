package replica

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
)

const (
	defaultRetention = 7 * 24 * time.Hour

	// forgetInterval is how often the hub looks for what nobody misses.
	forgetInterval = time.Hour
	// idleNoted is after how many intervals the time without use is written down,
	// so that it outlives a restart, and costs the flash nothing.
	idleNoted = 24

	// budgetInterval is how often the size of the store is looked at.
	budgetInterval = time.Minute
)

// Retention says how long collections are kept that nobody asks for.
type Retention struct {
	// Idle is the time without use after which a collection is forgotten, as far
	// as the cloud was there in it: time in the dark does not count, and a node
	// that boots in the dark needs what it has. 0: a week.
	Idle time.Duration
	// MaxBytes bounds what the store holds for collections; 0: not at all. Those
	// that have not been used for longest go first, and never those of kubelet
	// and kube-proxy, nor what a client uses now.
	MaxBytes int64
}

// Retain sets the retention. It holds from the next time on that somebody looks for what can go.
func (s *Set) Retain(r Retention) { s.retention.Store(&r) }

func (s *Set) retained() Retention {
	if r := s.retention.Load(); r != nil {
		return *r
	}
	return Retention{}
}

// intervals is the retention as leave counts.
func (r Retention) intervals() int {
	return max(1, int(cmp.Or(r.Idle, defaultRetention)/forgetInterval))
}

// forgetAll drops what nobody has asked for in a long time, now and then, and
// what there is no room for.
func (s *Set) forgetAll(ctx context.Context) {
	idle, budget := time.NewTicker(forgetInterval), time.NewTicker(budgetInterval)
	defer idle.Stop()
	defer budget.Stop()
	for {
		select {
		case <-idle.C:
			s.forgetIdle(ctx)
		case <-budget.C:
			s.forgetSurplus(ctx)
			s.forgetAbove(ctx, s.retained().MaxBytes)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Set) forgetIdle(ctx context.Context) {
	for _, c := range s.All() {
		if s.up.Link().State != upstream.Up || ctx.Err() != nil {
			return
		}
		if c.leave(s.retained().intervals()) {
			s.forget(c)
		}
	}
}

// maxOpen bounds the collections of a client, unless it is essential: each is a
// feed upstream and a table on the disk.
const maxOpen = 200

// MayOpen tells whether a client may open one collection more.
func (s *Set) MayOpen(identity credential.Identity) bool {
	return essential(identity) || len(s.of(identity)) < maxOpen
}

// of returns the collections of a client.
func (s *Set) of(identity credential.Identity) []*Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	var of []*Collection
	for key, c := range s.collections {
		if key.Identity == identity {
			of = append(of, c)
		}
	}
	return of
}

// forgetSurplus makes room for clients that have opened nearly all that they may:
// what they have not used for longest goes.
func (s *Set) forgetSurplus(ctx context.Context) {
	clients := map[credential.Identity]int{}
	for _, c := range s.All() {
		if !c.essential() {
			clients[c.Identity]++
		}
	}
	for identity, n := range clients {
		if n <= maxOpen*15/16 {
			continue
		}
		of := s.of(identity)
		slices.SortFunc(of, func(a, b *Collection) int { return a.lastUsed().Compare(b.lastUsed()) })
		for _, c := range of {
			if n <= maxOpen*3/4 || ctx.Err() != nil {
				break
			}
			if c.leave(0) {
				s.forget(c)
				n--
			}
		}
	}
}

// forgetAbove makes room if the store holds more than it may. In the dark too: a
// full disk is worse than to lack what nobody uses.
func (s *Set) forgetAbove(ctx context.Context, most int64) {
	if most <= 0 {
		return
	}
	all := s.All()
	var held int64
	for _, c := range all {
		held += c.State().Bytes
	}
	candidates := slices.DeleteFunc(all, (*Collection).essential)
	slices.SortStableFunc(candidates, func(a, b *Collection) int { return a.lastUsed().Compare(b.lastUsed()) })
	for _, c := range candidates {
		if held <= most || ctx.Err() != nil {
			return
		}
		if bytes := c.State().Bytes; c.leave(0) {
			s.log.Warn("a collection is dropped, as there is more than there may be", "collection", c.Key.String(), "bytes", held, "most", most)
			s.forget(c)
			held -= bytes
		}
	}
}

// forget drops a collection that has left.
func (s *Set) forget(c *Collection) {
	// It ends with the store, not with ctx: the outcome must be known.
	err := s.store.Drop(context.Background(), c.table.Name())
	if err != nil {
		s.log.Warn("a collection that nobody uses could not be dropped", "collection", c.Key.String(), "error", err)
	} else {
		s.mu.Lock()
		delete(s.collections, c.Key)
		s.mu.Unlock()
	}
	c.left(err == nil)
}

// essential: without it pods don't come back, or find nothing.
func (c *Collection) essential() bool { return essential(c.Identity) }

func essential(identity credential.Identity) bool {
	return identity == credential.Node || slices.Contains(kubeProxies(), identity.Name)
}

// kubeProxies are the names of kube-proxy: as kubeadm runs it, and with a
// certificate of its own.
func kubeProxies() []string {
	return []string{"system:serviceaccount:kube-system:kube-proxy", "system:kube-proxy"}
}

// lastUsed is when somebody last used the collection, or a time before that if
// it was before the start.
func (c *Collection) lastUsed() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.watchers > 0 || c.waiting > 0 {
		return time.Now()
	}
	return c.lastUse.Add(-time.Duration(c.unmissed) * forgetInterval)
}

// leave counts the times that it was called without a use between them, and
// tells whether these are enough to forget the collection. Then it is not used
// until left is called.
func (c *Collection) leave(after int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.meta == nil || c.denied != nil || c.emptyLocked() {
		after = min(after, 1) // it holds nothing, or nothing that anybody may read
	}
	if c.running || c.leaving != nil || c.watchers > 0 || c.waiting > 0 {
		return false
	}
	if c.unmissed++; c.unmissed < after {
		if c.unmissed%idleNoted == 0 {
			c.noteIdleLocked()
		}
		return false
	}
	c.leaving = make(chan struct{})
	return true
}

// emptyLocked: the one object that it was about is not there any more. Names come
// and go: each Job's pod brings its own.
func (c *Collection) emptyLocked() bool {
	if request.SingleName(c.FieldSelector) == "" {
		return false
	}
	view := c.table.View()
	defer view.Release()
	return view.Len() == 0
}

// noteIdleLocked makes the time without use outlive a restart. If the store does
// not take it, it is counted anew.
func (c *Collection) noteIdleLocked() {
	m := *c.meta
	m.Idle = c.unmissed
	raw, err := json.Marshal(m)
	if err != nil {
		return
	}
	c.meta = &m
	var batch store.Batch
	batch.SetMeta(c.table, raw)
	c.set.store.CommitAsync(&batch, func(error) {})
}

// left lets those go on who wait for the end of leave.
func (c *Collection) left(gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.leaving)
	if !gone {
		c.leaving = nil
	}
}
