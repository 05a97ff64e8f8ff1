package replica

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/credential"
	"yurt/internal/failpoint"
	"yurt/internal/request"
	"yurt/internal/upstream"
)

// inWorld runs a test in a bubble, with a cloud and a replica of it.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud(), watches: map[string]*client{}, mend: func() {}}
		w.start()
		defer w.stop()
		test(t, w)
	})
}

// follow begins a watch with its initial events, which it returns, in the place
// of one of that name.
func (w *world) follow(name string) string {
	if before := w.watches[name]; before != nil {
		before.cancel()
		<-before.done
	}
	yes := true
	w.watch(name, request.Options{SendInitialEvents: &yes, AllowWatchBookmarks: true})
	rest()
	return w.watches[name].take()
}

// TestDurableBeforeDelivered holds the fsync of an event: while it lasts the
// event is in nobody's watch, list or get, and it is everywhere afterwards. If
// the fsync fails, nobody has seen it.
func TestDurableBeforeDelivered(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.cloud.change("ADDED", "a", "1", false)
		w.follow("early")
		hold, fail := make(chan struct{}), false
		disable := failpoint.EnableFunc(failpoint.StoreBeforeSync, func() error {
			<-hold
			if fail {
				return failpoint.ErrInjected
			}
			return nil
		})
		defer disable()

		w.cloud.change("MODIFIED", "a", "2", false)
		time.Sleep(time.Second)
		synctest.Wait()
		unseen := func(while string) {
			t.Helper()
			if got := w.watches["early"].take(); got != "" {
				t.Errorf("%s: a watch has %q", while, got)
			}
			if got := w.follow("late"); !strings.Contains(got, "a=1") || strings.Contains(got, "a=2") {
				t.Errorf("%s: a new watch begins with %q", while, got)
			}
			if got := w.list(false); got != "ConfigMapList @101: a=1\n" {
				t.Errorf("%s: a list has %q", while, got)
			}
			if got := w.get("a"); got != "a of version 101\n" {
				t.Errorf("%s: a get has %q", while, got)
			}
		}
		unseen("before the fsync")

		fail = true
		hold <- struct{}{}
		synctest.Wait()
		unseen("after one that failed")

		fail = false
		close(hold)
		time.Sleep(time.Minute)
		rest()
		for _, name := range []string{"early", "late"} {
			if got := w.watches[name].take(); got != "MODIFIED a=2 @102\n" {
				t.Errorf("afterwards the %s watch has %q", name, got)
			}
		}
	})
}

// TestFrozenWhileCut changes everything in the cloud while the link is cut.
// What the node reads stays as it was at the cut, whatever is restarted, and
// becomes what the cloud has when the link returns.
func TestFrozenWhileCut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for i := range 20 {
			w.cloud.change("ADDED", fmt.Sprintf("o%02d", i), "1", false)
		}
		w.follow("client")
		frozen := w.list(false)
		w.cloud.set(upstream.Down)
		for i := range 20 {
			switch i % 3 {
			case 0:
				w.cloud.change("MODIFIED", fmt.Sprintf("o%02d", i), "2", false)
			case 1:
				w.cloud.change("DELETED", fmt.Sprintf("o%02d", i), "", false)
			case 2:
				w.cloud.change("ADDED", fmt.Sprintf("n%02d", i), "1", false)
			}
		}
		for hour := range 48 {
			time.Sleep(time.Hour)
			if hour%10 == 5 {
				w.stop()
				w.start()
			}
			if got := w.list(hour%2 == 0); got != frozen && !strings.HasPrefix(got, "error") {
				t.Fatalf("after %d hours a list has\n%s, at the cut it had\n%s", hour, got, frozen)
			}
			if got := w.list(false); got != frozen {
				t.Fatalf("after %d hours a list has\n%s, at the cut it had\n%s", hour, got, frozen)
			}
		}
		w.cloud.set(upstream.Up)
		time.Sleep(returnLate)
		if got, want := w.list(false), w.cloud.text(); got != want {
			t.Errorf("after the return a list has\n%s, the cloud has\n%s", got, want)
		}
	})
}

// pipes is a listener for connections that stay in the bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }
func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.conns <- there
	return here, nil
}

// TestQuietWatchStands keeps a watch quiet for most of an hour, over the
// protocol that clients use: a write deadline that stays armed would end it.
func TestQuietWatchStands(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		only := new(http.Protocols)
		only.SetUnencryptedHTTP2(true)
		wires := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
		server := &http.Server{Protocols: only, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			c, err := w.set.Use(shop, credential.Credential{}, 0)
			if err == nil {
				err = c.Ready(r.Context())
			}
			if err == nil {
				err = c.Watch(r.Context(), rw, request.ParseURL(r.URL).Options, nil)
			}
			if err != nil {
				t.Errorf("watch: %v", err)
			}
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(wires) })
		defer serving.Wait()
		defer server.Close()
		transport := &http.Transport{Protocols: only, DialContext: wires.dial}
		defer transport.CloseIdleConnections()

		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hub/api/v1/namespaces/shop/configmaps?watch=1&resourceVersion=0", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.Sleep(minWatch)
		w.cloud.change("ADDED", "a", "1", false)
		event := make([]byte, 4096)
		n, err := resp.Body.Read(event)
		if got := decodeEvents(event[:n]); err != nil || got != "ADDED a=1 @101\n" {
			t.Errorf("after %v of quiet: %q, %v", minWatch, got, err)
		}
		time.Sleep(time.Hour) // the watch's time is over
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Errorf("the end of the watch: %v", err)
		}
	})
}

// TestForgottenIsMadeAnew lets clients come back at the very moment in which
// their collection is forgotten. Each finds one that is fed.
func TestForgottenIsMadeAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.set.linger = time.Millisecond
		w.cloud.change("ADDED", "a", "1", false)
		ctx, cancel := context.WithCancel(t.Context())
		var forgetter sync.WaitGroup
		forgotten := 0
		forgetter.Go(func() {
			for ctx.Err() == nil {
				for _, c := range w.set.All() {
					if c.leave(24) {
						w.set.forget(c)
						forgotten++
					}
				}
				time.Sleep(time.Millisecond)
			}
		})
		for i := range 300 {
			if got := w.list(false); got != "ConfigMapList @101: a=1\n" {
				t.Fatalf("round %d: %s", i, got)
			}
			w.cloud.set(upstream.Up) // breaks the watch: the feed looks whether it is needed
			time.Sleep(time.Duration(i%20) * 50 * time.Millisecond)
		}
		cancel()
		forgetter.Wait()
		if forgotten < 20 {
			t.Errorf("the collection was forgotten %d times only", forgotten)
		}
	})
}
