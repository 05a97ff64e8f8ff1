package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxStreams bounds what one client has open at a time over one connection.
	// A kubelet watches every Secret and ConfigMap of its pods, over a single
	// one.
	maxStreams = 2000

	// stopGrace is how long answers that are being written have to be completed
	// when the hub stops.
	stopGrace = time.Second

	// headerPatience is how long a client has for a request's header, or for its
	// TLS handshake.
	headerPatience = 10 * time.Second
	maxHeader      = 64 << 10

	// stalledAfter is how long a client may take nothing of what is written to it
	// over HTTP/2, before its connection ends.
	stalledAfter = time.Minute

	// What one connection may make the hub hold for bodies that nobody has read
	// yet, and the longest frame.
	connectionBuffer = 256 << 10
	streamBuffer     = 128 << 10
	maxFrame         = 32 << 10
)

type listener struct {
	net.Listener
	tls     *tls.Config // nil: plain
	handler http.Handler
	keep    func(tls.ConnectionState) bool // connections that no other client's close; nil: none
}

// bounded is the listener with a bound on its connections.
func (l listener) bounded() (*connections, net.Listener) {
	keep := l.keep
	if keep == nil {
		keep = func(tls.ConnectionState) bool { return false }
	}
	bounded := newConnections(l.Listener, keep)
	if l.tls == nil {
		return bounded, bounded
	}
	return bounded, tls.NewListener(bounded, l.tls)
}

// serve answers on l until ctx ends, and returns when the last handler has.
// Requests in flight are broken off: watches have no end to wait for.
func serve(ctx context.Context, l listener, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handlers := &counted{handler: l.handler}
	bounded, accepted := l.bounded()
	server := &http.Server{
		Handler:           handlers,
		ReadHeaderTimeout: headerPatience,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerConnection: connectionBuffer,
			MaxReceiveBufferPerStream:     streamBuffer,
			WriteByteTimeout:              stalledAfter,
		},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState:   bounded.changed,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, connectionOf(conn))
		},
	}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			closed <- server.Close()
			return
		}
		closed <- nil
	})
	err := server.Serve(accepted)
	if stop() {
		cancel()
		err = errors.Join(fmt.Errorf("serve %s: %w", l.Addr(), err), server.Close())
	} else {
		err = <-closed
	}
	handlers.wait()
	return err
}

// counted knows of the handlers that are running: net/http does not wait for
// those whose connection it has closed, and what they use is closed after them.
type counted struct {
	handler http.Handler

	mu      sync.Mutex
	ended   bool
	running sync.WaitGroup
}

func (c *counted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !c.enter() {
		panic(http.ErrAbortHandler)
	}
	defer c.running.Done()
	if connection, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		w = judged{w, connection}
	}
	c.handler.ServeHTTP(w, r)
}

func (c *counted) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.running.Add(1)
	}
	return !c.ended
}

// wait returns when all handlers have; no other begins.
func (c *counted) wait() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.running.Wait()
}
