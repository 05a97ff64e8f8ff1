package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// listMode says how fresh a list must be.
type listMode int

const (
	// relist: not older than the replica. A collection's first list is a
	// consistent one.
	relist listMode = iota
	// consistent: at least as new as anything committed before the request.
	consistent
)

// ErrNotKept: the store does not take in what the cloud answers, or not in time. The disk is full, or fails.
var ErrNotKept = errors.New("the store does not take it in")

// list is the feed's.
func (c *Collection) list(ctx context.Context) error {
	turn, err := c.set.turns.take(ctx, errand{node: c.Identity.IsNode(), long: request.SingleName(c.FieldSelector) == ""})
	if err != nil {
		return err
	}
	defer turn.done()
	if err := c.feeding.lock(ctx); err != nil {
		return err
	}
	defer c.feeding.unlock()
	if !c.needsList() {
		return nil // somebody's Refresh has been faster
	}
	return c.listLocked(ctx, relist, turn.heard)
}

// listLocked calls heard whenever the answer goes on. Feeding must be held.
func (c *Collection) listLocked(ctx context.Context, mode listMode, heard func()) error {
	if err := c.landed(ctx); err != nil {
		return err
	}
	in, err := c.fetch(ctx, mode, heard)
	if err != nil {
		return err
	}
	defer in.stage.Abort()
	return c.swap(ctx, in)
}

// incoming is a list that has come, complete, and is staged.
type incoming struct {
	stage    *store.Stage
	revision uint64
	meta     meta
	began    time.Time // when it was asked for
}

// fetch asks for a list and stages its objects as they come. The caller aborts
// the stage, if it is not swapped in.
func (c *Collection) fetch(ctx context.Context, mode listMode, heard func()) (*incoming, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	silence := time.AfterFunc(answerPatience, func() { cancel(errSilent) })
	defer silence.Stop()
	resp, err := c.openList(ctx, mode)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	in := &incoming{stage: c.table.Stage(), began: began}
	body := heardReader{resp.Body, func() { silence.Reset(answerPatience); heard() }}
	if err := c.takeIn(ctx, in, resp.Header.Get("Content-Type"), body); err != nil {
		in.stage.Abort()
		return nil, fmt.Errorf("take in list: %w", err)
	}
	return in, nil
}

// heardReader notes that the API server is not silent.
type heardReader struct {
	io.Reader
	heard func()
}

func (r heardReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.heard()
	return n, err
}

func (c *Collection) openList(ctx context.Context, mode listMode) (*http.Response, error) {
	query := url.Values{}
	_, notWhole := c.whole()
	_, populated := c.current()
	exact := c.startAt.Load()
	switch {
	case notWhole == nil && mode == relist:
		query.Set("resourceVersion", strconv.FormatUint(c.table.Revision(), 10))
		query.Set("resourceVersionMatch", "NotOlderThan")
	case !populated && exact > 0:
		c.startAt.Store(0) // once: whatever goes wrong with it must not last
		query.Set("resourceVersion", strconv.FormatUint(exact, 10))
		query.Set("resourceVersionMatch", "Exact")
	}
	resp, err := c.get(ctx, query, false)
	if len(query) > 0 && (errors.Is(err, errAhead) || errors.Is(err, errExpired)) {
		return c.get(ctx, url.Values{}, false)
	}
	return resp, err
}

// takeIn reads a list to its end. One that is not complete is an error.
func (c *Collection) takeIn(ctx context.Context, in *incoming, contentType string, body io.Reader) error {
	encoding, ok := wire.ParseContentType(contentType)
	if !ok {
		return fmt.Errorf("answer has Content-Type %q", contentType)
	}
	list, err := wire.ReadList(body, encoding, maxObject, func(item wire.Item) error {
		revision, err := strconv.ParseUint(item.ResourceVersion, 10, 64)
		if err != nil {
			return fmt.Errorf("object %s/%s has resourceVersion %q", item.Namespace, item.Name, item.ResourceVersion)
		}
		record := store.Record{Key: rowKey(item.Namespace, item.Name), Revision: revision, Identity: item.UID, Value: item.Raw}
		if err := in.stage.Add(ctx, record); err != nil {
			return fmt.Errorf("%w: %w", ErrNotKept, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if list.Continue != "" {
		return errors.New("the API server sent a part of the list though no limit was asked for")
	}
	if in.revision, err = strconv.ParseUint(list.ResourceVersion, 10, 64); err != nil {
		return fmt.Errorf("list has resourceVersion %q", list.ResourceVersion)
	}
	in.meta = meta{Encoding: encoding, Envelope: list.Envelope}
	return c.completeMeta(ctx, &in.meta)
}

// swap makes a list that has come the replica's contents, by one commit. Feeding
// must be held.
func (c *Collection) swap(ctx context.Context, in *incoming) error {
	raw, err := json.Marshal(in.meta)
	if err != nil {
		return err
	}
	before := c.table.Revision()
	old, populated := c.current()
	swap := in.stage.Swap
	if c.beginsAnew() || in.revision < before || populated && old.Encoding != in.meta.Encoding {
		// Running watches end with 410, and their clients list again: what
		// they know means nothing any more, or would go on in another encoding.
		swap = in.stage.Reset
		c.epoch++
	}
	if _, err := swap(ctx, in.revision, raw); err != nil {
		return fmt.Errorf("take in list: %w: %w", ErrNotKept, err)
	}
	c.queued, c.bookmark = in.revision, in.revision
	c.update(func() {
		c.meta, c.denied, c.recheck, c.doubt, c.mustList, c.lapsed, c.anew = &in.meta, nil, false, nil, false, false, false
	})
	c.noteListed(in.began)
	c.noteHistory(in.revision)
	if in.revision < before {
		c.wentBack(before, in.revision)
	}
	return nil
}

// noteListed: what the replica holds is not older than began.
func (c *Collection) noteListed(began time.Time) {
	c.listed = began
	c.heard.Store(time.Now().UnixNano())
}

// wentBack tells that etcd was restored from a backup. The API server shows it
// to a list only: a watch from a version that is yet to come is quiet, perhaps
// for days. So every collection lists again when one of the core API has
// noticed; other API servers may count as they please.
func (c *Collection) wentBack(before, revision uint64) {
	c.log.Error("the API server has gone back in time, the replica starts anew; clients that cache objects (kubelet) may need a restart",
		"replica", before, "server", revision)
	if c.Resource.Group == "" {
		c.set.beginAnew(c)
	}
}

// completeMeta fills in what the list did not tell: the kind of the items of an
// empty list, and the shape of bookmarks.
func (c *Collection) completeMeta(ctx context.Context, m *meta) error {
	old, populated := c.current()
	if populated && old.Encoding == m.Encoding {
		m.Bookmark = old.Bookmark
		if m.Envelope.Item == (wire.TypeMeta{}) {
			m.Envelope.Item, m.Envelope.TypedItems = old.Envelope.Item, old.Envelope.TypedItems
		}
	}
	if m.Envelope.Item != (wire.TypeMeta{}) {
		return nil
	}
	kind, err := c.discoverKind(ctx)
	if err != nil {
		return fmt.Errorf("learn the kind of %s: %w", c.Resource, err)
	}
	m.Envelope.Item = wire.TypeMeta{APIVersion: m.Envelope.List.APIVersion, Kind: kind}
	return nil
}

// discoverKind asks the API server what an object of the collection is called:
// an empty list of a custom resource does not say it, and a bookmark must.
func (c *Collection) discoverKind(ctx context.Context) (string, error) {
	path := "/apis/" + c.Resource.Group + "/" + c.Resource.Version
	if c.Resource.Group == "" {
		path = "/api/" + c.Resource.Version
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, path, http.NoBody)
	if err != nil {
		return "", err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", userAgent)
	resp, err := c.set.up.RoundTrip(r, c.credential())
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var discovery struct {
		Resources []struct{ Name, Kind string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&discovery); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	for _, resource := range discovery.Resources {
		if resource.Name == c.Resource.Resource {
			return resource.Kind, nil
		}
	}
	return "", fmt.Errorf("%s does not list it", path)
}
