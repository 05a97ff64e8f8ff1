// Package adminapi is the status document that the hub shows on its admin port,
// and a client that reads it. Both sides of the port share these types.
//
// Fields are only ever added: a reader of one release understands the document
// of another. It carries no secret and no object.
package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// StatusPath is where the document is served, to those who accept JSON.
const StatusPath = "/status"

// Status is what the hub says of itself.
type Status struct {
	Version   string    `json:"version"`
	Node      string    `json:"node"`
	StartedAt time.Time `json:"startedAt"`

	Link        Link         `json:"link"`
	Credential  Credential   `json:"credential"`
	Process     Process      `json:"process"`
	Store       Store        `json:"store"`
	Journal     Journal      `json:"journal"`
	Answers     int          `json:"answers"` // remembered
	Collections []Collection `json:"collections"`

	Upstream []Traffic `json:"upstream"` // bodies over the link, by client and resource
	Clients  []Traffic `json:"clients"`  // bodies of the clients on the node
}

// Traffic is the bytes of bodies, unpacked, since the start.
type Traffic struct {
	Client   string `json:"client"`
	Resource string `json:"resource,omitempty"`
	Received int64  `json:"received"` // by the hub
	Sent     int64  `json:"sent"`
}

// Link is the way to the cloud.
type Link struct {
	State        string    `json:"state"` // "up", "down" or "connecting"
	Since        time.Time `json:"since"`
	Reason       string    `json:"reason,omitempty"` // why it is not up
	BytesRead    int64     `json:"bytesRead"`        // from API servers, TLS included
	BytesWritten int64     `json:"bytesWritten"`
	Servers      []Server  `json:"servers"` // in the order of their priority
}

// Credential is with what the hub speaks for the node.
type Credential struct {
	NotBefore time.Time `json:"notBefore,omitzero"` // of the client certificate, if there is one
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Problem   string    `json:"problem,omitempty"` // why the node is, or will be, locked out
}

// Server is one API server.
type Server struct {
	Address             string  `json:"address"`
	Health              string  `json:"health"` // "up", "in doubt", "down" or "not tried yet"
	Faults              float64 `json:"faults"` // the share of its newest answers that were its own fault
	LatencyMilliseconds float64 `json:"latencyMilliseconds,omitempty"`
}

// Process is what the hub takes of the machine.
type Process struct {
	PID            int   `json:"pid"`
	ResidentBytes  int64 `json:"residentBytes"`  // VmRSS
	AnonymousBytes int64 `json:"anonymousBytes"` // RssAnon
	PeakBytes      int64 `json:"peakBytes"`      // VmHWM
	Goroutines     int   `json:"goroutines"`
}

// Store is the durable replica on disk.
type Store struct {
	Directory    string `json:"directory"`
	Tables       int    `json:"tables"`
	Records      int    `json:"records"`
	DiskBytes    int64  `json:"diskBytes"`
	LiveBytes    int64  `json:"liveBytes"`
	Commits      uint64 `json:"commits"` // since the start
	Syncs        uint64 `json:"syncs"`
	BytesWritten int64  `json:"bytesWritten"`
	Error        string `json:"error,omitempty"` // of the newest commit

	Sealing Sealing `json:"sealing"`
}

// Sealing is how the store is encrypted.
type Sealing struct {
	Key      string `json:"key"`     // where it comes from, like "made here, beside the data"
	KeyID    string `json:"keyID"`   // names the key and says nothing about it
	Pending  int    `json:"pending"` // files that are in clear or sealed by an older key; at 0 no older key is needed
	Unopened int    `json:"unopened"`
	Reason   string `json:"reason,omitempty"` // why records can't be opened
}

// Journal is what was written in the dark and has not reached the cloud yet.
type Journal struct {
	Pending  int    `json:"pending"`
	Bytes    int64  `json:"bytes"`
	Replayed uint64 `json:"replayed"` // since the start
	Dropped  uint64 `json:"dropped"`
}

// Collection is the replica of one list+watch.
type Collection struct {
	Path           string    `json:"path"` // with selectors
	Representation string    `json:"representation"`
	Identity       string    `json:"identity"`
	Phase          string    `json:"phase"` // of its feed: "watching", "listing", "waiting", "parked"
	Since          time.Time `json:"since"` // of phase
	FreshAt        time.Time `json:"freshAt,omitzero"`
	Populated      bool      `json:"populated"`
	Revision       uint64    `json:"revision"`
	Objects        int       `json:"objects"`
	Bytes          int64     `json:"bytes"`
	Watchers       int       `json:"watchers"`
}

// Get reads the status of the hub whose admin port is at address, "host:port".
func Get(ctx context.Context, client *http.Client, address string) (*Status, error) {
	body, err := ask(ctx, client, address, "application/json")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var status Status
	if err := json.NewDecoder(io.LimitReader(body, maxDocument)).Decode(&status); err != nil {
		return nil, fmt.Errorf("read the status of %s: %w", address, err)
	}
	return &status, nil
}

// WriteText writes the status to w as the hub words it for people.
func WriteText(ctx context.Context, client *http.Client, address string, w io.Writer) error {
	body, err := ask(ctx, client, address, "text/plain")
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(w, io.LimitReader(body, maxDocument)); err != nil {
		return fmt.Errorf("read the status of %s: %w", address, err)
	}
	return nil
}

const maxDocument = 64 << 20

func ask(ctx context.Context, client *http.Client, address, accept string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+StatusPath, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", address, err)
	}
	r.Header.Set("Accept", accept)
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("ask %s for its status: it answers %s", address, resp.Status)
	}
	return resp.Body, nil
}
