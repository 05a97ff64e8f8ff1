package traffic

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"yurt/test/faults/history"
)

// NotePrefix begins the names of the events that clients write in the dark.
const NotePrefix = "note-"

// Client is somebody on the node. What it is told is recorded as told to its name.
type Client struct {
	Name string
	Rec  *history.Recorder
	HTTP *http.Client
	Hub  string // URL of the hub's plain port, in this life
	Life int
	Dark bool
}

type metadata struct{ Name, ResourceVersion string }

type item struct {
	Metadata metadata
	Data     map[string]string
}

func (i item) object() history.Object {
	version, _ := strconv.ParseUint(i.Metadata.ResourceVersion, 10, 64)
	return history.Object{Name: i.Metadata.Name, Version: version, Digest: history.DigestOf(i.Data["v"])}
}

func (c *Client) get(ctx context.Context, url string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.Name)
	return c.HTTP.Do(r)
}

func (c *Client) url(collection history.Collection, query string) string {
	separator := "?"
	if strings.Contains(string(collection), "?") {
		separator = "&"
	}
	return c.Hub + string(collection) + separator + query
}

// List lists a collection as informers do, and returns its version, or 0. An answer that breaks off, and none, are recorded
// as code 0.
func (c *Client) List(ctx context.Context, collection history.Collection) uint64 {
	return c.record(ctx, collection, "resourceVersion=0")
}

// ListFresh lists a collection as it is at the API server, if there is one.
func (c *Client) ListFresh(ctx context.Context, collection history.Collection) uint64 {
	return c.record(ctx, collection, "")
}

func (c *Client) record(ctx context.Context, collection history.Collection, query string) uint64 {
	read := history.Read{Life: c.Life, Client: c.Name, Collection: collection, Dark: c.Dark}
	if err := c.list(ctx, &read, query); err != nil && ctx.Err() != nil {
		return 0 // it was the client who broke off
	}
	c.Rec.Read(read)
	return read.Revision
}

func (c *Client) list(ctx context.Context, read *history.Read, query string) error {
	resp, err := c.get(ctx, c.url(read.Collection, query))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		read.Code = resp.StatusCode
		return nil
	}
	var list struct {
		Metadata metadata
		Items    []item
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	for _, i := range list.Items {
		read.Objects = append(read.Objects, i.object())
	}
	if read.Revision, err = strconv.ParseUint(list.Metadata.ResourceVersion, 10, 64); err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	read.Code = http.StatusOK
	return nil
}

// Watch watches a collection until ctx ends or the watch does, and returns the newest version that it brought, and whether
// it may be continued from there.
func (c *Client) Watch(ctx context.Context, collection history.Collection, from uint64) (last uint64, goesOn bool) {
	resp, err := c.get(ctx, c.url(collection, fmt.Sprintf("watch=1&allowWatchBookmarks=true&resourceVersion=%d", from)))
	if err != nil {
		return from, true
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return from, false
	}
	tell := c.Rec.Watch(history.Watch{Life: c.Life, Client: c.Name, Collection: collection, From: from, Code: resp.StatusCode})
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 4<<20)
	last = from
	for lines.Scan() {
		var e struct {
			Type   string
			Object item
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Type == "ERROR" {
			return last, false
		}
		change := history.Change{Type: e.Type, Object: e.Object.object()}
		if e.Type == "BOOKMARK" {
			change.Object = history.Object{Version: change.Version}
		}
		tell(change)
		last = max(last, change.Version)
	}
	return last, true
}

// Note writes an event of that name, and records it if there is no cloud and it was accepted. It returns the answer's code.
func (c *Client) Note(ctx context.Context, name string) (int, error) {
	body := fmt.Sprintf(`{"kind":"Event","apiVersion":"v1","metadata":{"name":%q,"namespace":"shop"},"involvedObject":{"namespace":"shop","name":"p"},`+
		`"reason":"Dark","message":%q,"type":"Normal"}`, NotePrefix+name, Marker+name)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Hub+"/api/v1/namespaces/shop/events", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated && c.Dark {
		c.Rec.Noted(NotePrefix + name)
	}
	return resp.StatusCode, nil
}
