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
)

type listener struct {
	net.Listener
	tls     *tls.Config // nil: plain
	handler http.Handler
}

func (l listener) withTLS() net.Listener {
	if l.tls == nil {
		return l.Listener
	}
	return tls.NewListener(l.Listener, l.tls)
}

// serve answers on l until ctx ends, and returns when the last handler has.
// Requests in flight are broken off: watches have no end to wait for.
func serve(ctx context.Context, l listener, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	handlers := &counted{handler: l.handler}
	server := &http.Server{
		Handler:           handlers,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		BaseContext:       func(net.Listener) context.Context { return ctx },
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
	err := server.Serve(l.withTLS())
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
