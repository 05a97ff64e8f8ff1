package link

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
	"yurt/internal/playground/netns"
)

// front stands before the API server, as balancers and proxies do: it passes
// connections on, or does what they do on bad days.
type front struct {
	listener net.Listener
	cloud    *cluster.Cluster
	serving  sync.WaitGroup

	mu   sync.Mutex
	mood mood
	open map[net.Conn]struct{}
}

// mood is what the front does with a connection.
type mood func(*front, net.Conn)

const (
	frontAddress = "10.99.0.1:7443"
	frontName    = "kubernetes" // in the API server's certificate
)

func startFront(ctx context.Context, c *cluster.Cluster) (*front, error) {
	pid, err := c.Cloud().PID()
	if err != nil {
		return nil, err
	}
	l, err := netns.Listen(ctx, pid, "tcp", frontAddress)
	if err != nil {
		return nil, err
	}
	f := &front{listener: l, cloud: c, mood: (*front).pass, open: map[net.Conn]struct{}{}}
	f.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f.serving.Go(func() { f.serve(conn) })
		}
	})
	return f, nil
}

func (f *front) stop() {
	f.listener.Close()
	f.become(nil)
	f.serving.Wait()
}

// become changes the mood, and breaks all connections.
func (f *front) become(m mood) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mood = m
	for conn := range f.open {
		conn.Close()
	}
}

func (f *front) serve(conn net.Conn) {
	f.mu.Lock()
	mood := f.mood
	f.open[conn] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.open, conn)
		f.mu.Unlock()
		conn.Close()
	}()
	if mood != nil {
		mood(f, conn)
	}
}

func (f *front) pass(conn net.Conn) {
	up, err := f.cloud.Cloud().Dial(context.Background(), "tcp", "10.99.0.1:"+component.APIServerPort)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, conn); up.Close() })
	both.Go(func() { _, _ = io.Copy(conn, up); conn.Close() })
	both.Wait()
}

// hang takes the connection and never shakes hands.
func (f *front) hang(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// answer answers every request with a page of the proxy's own.
func answer(t *testing.T, code int, contentType, page string) mood {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(shared.Cloud().Path(component.PKI+"/apiserver.crt"), shared.Cloud().Path(component.PKI+"/apiserver.key"))
	must(t, err)
	return func(_ *front, conn net.Conn) {
		server := &http.Server{
			ReadHeaderTimeout: 10 * time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", contentType)
				w.WriteHeader(code)
				fmt.Fprint(w, page)
			}),
		}
		one := &single{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
		secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}})
		one.conn <- closing{secure, one.Close}
		_ = server.Serve(one)
	}
}

// single is a listener that has one connection to give.
type single struct {
	conn   chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (s *single) Accept() (net.Conn, error) {
	select {
	case c := <-s.conn:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *single) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *single) Addr() net.Addr { return &net.TCPAddr{} }

// closing is a connection whose end is told.
type closing struct {
	net.Conn
	then func() error
}

func (c closing) Close() error {
	err := c.Conn.Close()
	_ = c.then()
	return err
}
