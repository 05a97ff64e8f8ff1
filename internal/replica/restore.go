package replica

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"sync"
	"time"

	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// history is what the set knows of the cloud's own history: whether it goes on
// from where the replicas are. An etcd that was restored from a backup goes back
// behind them, and a watch from a version that is yet to come does not show
// it: it is quiet, perhaps for days. So the cloud is asked, each time that the
// link has come back and now and then.
//
// It is not found out if the cloud has come further than all replicas since: the
// versions are then those of other changes.
type history struct {
	mu      sync.Mutex
	checked time.Time // when; zero: not since the link came back
	link    time.Time // since when it was up then
}

// checkInterval is how long the link may be up until the cloud is asked again:
// one of several API servers behind it may have been restarted unseen.
const checkInterval = 10 * time.Minute

// due tells whether the cloud is to be asked, and by the caller.
func (h *history) due(link upstream.Link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if link.State != upstream.Up || h.link.Equal(link.Since) && time.Since(h.checked) < checkInterval {
		return false
	}
	h.checked, h.link = time.Now(), link.Since
	return true
}

// seen notes that the cloud has shown itself to be where it must.
func (h *history) seen(link upstream.Link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checked, h.link = time.Now(), link.Since
}

// undone: the caller got no answer.
func (h *history) undone() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checked = time.Time{}
}

// checkHistory asks the cloud, if that is due, whether it has reached the newest
// version that a replica of the core API has. If not, all are listed again, and
// the error is errAhead.
func (c *Collection) checkHistory(ctx context.Context) error {
	if c.Resource.Group != "" || !c.set.history.due(c.set.up.Link()) {
		return nil // other API servers may count as they please
	}
	newest := c.set.Newest()
	err := c.reached(ctx, newest)
	switch {
	case errors.Is(err, errAhead):
		c.log.Error("the API server has gone back in time, all replicas are listed again; clients that cache objects (kubelet) may need a restart", "replica", newest)
		c.set.beginAnew(nil)
	case err != nil:
		c.set.history.undone()
	}
	return err
}

// beginAnew makes every other collection be listed again, and its clients, too:
// versions that they know stand for other contents now.
func (s *Set) beginAnew(except *Collection) {
	for _, c := range s.All() {
		if c != except {
			c.mu.Lock()
			c.anew = true
			c.mu.Unlock()
			c.listAgain(errAhead)
		}
	}
}

// noteHistory notes that the cloud is at a version; if no replica is ahead of
// it, it need not be asked.
func (c *Collection) noteHistory(version uint64) {
	if c.Resource.Group == "" && version >= c.set.Newest() {
		c.set.history.seen(c.set.up.Link())
	}
}

// Newest is the newest version that a replica of the core API has.
func (s *Set) Newest() uint64 {
	var newest uint64
	for _, c := range s.All() {
		if c.Resource.Group == "" {
			newest = max(newest, c.Revision())
		}
	}
	return newest
}

// reached asks for one object's metadata at a version or later: the error is
// errAhead if the cloud, given its three seconds, has not reached it.
func (c *Collection) reached(ctx context.Context, version uint64) error {
	query := url.Values{
		"limit": {"1"}, "resourceVersion": {strconv.FormatUint(version, 10)}, "resourceVersionMatch": {"NotOlderThan"},
	}
	small := wire.Representation{Preference: c.Representation.Preference, Transform: wire.PartialMetadata}
	resp, err := c.getAs(ctx, small, query, false)
	if err != nil {
		return err
	}
	return resp.Body.Close() // that it answers is the answer
}
