package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/credential"
	"yurt/internal/wire"
)

const (
	// probeInterval spaces the starts of probes while a server is not known to
	// be up. Probes overlap: over a link with a long round trip one takes
	// longer than this, and behind a healed black hole an old one is still
	// waiting for its retransmission.
	probeInterval = time.Second
	probeTimeout  = 10 * time.Second
	maxProbes     = 8
	// compareInterval spaces the probes of servers that are up, if there are
	// several to choose from.
	compareInterval = 10 * time.Second
	// doubtTimeout is how long a server in doubt has to prove itself.
	doubtTimeout = 2 * time.Second

	// connectPatience is how long the hub's first requests wait for the link
	// to be known. A node that boots in the dark waits for it once; longer than
	// this would show.
	connectPatience    = 100 * time.Millisecond
	kubeconfigInterval = 5 * time.Second
)

type health int

const (
	unknown health = iota
	healthy        // answers
	doubted        // was healthy, and something is slow or broken: still used, probed
	failing        // not used, probed
)

func (h health) String() string {
	return [...]string{"not tried yet", "up", "in doubt", "down"}[h]
}

// ServerState is one API server as /status shows it.
type ServerState struct {
	Address string
	Health  string
	Faults  float64       // the share of its answers that were its own fault, newer ones first
	Latency time.Duration // of probes; 0: not known
}

// Servers describes the API servers in the order of their priority.
func (p *Pool) Servers() []ServerState {
	states := make([]ServerState, 0, len(p.servers))
	for _, s := range p.servers {
		s.mu.Lock()
		states = append(states, ServerState{Address: s.url.String(), Health: s.health.String(), Faults: s.score.faults, Latency: s.score.latency})
		s.mu.Unlock()
	}
	return states
}

// server is one address and what is known of it.
type server struct {
	kick        chan struct{} // its health is in doubt: probe now
	connections atomic.Pointer[connections]

	mu     sync.Mutex
	url    *url.URL
	health health
	score  score
	heard  time.Time // when it last answered or sent a byte
	doubts time.Time // since when it is doubted
	failed time.Time // when it was last found failing
	open   map[*conn]struct{}
	last   string // the address to which a connection was last made
}

func newServer(u *url.URL) *server {
	return &server{url: u, kick: make(chan struct{}, 1), open: map[*conn]struct{}{}}
}

func (s *server) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *server) healthy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health == healthy || s.health == doubted
}

func (s *server) certain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health == healthy
}

func (s *server) untried() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health == unknown
}

func (s *server) scored() score {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.score
}

func (s *server) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health == healthy {
		s.health, s.doubts = doubted, time.Now()
	}
}

func (s *server) moveTo(u *url.URL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.url.Host != u.Host {
		s.last = ""
	}
	s.url = u
}

func (s *server) host() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url.Host
}

func (s *server) lastAddress() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *server) noteAddress(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = address
}

// keep, forget and letGo know the connections that stand and fall together.
func (s *server) keep(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
}

func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

func (s *server) letGo() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Keys(s.open))
	clear(s.open)
	return all
}

// patience is how long a server in doubt has: longer if its round trip is.
func (s *server) patience() time.Duration {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	patience := doubtTimeout
	for _, c := range all {
		patience = max(patience, c.patience())
	}
	return patience
}

// answered notes an answer to a request that was sent at a time. One that was
// under way when the server failed does not make it well.
func (p *Pool) answered(s *server, sent time.Time, rate func(score) score) {
	s.mu.Lock()
	was := s.health
	late := was == failing && sent.Before(s.failed)
	s.heard = time.Now()
	s.score = rate(s.score)
	if !late {
		s.health = healthy
	}
	s.mu.Unlock()
	if !late && (was == unknown || was == failing) {
		p.settle("")
	}
}

// sent notes that a byte of an answer has come. It may have been waiting in a
// buffer since before the server failed: only answers and probes end that.
func (s *server) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = time.Now()
	if s.health == doubted {
		s.health = healthy
	}
}

// broke notes that a request got no answer. A connection that can't be made
// speaks for itself. One that breaks may be one of many, and its end an API
// server's orderly restart behind a balancer: a probe decides.
func (p *Pool) broke(s *server, err error) {
	s.mu.Lock()
	s.score = s.score.answered(true)
	s.mu.Unlock()
	if !unreachable(err) {
		p.suspect(s)
		return
	}
	p.fail(s, err)
}

func unreachable(err error) bool {
	var dial *dialError
	return errors.As(err, &dial) && !dial.broken
}

// unsent tells whether the request has not left.
func unsent(err error) bool {
	var dial *dialError
	return errors.As(err, &dial)
}

func (p *Pool) fail(s *server, err error) {
	s.mu.Lock()
	was := s.health
	s.health, s.failed = failing, time.Now()
	s.mu.Unlock()
	p.settle(reasonOf(err))
	if was != failing {
		s.wake() // or the next probe follows on the last one's heels
	}
}

// fromBetween tells whether something on the way answered in the API server's
// place: a load balancer that finds none, a portal that wants to be paid.
func fromBetween(resp *http.Response) bool {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // none is as good as a bad one
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		_, known := wire.ParseContentType(mediaType)
		return !known
	}
	return mediaType == "text/html" && resp.Header.Get("Audit-Id") == ""
}

// watchServer probes s whenever it is not certain to be up. Whoever makes it
// uncertain wakes it.
func (p *Pool) watchServer(ctx context.Context, s *server) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, maxProbes)
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	var compare <-chan time.Time // none if there is nothing to choose from
	if len(p.servers) > 1 {
		rounds := time.NewTicker(compareInterval)
		defer rounds.Stop()
		compare = rounds.C
	}
	due := true
	for {
		var next <-chan time.Time // none while the server is certain to be up: then it is woken
		if !s.certain() {
			next, due = tick.C, true
		}
		if due {
			select {
			case slots <- struct{}{}:
				probes.Go(func() {
					defer func() { <-slots }()
					p.probe(ctx, s)
				})
			default:
			}
		}
		due = false
		select {
		case <-next:
		case <-compare:
			due = true
		case <-s.kick:
			if err := backoff.Sleep(ctx, 10*time.Millisecond); err != nil { // coalesce a burst of failures
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		p.judge(s)
	}
}

// judge gives up on a server that has been in doubt for too long without a sign
// of life.
func (p *Pool) judge(s *server) {
	patience := s.patience()
	s.mu.Lock()
	doomed := s.health == doubted && time.Since(s.doubts) >= patience && s.heard.Before(s.doubts)
	if doomed {
		s.health, s.failed = failing, time.Now()
	}
	s.mu.Unlock()
	if doomed {
		p.settle("no answer")
	}
}

// probe asks /readyz. Its success makes the server healthy. Silence counts only
// if nothing else was heard from the server meanwhile.
func (p *Pool) probe(ctx context.Context, s *server) {
	started := time.Now()
	probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.ask(probeCtx, s)
	if err != nil && probeCtx.Err() == nil && !unreachable(err) && !errors.Is(err, errNotReady) {
		err = p.ask(probeCtx, s) // the connection broke, as any may: the next one tells
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	heard := s.heard.After(started)
	s.mu.Unlock()
	if !heard || errors.Is(err, errNotReady) {
		p.fail(s, err)
	}
}

func (p *Pool) ask(ctx context.Context, s *server) error {
	sent := time.Now()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/readyz", http.NoBody)
	if err != nil {
		return err
	}
	r.URL.Scheme, r.URL.Host = "https", s.host()
	resp, err := s.connections.Load().pick(credential.Credential{}, false).RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return err
	}
	if fromBetween(resp) {
		return fmt.Errorf("%w: something on the way answers %s", errNotReady, resp.Status)
	}
	// 401 and 403 come from an API server that is well and wants a credential
	// for /readyz.
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		p.answered(s, sent, func(was score) score { return was.probed(time.Since(sent)) })
		return nil
	}
	return fmt.Errorf("%w: /readyz answers %s", errNotReady, resp.Status)
}

// errNotReady: the server says itself that it should not be used.
var errNotReady = errors.New("not ready")

// reasonOf words an error for a person: without the addresses and the layers
// that differ from one occurrence to the next.
func reasonOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer"
	}
	var untrusted *tls.CertificateVerificationError
	var unnamed *net.DNSError
	switch {
	case errors.As(err, &untrusted):
		return untrusted.Err.Error()
	case errors.As(err, &unnamed):
		return "no such host: " + unnamed.Name
	}
	text := err.Error()
	for _, known := range []string{
		"connection refused", "no route to host", "network is unreachable", "i/o timeout", "connection reset by peer",
	} {
		if strings.Contains(text, known) {
			return known
		}
	}
	return text
}

// watchedBody tells the pool what reading an answer shows about the link.
type watchedBody struct {
	io.ReadCloser
	ctx    context.Context
	pool   *Pool
	server *server
}

func (b *watchedBody) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	switch {
	case n > 0:
		b.server.sent()
	case err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() == nil:
		b.pool.broke(b.server, err)
	}
	return n, err
}
