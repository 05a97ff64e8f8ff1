package hub

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// maxConnections bounds the connections of a listener that are not the
	// node's own, and maxConnectionsAddress those from one address beyond this
	// host: a client needs one.
	maxConnections        = 1000
	maxConnectionsAddress = 64
	// maxNewcomers is how many connections without a request are left alone in
	// any case: the node's is one of these until it has shown its certificate.
	maxNewcomers = 128
	// fullPause is waited after each connection beyond the bound, so that a
	// newcomer has time to say who it is.
	fullPause = time.Millisecond

	// maxRefusals is how many refusals in a second a connection may get; for each
	// one beyond nothing is read from it for refusalPause.
	maxRefusals  = 100
	refusalPause = 10 * time.Millisecond
)

// connections is a listener that bounds its connections. When there are too many
// the one that has been idle for longest is closed, and never one of those that
// are kept: a new client always gets in, and says who it is.
type connections struct {
	net.Listener
	keep         func(tls.ConnectionState) bool // the node's own
	most         int
	mostByOrigin int

	mu       sync.Mutex
	open     map[*connection]bool // those that are not kept
	byOrigin map[netip.Addr]int   // of these
}

func newConnections(l net.Listener, keep func(tls.ConnectionState) bool) *connections {
	return &connections{
		Listener: l, keep: keep, most: maxConnections, mostByOrigin: maxConnectionsAddress,
		open: map[*connection]bool{}, byOrigin: map[netip.Addr]int{},
	}
}

func (cs *connections) add(c *connection) {
	cs.open[c] = true
	cs.byOrigin[c.origin]++
}

func (cs *connections) remove(c *connection) {
	if !cs.open[c] {
		return
	}
	delete(cs.open, c)
	if cs.byOrigin[c.origin]--; cs.byOrigin[c.origin] == 0 {
		delete(cs.byOrigin, c.origin)
	}
}

// connection is one of a listener's. Its state is guarded by the listener.
type connection struct {
	net.Conn
	all    *connections
	origin netip.Addr // zero: this host
	state  http.ConnState
	since  time.Time

	closing sync.Once
	closed  chan struct{}

	mu       sync.Mutex
	until    time.Time // nothing is read before
	second   time.Time // in which refusals are counted
	refusals int
}

// Accept returns the next connection. Another one may end for it.
func (cs *connections) Accept() (net.Conn, error) {
	conn, err := cs.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, all: cs, origin: originOf(conn), state: http.StateNew, since: time.Now(), closed: make(chan struct{})}
	cs.mu.Lock()
	cs.add(c)
	full := cs.full(c)
	var victim *connection
	if full {
		victim = cs.victim(c)
	}
	cs.mu.Unlock()
	if victim != nil {
		_ = victim.Close() // it is given up
	}
	if full {
		time.Sleep(fullPause)
	}
	return c, nil
}

// originOf is the address that connections are counted by. The programs of this
// host share one, and are not told apart.
func originOf(conn net.Conn) netip.Addr {
	tcp, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok || tcp.IP.IsLoopback() {
		return netip.Addr{}
	}
	return tcp.AddrPort().Addr().Unmap()
}

// full tells whether there are more connections than may be.
func (cs *connections) full(c *connection) bool { return len(cs.open) > cs.most || cs.crowded(c) }

// crowded tells whether there are more from c's origin than may be.
func (cs *connections) crowded(c *connection) bool {
	return c.origin.IsValid() && cs.byOrigin[c.origin] > cs.mostByOrigin
}

// victim is the connection that gives way to c, if there is one: the one that has
// been idle for longest, or the oldest newcomer if these are many.
func (cs *connections) victim(c *connection) *connection {
	crowded := cs.crowded(c)
	newcomers := 0
	var oldest, idle *connection
	for other := range cs.open {
		if other == c || crowded && other.origin != c.origin {
			continue
		}
		switch other.state {
		case http.StateNew:
			newcomers++
			oldest = older(oldest, other)
		case http.StateIdle:
			idle = older(idle, other)
		}
	}
	if oldest != nil && (newcomers > maxNewcomers || crowded && idle == nil) {
		idle = older(idle, oldest)
	}
	return idle
}

func older(a, b *connection) *connection {
	if a == nil || b.since.Before(a.since) {
		return b
	}
	return a
}

// changed follows a connection's life. A connection that begins a request when
// there are too many that have one is closed, unless it is the node's.
func (cs *connections) changed(conn net.Conn, state http.ConnState) {
	c := connectionOf(conn)
	if c == nil {
		return
	}
	cs.mu.Lock()
	if secured, ok := conn.(*tls.Conn); ok && state == http.StateActive && cs.open[c] && cs.keep(secured.ConnectionState()) {
		cs.remove(c)
	}
	c.state, c.since = state, time.Now()
	surplus := state == http.StateActive && cs.open[c] && cs.full(c) && cs.victim(c) == nil
	cs.mu.Unlock()
	if surplus {
		_ = c.Close() // it is given up
	}
}

// connectionOf finds the connection below TLS.
func connectionOf(conn net.Conn) *connection {
	if secured, ok := conn.(*tls.Conn); ok {
		conn = secured.NetConn()
	}
	c, _ := conn.(*connection)
	return c
}

// Close ends a connection, and the wait of its reader.
func (c *connection) Close() error {
	c.closing.Do(func() {
		c.all.mu.Lock()
		c.all.remove(c)
		c.all.mu.Unlock()
		close(c.closed)
	})
	return c.Conn.Close()
}

// Read reads no faster than a client may ask that is refused most of the time:
// requests that are not read cost nothing.
func (c *connection) Read(b []byte) (int, error) {
	c.mu.Lock()
	wait := time.Until(c.until)
	c.mu.Unlock()
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.closed:
		}
	}
	return c.Conn.Read(b)
}

// Write ends the connection if a deadline passes while the client takes nothing:
// net/http's HTTP/2 would keep it.
func (c *connection) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = c.Close() // the error says what there is to say
	}
	return n, err
}

// refused counts an answer that cost its client nothing.
func (c *connection) refused() {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.second) >= time.Second {
		c.second, c.refusals = now, 0
	}
	if c.refusals++; c.refusals > maxRefusals {
		c.until = later(now, c.until).Add(refusalPause)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// connectionKey is under what a request's context has its connection.
type connectionKey struct{}

// judged tells a connection when its client is refused.
type judged struct {
	http.ResponseWriter
	connection *connection
}

func (j judged) WriteHeader(code int) {
	if code == http.StatusTooManyRequests || code == http.StatusUnauthorized {
		j.connection.refused()
	}
	j.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (j judged) Unwrap() http.ResponseWriter { return j.ResponseWriter }
