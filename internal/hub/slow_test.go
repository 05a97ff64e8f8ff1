package hub

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestSlowClients: who takes all the time in the world gets some of it. The
// connections are pipes, and time is the test's own.
func TestSlowClients(t *testing.T) {
	certificate := newAuthority(t).issue(t, "hub")
	trickle := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			for i := range len(text) {
				if _, err := io.WriteString(conn, text[i:i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}
	}
	secured := func(then func(net.Conn), protocol string) func(net.Conn) {
		return func(conn net.Conn) {
			// What it shows is not the question here.
			client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}) //nolint:gosec // see above
			if client.Handshake() == nil {
				then(client)
			}
		}
	}
	framed := func(then func(net.Conn, *http2.Framer)) func(net.Conn) {
		return secured(func(conn net.Conn) {
			go func() { _, _ = io.WriteString(conn, http2.ClientPreface) }()
			framer := http2.NewFramer(conn, conn)
			if framer.WriteSettings() == nil {
				then(conn, framer)
			}
		}, "h2")
	}
	long := strings.Repeat("x", 1000)
	for name, c := range map[string]struct {
		client func(net.Conn)
		plain  bool
		most   time.Duration // that the connection lasts
	}{
		"silence":                {func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, true, headerPatience},
		"a slow header":          {trickle("GET / HTTP/1.1\r\nHost: localhost\r\nX: " + long), true, headerPatience},
		"no handshake":           {func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, false, headerPatience},
		"a slow handshake":       {trickle("\x16\x03\x01\x02\x00\x01" + long), false, headerPatience},
		"silence after it":       {secured(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "http/1.1"), false, headerPatience},
		"a slow header after it": {secured(trickle("GET / HTTP/1.1\r\nX: "+long), "http/1.1"), false, headerPatience},
		"no preface":             {secured(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, "h2"), false, headerPatience},
		"an open HEADERS": {framed(func(conn net.Conn, f *http2.Framer) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			_, _ = io.Copy(io.Discard, conn)
		}), false, 2 * time.Minute},
		"an answer that nobody takes": {framed(func(conn net.Conn, f *http2.Framer) {
			var block strings.Builder
			encoder := hpack.NewEncoder(&block)
			for _, field := range []string{":method GET", ":scheme https", ":authority hub", ":path /"} {
				key, value, _ := strings.Cut(field, " ")
				_ = encoder.WriteField(hpack.HeaderField{Name: key, Value: value})
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
			_, _ = io.CopyN(io.Discard, conn, 10_000) // and no more
			time.Sleep(10 * time.Minute)
		}), false, stalledAfter},
		"one request and no more": {func(conn net.Conn) {
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil {
				_, _ = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
			}
			_, _ = io.Copy(io.Discard, conn)
		}, true, 2 * time.Minute},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := listener{Listener: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					_, _ = w.Write(make([]byte, 1<<20))
				})}
				if !c.plain {
					l.tls = &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}
				}
				ctx, cancel := context.WithCancel(t.Context())
				served := make(chan error, 1)
				go func() { served <- serve(ctx, l, slog.New(slog.DiscardHandler)) }()
				client, server := net.Pipe()
				ended := &endNoted{Conn: server, at: make(chan time.Time, 1)}
				l.Listener.(*pipes).conns <- ended
				began := time.Now()
				gone := make(chan struct{})
				go func() { defer close(gone); c.client(client) }()
				select {
				case at := <-ended.at:
					if took := at.Sub(began); took > c.most+2*time.Second {
						t.Errorf("the connection lasted %s, want %s", took, c.most)
					}
				case <-time.After(time.Hour):
					t.Error("the connection lasts for ever")
				}
				client.Close()
				<-gone
				cancel()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// endNoted is a connection whose end is noted.
type endNoted struct {
	net.Conn
	at chan time.Time
}

func (c *endNoted) Close() error {
	select {
	case c.at <- time.Now():
	default:
	}
	return c.Conn.Close()
}

// pipes is a listener for what a test hands it.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }
