// Package upstream is the way to the cloud: the addresses of the API servers,
// the connections to them, and the knowledge whether they can be reached.
//
// A request goes out as the node (the hub's client certificate) or with a
// client's bearer token, and the two never share a connection: where a
// certificate is presented, the API server takes the certificate, whatever
// token the request carries.
//
// The package guarantees that a request made while the link is known to be down
// fails at once with ErrDown, that a silent link is noticed within 3 s (or 2 s
// and three of its round trips), and that it is tried again about every second
// while it is down. It never repeats a write that may have been executed.
package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/traffic"
)

// ErrDown is wrapped by the errors of requests that were not tried, because no
// API server can be reached at the moment.
var ErrDown = errors.New("no API server can be reached")

// UnreachableError is a request that got no answer: it may or may not have been
// executed.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("ask %s: %v", e.Server, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Config says where the cloud is.
type Config struct {
	// Kubeconfig is a path. The file and those that it names are read again
	// when they change.
	Kubeconfig string
	// Identities are the paths of kubeconfigs of other components of the node:
	// requests of these go out with their certificates. Of the files only the
	// user counts.
	Identities []string
	// Servers, if any, stand in for the kubeconfig's server.
	Servers []*url.URL
	Mode    Mode
	Logger  *slog.Logger
}

// maxRows bounds the rows of traffic.
const maxRows = 200

// Pool is the set of API servers.
type Pool struct {
	cfg     Config
	log     *slog.Logger
	servers []*server
	files   []*file      // the hub's own first
	last    atomic.Int32 // the index of the server that was picked last
	bytes   byteCount
	traffic *traffic.Meter
	started time.Time

	mu      sync.Mutex
	link    Link
	changed chan struct{} // closed when link changes
}

// New reads the kubeconfig; its errors are the user's to mend. The link counts
// as down until Run has had a first answer.
func New(cfg Config) (*Pool, error) {
	p := &Pool{
		cfg:     cfg,
		started: time.Now(),
		log:     cfg.Logger,
		link:    Link{State: Connecting, Since: time.Now(), Reason: "not tried yet"},
		changed: make(chan struct{}),
		traffic: traffic.NewMeter("yurthub_upstream", "API servers", maxRows),
	}
	if err := p.openFiles(); err != nil {
		return nil, err
	}
	addresses := cfg.Servers
	if len(addresses) == 0 {
		addresses = []*url.URL{p.files[0].content.Load().Server}
	}
	for _, u := range addresses {
		s := newServer(u)
		s.connections.Store(p.newConnections(s))
		p.servers = append(p.servers, s)
	}
	p.last.Store(int32(rand.N(len(p.servers)))) // not all nodes begin with the same
	return p, nil
}

// Run probes the servers whose health is in doubt and follows the kubeconfig's
// files, until ctx ends.
func (p *Pool) Run(ctx context.Context) error {
	defer func() {
		for _, s := range p.servers {
			s.connections.Load().close()
		}
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.followFiles(ctx) })
	for _, s := range p.servers {
		g.Go(func() error { return p.watchServer(ctx, s) })
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (p *Pool) downError() error { return fmt.Errorf("%w: %s", ErrDown, p.Link().Reason) }

func (p *Pool) roundTripTo(s *server, r *http.Request, cred credential.Credential) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = "https", s.host()
	out.Host = out.URL.Host
	conns := s.connections.Load()
	transport := conns.pick(cred, r.Header.Get("Upgrade") != "")
	token := cred.Token
	if cred.Identity.IsNode() {
		token = conns.nodeToken
	}
	if token != "" {
		out.Header.Set("Authorization", "Bearer "+token)
	}
	row := p.traffic.Row(traffic.Key{Client: cred.Identity.String(), Resource: request.ParseURL(r.URL).Resource.GroupResource()})
	if out.Body != nil && out.Body != http.NoBody {
		out.Body = traffic.Body{ReadCloser: out.Body, Count: &row.Sent}
	}
	started := time.Now()
	resp, err := transport.RoundTrip(out)
	if err != nil {
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
		p.broke(s, err)
		return nil, &UnreachableError{Server: out.URL.Host, Err: err}
	}
	if resp.StatusCode != http.StatusSwitchingProtocols { // that one can be written to, too
		resp.Body = traffic.Body{ReadCloser: resp.Body, Count: &row.Received}
	}
	if fromBetween(resp) {
		p.broke(s, errNotReady)
		return resp, nil
	}
	p.answered(s, started, func(was score) score { return was.answered(resp.StatusCode == http.StatusInternalServerError) })
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = &watchedBody{ReadCloser: resp.Body, ctx: r.Context(), pool: p, server: s}
	}
	return resp, nil
}

// Suspect says that a request is waiting longer than it should: the servers are
// probed at once, and the link is declared down if they don't answer.
func (p *Pool) Suspect() {
	for _, s := range p.servers {
		p.suspect(s)
	}
}

func (p *Pool) suspect(s *server) {
	s.doubt()
	s.wake()
}

// Traffic counts what clients' requests and feeds have sent and received.
func (p *Pool) Traffic() *traffic.Meter { return p.traffic }

// BytesRead and BytesWritten count what went over the sockets to API servers,
// TLS included.
func (p *Pool) BytesRead() int64    { return p.bytes.read.Load() }
func (p *Pool) BytesWritten() int64 { return p.bytes.written.Load() }
