package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A connection on which nothing has come for pingAfter is asked for a sign
	// of life by its HTTP/2 client, and is dead when there is none within
	// pingPatience, or within roundTrips of its own if it is a slow one.
	// client-go's defaults (30 s and 15 s) leave a node in the dark for most of a
	// minute.
	pingAfter    = 2 * time.Second
	pingPatience = time.Second
	roundTrips   = 3
	maxPatience  = 15 * time.Second

	// One connection to a server is enough to know that it is there: the others,
	// which carry clients' tokens, go down with it, and are asked this often
	// for their own sake.
	quietPingAfter = 30 * time.Second

	// connectTimeout is how long it may take to connect and shake hands: less than
	// a client waits for an answer, and enough for a round trip of 2 s.
	connectTimeout = 8 * time.Second
	lookupTimeout  = 2 * time.Second

	pulseIdleTimeout = 10 * time.Minute
	keepAlive        = 30 * time.Second
)

// errSilent: pings are not answered.
var errSilent = errors.New("no sign of life on the connection")

// dialError is a connection that could not be made: nothing has been sent.
type dialError struct {
	err    error
	broken bool // it broke during the handshake, as any connection may
}

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// conn is a connection to a server. It counts its bytes; if it has a pulse it
// notices its own silence, and tells the server's other connections and the
// pool.
type conn struct {
	net.Conn
	server *server
	bytes  *byteCount
	pulse  *time.Timer  // fires when there may have been silence for too long; nil: that is not noticed
	heard  atomic.Int64 // when something came last, in Unix nanoseconds
	closed atomic.Bool
}

// kind is what a connection is for.
type kind struct {
	config *tls.Config
	pulse  bool // the server's silence shows in it
	lasts  bool // it outlives the server's silence: an upgraded one
}

// dial connects to a server and shakes hands.
func (p *Pool) dial(ctx context.Context, s *server, k kind, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errConnect)
	defer cancel()
	raw, err := s.connect(ctx, network, address)
	if err != nil {
		return nil, &dialError{err: err}
	}
	c := &conn{Conn: raw, server: s, bytes: &p.bytes}
	config := k.config
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(&dialError{err: err}, raw.Close())
		}
		config = config.Clone()
		config.ServerName = host
	}
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		cause := context.Cause(ctx)
		if cause != nil {
			err = cause
		}
		var untrusted *tls.CertificateVerificationError
		return nil, &dialError{err: err, broken: cause == nil && !errors.As(err, &untrusted)}
	}
	if !k.lasts {
		s.keep(c)
	}
	if k.pulse && secure.ConnectionState().NegotiatedProtocol == "h2" { // who speaks HTTP/1 is not pinged
		c.pulse = time.AfterFunc(time.Hour, func() { p.listen(c) })
		c.pulse.Reset(pingAfter + c.patience())
	}
	return secure, nil
}

var errConnect = errors.New("connecting took too long")

// connect falls back on the address that the server had when its name can't be
// looked up: the certificate tells whether it still is the one.
func (s *server) connect(ctx context.Context, network, address string) (net.Conn, error) {
	if last := s.lastAddress(); last != "" && !resolves(ctx, address) {
		address = last
	}
	c, err := (&net.Dialer{KeepAlive: keepAlive}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	s.noteAddress(c.RemoteAddr().String())
	return c, nil
}

// resolves tells whether the name in an address can be looked up.
func resolves(ctx context.Context, address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || net.ParseIP(host) != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	_, err = net.DefaultResolver.LookupHost(ctx, host)
	return err == nil
}

// listen is called when nothing has come on a connection for a while. The
// longer its round trip has become meanwhile, the longer it is waited for.
func (p *Pool) listen(c *conn) {
	if rest := time.Until(time.Unix(0, c.heard.Load()).Add(pingAfter + c.patience())); rest > 0 {
		c.pulse.Reset(rest)
		return
	}
	if c.closed.Load() {
		return
	}
	p.fail(c.server, errSilent)
	for _, other := range c.server.letGo() {
		_ = other.Conn.Close() // its requests get the error of a closed connection
	}
}

// patience is how long an answer to a ping may take.
func (c *conn) patience() time.Duration {
	return min(max(pingPatience, roundTrips*c.roundTrip()), maxPatience)
}

// roundTrip is the kernel's own measure, 0 if it has none.
func (c *conn) roundTrip() time.Duration {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0
	}
	var rtt time.Duration
	_ = raw.Control(func(fd uintptr) { // a closed one has no round trip
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			rtt = time.Duration(info.Rtt) * time.Microsecond
		}
	})
	return rtt
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.bytes.read.Add(int64(n))
	if n > 0 {
		c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.bytes.written.Add(int64(n))
	return n, err
}

// Close is called when the other side has closed the connection, or nobody
// needs it. While the server counts as well there must be one with a pulse.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	c.server.forget(c)
	if c.pulse != nil {
		c.pulse.Stop()
		c.server.doubt()
		c.server.wake()
	}
	return c.Conn.Close()
}

// byteCount counts what goes over the sockets.
type byteCount struct{ read, written atomic.Int64 }
