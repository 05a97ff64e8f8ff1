package upstream

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"yurt/internal/credential"
)

// newFleet runs a pool over several addresses, in the order of preference.
func newFleet(t *testing.T, dir string, addresses ...string) *Pool {
	t.Helper()
	cfg := Config{Kubeconfig: filepath.Join(dir, "kubeconfig"), Mode: Priority, Logger: slog.New(slog.DiscardHandler)}
	for _, a := range addresses {
		cfg.Servers = append(cfg.Servers, &url.URL{Scheme: "https", Host: a})
	}
	return start(t, cfg)
}

// nowhere is an address that refuses connections.
func nowhere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func who(t *testing.T, p *Pool) string {
	t.Helper()
	got, err := get(t.Context(), p, "/name", credential.Credential{})
	if err != nil {
		return err.Error()
	}
	return got
}

func eventually(t *testing.T, within time.Duration, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not after %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The first server that is up is used: the second while the first is dead, and
// the first again when it has returned.
func TestFailOverAndReturn(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	dir := t.TempDir()
	writeKubeconfig(t, dir, first, first.cable.Addr().String())
	p := newFleet(t, dir, first.cable.Addr().String(), second.cable.Addr().String())
	eventually(t, patience, "the first answers", func() bool { return who(t, p) == first.Listener.Addr().String() })

	first.ready.Store(false)
	p.Suspect()
	time.Sleep(200 * time.Millisecond) // an answer meanwhile would speak for it
	eventually(t, patience, "the second answers", func() bool { return who(t, p) == second.Listener.Addr().String() })
	if state := p.Link().State; state != Up {
		t.Errorf("link is %s while the second server answers", state)
	}

	first.ready.Store(true)
	eventually(t, patience, "the first answers again", func() bool { return who(t, p) == first.Listener.Addr().String() })
}

// One address that refuses says nothing of the next: the link must not be
// announced down before all have been tried.
func TestDeadFirstServerIsNotAnOutage(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	dir := t.TempDir()
	writeKubeconfig(t, dir, c, c.cable.Addr().String())
	p := newFleet(t, dir, nowhere(t), c.cable.Addr().String())
	p.WaitKnown(t.Context())
	for p.Link().State == Connecting {
		<-p.Changed()
	}
	if link := p.Link(); link.State != Up {
		t.Errorf("the first known state is %s: %s", link.State, link.Reason)
	}
}

func TestKubeconfigThatMovesTheServer(t *testing.T) {
	t.Parallel()
	old, next := newCloud(t), newCloud(t)
	dir := t.TempDir()
	writeKubeconfig(t, dir, old, old.cable.Addr().String())
	p := start(t, Config{Kubeconfig: filepath.Join(dir, "kubeconfig"), Logger: slog.New(slog.DiscardHandler)})
	waitState(t, p, Up, patience)
	var askers sync.WaitGroup
	defer askers.Wait()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for range 4 { // the race detector watches
		askers.Go(func() {
			for ctx.Err() == nil {
				_, _ = get(ctx, p, "/name", credential.Credential{})
			}
		})
	}
	write(t, filepath.Join(dir, "kubeconfig"), []byte("half a"))
	time.Sleep(kubeconfigInterval + 500*time.Millisecond)
	if got := who(t, p); got != old.Listener.Addr().String() {
		t.Errorf("with a damaged kubeconfig %q answers, want the server of the last good one", got)
	}
	writeKubeconfig(t, dir, next, next.cable.Addr().String())
	eventually(t, kubeconfigInterval+patience, "the new address answers", func() bool { return who(t, p) == next.Listener.Addr().String() })
}

// A connection that breaks is not a link that is down: an API server behind a
// balancer restarts, and the next connection finds another one.
func TestBrokenConnectionIsNotAnOutage(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	for range 20 {
		changed := p.Changed()
		c.CloseClientConnections()
		_, _ = get(t.Context(), p, "/name", credential.Credential{}) // is repeated, but the next connection may have broken as well
		eventually(t, patience, "an answer", func() bool { return who(t, p) == c.Listener.Addr().String() })
		select {
		case <-changed:
			t.Fatalf("the link changed: %+v", p.Link())
		default:
		}
	}
}

// A load balancer that finds no API server is not the cloud.
func TestBalancersErrorIsNoAnswer(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	c.broken.Store(true)
	if _, err := get(t.Context(), p, "/name", credential.Credential{}); err != nil {
		t.Fatal(err)
	}
	waitState(t, p, Down, patience)
	if reason := p.Link().Reason; !strings.Contains(reason, "502") {
		t.Errorf("the link is down because of %q", reason)
	}
	c.broken.Store(false)
	waitState(t, p, Up, patience)
}

// Whatever happens at the same time, the link that is announced is the one that
// is: a lost announcement would leave every feed waiting for ever.
func TestFlappingSettlesOnTheTruth(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	s := p.servers[0]
	for range 200 {
		var both sync.WaitGroup
		both.Go(func() { p.fail(s, context.DeadlineExceeded) })
		both.Go(func() { p.answered(s, time.Now().Add(time.Second), keep) })
		both.Wait()
		if s.healthy() && p.Link().State != Up {
			t.Fatalf("link is %s, and its only server healthy: nobody would look again", p.Link().State)
		}
	}
	waitState(t, p, Up, patience)
}

func keep(s score) score { return s }

// What was in a buffer when the connection died does not bring the link back.
func TestLateBytesDoNotRaiseTheLink(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	c.ready.Store(false)
	s := p.servers[0]
	sent := time.Now()
	p.fail(s, context.DeadlineExceeded)
	s.sent()
	p.answered(s, sent, keep)
	if state := p.Link().State; state != Down {
		t.Errorf("link is %s after bytes of before the failure", state)
	}
}

// Nothing is asked while nothing is in doubt.
func TestQuietWhileWell(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	asked := int32(1)
	for try := 0; asked != 0 && try < 5; try++ { // a machine too busy to answer pings is a doubt
		time.Sleep(100 * time.Millisecond)
		before := c.probes.Load()
		time.Sleep(2*probeInterval + 500*time.Millisecond)
		asked = c.probes.Load() - before
	}
	if asked != 0 {
		t.Errorf("%d probes of a server that is well", asked)
	}
	c.ready.Store(false)
	p.Suspect()
	waitState(t, p, Down, patience)
	before := c.probes.Load()
	start := time.Now()
	time.Sleep(3 * probeInterval)
	asked = c.probes.Load() - before
	slept := time.Since(start)
	if int64(asked) > int64(slept/probeInterval)+2 {
		t.Errorf("%d probes in %v while down", asked, slept)
	}
}

func writeKubeconfig(t *testing.T, dir string, c *cloud, server string) {
	t.Helper()
	writeClient(t, dir, "edge")
	writeCA(t, dir, c)
	temporary := filepath.Join(dir, "kubeconfig.new")
	write(t, temporary, fmt.Appendf(nil, `
current-context: c
clusters: [{name: k, cluster: {server: "https://%s", certificate-authority: ca.pem, tls-server-name: example.com}}]
users: [{name: u, user: {client-certificate: client.pem, client-key: client.pem}}]
contexts: [{name: c, context: {cluster: k, user: u}}]`, server))
	if err := os.Rename(temporary, filepath.Join(dir, "kubeconfig")); err != nil {
		t.Fatal(err)
	}
}

// start runs a pool until the test ends.
func start(t *testing.T, cfg Config) *Pool {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return p
}

// broken answers in the API server's place, as a load balancer does.
func (c *cloud) between(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(time.Duration(c.slow.Load()))
		switch probe := r.URL.Path == "/readyz"; {
		case c.broken.Load():
			http.Error(w, "no backend", http.StatusBadGateway)
			return
		case c.fails.Load() && !probe:
			http.Error(w, "etcdserver: leader changed", http.StatusInternalServerError)
			return
		case c.hold.Load() && !probe:
			c.held.Add(1)
			<-r.Context().Done()
			return
		}
		next.ServeHTTP(w, r)
	})
}
