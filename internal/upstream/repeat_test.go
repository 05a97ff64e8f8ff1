package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"yurt/internal/credential"
)

// newSeveral runs a pool over clouds that all know the same client.
func newSeveral(t *testing.T, mode Mode, clouds ...*cloud) *Pool {
	t.Helper()
	dir := t.TempDir()
	cfg := Config{Kubeconfig: filepath.Join(dir, "kubeconfig"), Mode: mode, Logger: slog.New(slog.DiscardHandler)}
	writeKubeconfig(t, dir, clouds[0], clouds[0].cable.Addr().String())
	for _, c := range clouds {
		cfg.Servers = append(cfg.Servers, &url.URL{Scheme: "https", Host: c.cable.Addr().String()})
	}
	p := start(t, cfg)
	for _, s := range p.servers {
		eventually(t, 10*time.Second, "all servers are up", s.certain)
	}
	return p
}

func send(ctx context.Context, p *Pool, method, path, body string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, method, path, io.NopCloser(strings.NewReader(body)))
	if err != nil {
		return "", err
	}
	r.ContentLength = int64(len(body))
	resp, err := p.RoundTrip(r, credential.Credential{})
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func TestRoundRobinAsksAll(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, RoundRobin, first, second)
	asked := map[string]int{}
	for range 10 {
		asked[who(t, p)]++
	}
	if asked[first.Listener.Addr().String()] != 5 || asked[second.Listener.Addr().String()] != 5 {
		t.Errorf("asked %v", asked)
	}
}

// A read that is under way when its server dies is answered by another one; a
// client with a timeout of 10 s does not notice.
func TestReadInFlightIsAnsweredElsewhere(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(*cloud){
		"it is killed":    func(c *cloud) { c.cable.close() },
		"it falls silent": func(c *cloud) { c.cable.dead.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newCloud(t), newCloud(t)
			p := newSeveral(t, Priority, first, second)
			first.hold.Store(true)
			type answer struct {
				body string
				err  error
			}
			answers := make(chan answer, 1)
			began := time.Now()
			go func() {
				body, err := get(t.Context(), p, "/name", credential.Credential{})
				answers <- answer{body, err}
			}()
			eventually(t, 10*time.Second, "the request is under way", func() bool { return first.held.Load() > 0 })
			die(first)
			a := <-answers
			if a.err != nil || a.body != second.Listener.Addr().String() {
				t.Errorf("answered by %q, %v; want the second server", a.body, a.err)
			}
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
			if state := p.Link().State; state != Up {
				t.Errorf("link is %s", state)
			}
		})
	}
}

// A write that may have been executed is not sent again; one that was never sent
// is, with its body.
func TestWriteIsNotRepeated(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, Priority, first, second)
	first.hold.Store(true)
	failed := make(chan error, 1)
	go func() {
		_, err := send(t.Context(), p, http.MethodPost, "/echo", "once")
		failed <- err
	}()
	eventually(t, 10*time.Second, "the write is under way", func() bool { return first.held.Load() > 0 })
	first.cable.close()
	var gone *UnreachableError
	if err := <-failed; !errors.As(err, &gone) {
		t.Errorf("the write that was under way: %v, want an UnreachableError", err)
	}
	if n := second.writes.Load(); n != 0 {
		t.Errorf("the second server got %d writes", n)
	}
	// The pool may not have noticed yet that the first one refuses connections.
	if got, err := send(t.Context(), p, http.MethodPost, "/echo", "twice"); err != nil || got != "twice" {
		t.Errorf("a write that could not be sent to the first server: %q, %v", got, err)
	}
}

// A server that answers every request with 500, probes aside, is spared, and
// comes back.
func TestServerThatFails(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, Priority, first, second)
	first.fails.Store(true)
	eventually(t, 10*time.Second, "the second answers", func() bool { return who(t, p) == second.Listener.Addr().String() })
	first.fails.Store(false)
	for range 4 { // as many probes as it takes
		if err := p.ask(t.Context(), p.servers[0]); err != nil {
			t.Fatal(err)
		}
	}
	if got := who(t, p); got != first.Listener.Addr().String() {
		t.Errorf("%s answers, want the first", got)
	}
}

// A server that is slow is spared while another one is not.
func TestSlowServer(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, Priority, first, second)
	first.slow.Store(int64(2 * time.Second))
	p.Suspect() // somebody has waited for too long
	eventually(t, 20*time.Second, "the second answers", func() bool { return who(t, p) == second.Listener.Addr().String() })
	first.slow.Store(0)
	eventually(t, 60*time.Second, "the first answers again", func() bool { return who(t, p) == first.Listener.Addr().String() })
}

// All are dead: requests fail at once. One returns: it is used.
func TestAllDeadAndBack(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, RoundRobin, first, second)
	first.ready.Store(false)
	second.ready.Store(false)
	p.Suspect()
	waitState(t, p, Down, 10*time.Second)
	if _, err := get(t.Context(), p, "/name", credential.Credential{}); !errors.Is(err, ErrDown) {
		t.Errorf("while all are dead: %v, want ErrDown", err)
	}
	second.ready.Store(true)
	waitState(t, p, Up, 10*time.Second)
	for range 4 {
		if got := who(t, p); got != second.Listener.Addr().String() {
			t.Errorf("%s answers, want the second", got)
		}
	}
}

// What a portal or a balancer says is not an answer while another server has
// one.
func TestAnswerFromBetweenIsAskedElsewhere(t *testing.T) {
	t.Parallel()
	first, second := newCloud(t), newCloud(t)
	p := newSeveral(t, Priority, first, second)
	first.broken.Store(true)
	if got := who(t, p); got != second.Listener.Addr().String() {
		t.Errorf("%s answers, want the second", got)
	}
}

// When a server falls silent the connections that carry clients' tokens, which
// have no pulse of their own, end with the node's.
func TestSilenceEndsAllConnections(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	watch := make(chan error, 1)
	standing := c.watches.Load()
	go func() {
		_, err := get(t.Context(), p, "/watch", credential.Credential{Identity: credential.Identity{Name: "pod"}, Token: "t"})
		watch <- err
	}()
	eventually(t, 10*time.Second, "the watch stands", func() bool { return c.watches.Load() > standing })
	c.cable.dead.Store(true)
	select {
	case err := <-watch:
		if err == nil {
			t.Error("the watch ended without an error")
		}
	case <-time.After(pingAfter + pingPatience + 10*time.Second):
		t.Error("the watch stands in the dark")
	}
	if open := p.servers[0].letGo(); len(open) != 0 {
		t.Errorf("%d connections to a silent server are kept", len(open))
	}
}

// A name that can't be looked up any more is where it was.
func TestNameIsGone(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	s := newServer(&url.URL{Scheme: "https", Host: "api.invalid:443"})
	if _, err := s.connect(t.Context(), "tcp", s.host()); err == nil {
		t.Fatal("a name that never was leads somewhere")
	}
	s.noteAddress(c.cable.Addr().String())
	conn, err := s.connect(t.Context(), "tcp", s.host())
	if err != nil {
		t.Fatalf("connect to the last known address: %v", err)
	}
	conn.Close()
}
