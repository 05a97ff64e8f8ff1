package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/credential"
)

const (
	// probeInterval spaces the starts of probes while a server is not known to
	// be up. Probes overlap: over a link with a long round trip one takes
	// longer than this, and behind a healed black hole an old one is still
	// waiting for its retransmission.
	probeInterval = time.Second
	probeTimeout  = 10 * time.Second
	maxProbes     = 8
	// doubtTimeout is how long a server in doubt has to prove itself.
	doubtTimeout = 2 * time.Second

	// connectPatience is how long the hub's first requests wait for the link
	// to be known. A node that boots in the dark waits for it once; longer than
	// this would show.
	connectPatience    = 150 * time.Millisecond
	kubeconfigInterval = 5 * time.Second
)

type health int

const (
	unknown health = iota
	healthy        // answers
	doubted        // was healthy, and something is slow or broken: still used, probed
	failing        // not used, probed
)

// server is one address and what is known of it.
type server struct {
	kick chan struct{} // its health is in doubt: probe now

	mu     sync.Mutex
	url    *url.URL
	health health
	heard  time.Time // when it last answered or sent a byte
	doubts time.Time // since when it is doubted
}

func newServer(u *url.URL) *server {
	return &server{url: u, kick: make(chan struct{}, 1)}
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
	s.url = u
}

func (s *server) host() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url.Host
}

// alive notes that the server has just been heard.
func (p *Pool) alive(s *server) {
	s.mu.Lock()
	was := s.health
	s.heard = time.Now()
	s.health = healthy
	s.mu.Unlock()
	if was == unknown || was == failing {
		p.settle("")
	}
}

// failed notes that a connection could not be made or broke before an answer.
func (p *Pool) failed(s *server, err error) {
	s.mu.Lock()
	s.health = failing
	s.mu.Unlock()
	p.settle(reasonOf(err))
	s.wake()
}

// watchServer probes s whenever it is not certain to be up.
func (p *Pool) watchServer(ctx context.Context, s *server) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, maxProbes)
	for {
		if !s.certain() {
			select {
			case slots <- struct{}{}:
				probes.Go(func() {
					defer func() { <-slots }()
					p.probe(ctx, s)
				})
			default:
			}
		}
		t := time.NewTimer(probeInterval)
		select {
		case <-t.C:
		case <-s.kick:
			t.Stop()
			if err := backoff.Sleep(ctx, 10*time.Millisecond); err != nil { // coalesce a burst of failures
				return err
			}
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		p.judge(s)
	}
}

// judge gives up on a server that has been in doubt for too long without a sign
// of life.
func (p *Pool) judge(s *server) {
	s.mu.Lock()
	doomed := s.health == doubted && time.Since(s.doubts) >= doubtTimeout && s.heard.Before(s.doubts)
	if doomed {
		s.health = failing
	}
	s.mu.Unlock()
	if doomed {
		p.settle("no answer")
	}
}

// probe asks /readyz. Its success makes the server healthy; its failure counts
// only if nothing else was heard from the server meanwhile.
func (p *Pool) probe(ctx context.Context, s *server) {
	started := time.Now()
	probeCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.ask(probeCtx, s)
	if err == nil || ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	heard := s.heard.After(started)
	if !heard {
		s.health = failing
	}
	s.mu.Unlock()
	if !heard {
		p.settle(reasonOf(err))
	}
}

func (p *Pool) ask(ctx context.Context, s *server) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/readyz", http.NoBody)
	if err != nil {
		return err
	}
	r.URL.Scheme, r.URL.Host = "https", s.host()
	resp, err := p.conns.Load().pick(credential.Credential{}, false).RoundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return err
	}
	// 401 and 403 come from an API server that is well and wants a credential
	// for /readyz.
	switch resp.StatusCode {
	case http.StatusOK, http.StatusUnauthorized, http.StatusForbidden:
		p.alive(s)
		return nil
	}
	return fmt.Errorf("/readyz answers %s", resp.Status)
}

// reasonOf words an error for a person: without the addresses and the layers
// that differ from one occurrence to the next.
func reasonOf(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer"
	}
	text := err.Error()
	for _, known := range []string{
		"connection refused", "no route to host", "network is unreachable", "i/o timeout", "connection reset by peer",
		"no such host", "certificate has expired", "unknown authority", "client connection lost", "TLS handshake timeout",
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
		b.pool.alive(b.server)
	case err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() == nil:
		if strings.Contains(err.Error(), "client connection lost") { // no answer to a ping
			b.pool.failed(b.server, err)
		} else {
			b.server.doubt()
			b.server.wake()
		}
	}
	return n, err
}
