package semantics

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// link is the way from hubs to the cloud: an address that leads there while it
// is up.
type link struct {
	listener net.Listener
	dial     dialer
	to       string

	mu    sync.Mutex
	state linkState
	moved chan struct{} // closed when the state changes
	conns map[net.Conn]bool
	work  sync.WaitGroup
}

type linkState int

const (
	whole linkState = iota
	cut             // connections are reset, new ones too
	hole            // connections stand and bring nothing, new ones too
)

// newLink returns a link to the site's API server that is up.
func (s *site) newLink(t *testing.T) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &link{
		listener: listener, dial: s.Cloud().Dial, to: s.APIServerURLs()[0][len("https://"):],
		moved: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	l.work.Go(l.accept)
	t.Cleanup(func() {
		listener.Close()
		l.set(cut)
		l.work.Wait()
	})
	return l
}

func (l *link) url() string { return "https://" + l.listener.Addr().String() }

// set changes what the link does; what is on its way through a cut is lost.
func (l *link) set(state linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
	close(l.moved)
	l.moved = make(chan struct{})
	if state != cut {
		return
	}
	for conn := range l.conns {
		reset(conn)
	}
	clear(l.conns)
}

func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// add notes a connection; it is false, and closed, if the link is cut.
func (l *link) add(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == cut {
		reset(conn)
		return false
	}
	l.conns[conn] = true
	return true
}

func (l *link) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conn.Close()
	delete(l.conns, conn)
}

func (l *link) accept() {
	for {
		conn, err := l.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && l.add(conn) {
			l.work.Go(func() { l.relay(conn) })
		}
	}
}

func (l *link) relay(near net.Conn) {
	defer l.drop(near)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	far, err := l.dial(ctx, "tcp", l.to)
	cancel()
	if err != nil || !l.add(far) {
		return
	}
	defer l.drop(far)
	var ways sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		ways.Go(func() {
			_, _ = io.Copy(gated{l, way[1]}, way[0]) // it ends when either side does
			way[0].Close()
			way[1].Close()
		})
	}
	ways.Wait()
}

// gated is a connection to which nothing comes through while there is a hole.
type gated struct {
	link *link
	net.Conn
}

func (g gated) Write(b []byte) (int, error) {
	for {
		g.link.mu.Lock()
		state, moved := g.link.state, g.link.moved
		g.link.mu.Unlock()
		if state != hole {
			return g.Conn.Write(b)
		}
		<-moved
	}
}

// dialer is how net.Dialer's DialContext looks.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)
