package hub

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// victim is a hub under attack, and the kubelet that needs it.
type victim struct {
	*site
	*Hub
	kubelet *http.Client
}

func attack(t *testing.T) *victim {
	s := newSite(t)
	h, stop := s.run()
	t.Cleanup(stop)
	v := &victim{site: s, Hub: h, kubelet: s.client(s.ca.issue(t, "system:node:edge"))}
	v.kubelet.Timeout = time.Minute
	v.served("before the attack")
	return v
}

func (v *victim) url(path string) string { return "https://" + v.SecureAddr() + path }

// served fails the test unless the kubelet is answered, over the connection that
// it has and over a new one.
func (v *victim) served(when string) {
	v.t.Helper()
	anew := v.client(v.ca.issue(v.t, "system:node:edge"))
	anew.Timeout = time.Minute
	defer anew.CloseIdleConnections()
	for _, client := range []*http.Client{v.kubelet, anew} {
		expect(v.t, "the kubelet "+when, get(client, v.url("/api/v1/namespaces/shop/configmaps?resourceVersion=0"), ""), "200 HTTP/2")
	}
}

// dial opens a connection to the TLS port as nobody.
func (v *victim) dial(protocol string) net.Conn {
	v.t.Helper()
	config := v.client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{protocol}
	conn, err := tls.Dial("tcp", v.SecureAddr(), config)
	v.must(err)
	v.t.Cleanup(func() { conn.Close() })
	v.must(conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn
}

func TestOversizedHeaders(t *testing.T) {
	v := attack(t)
	for _, token := range []string{"", "good"} {
		for _, header := range []string{strings.Repeat("x", 2*maxHeader), strings.Repeat("x", 100*maxHeader)} {
			r, err := http.NewRequest(http.MethodGet, v.url("/version"), http.NoBody)
			v.must(err)
			r.Header.Set("X", header)
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := v.client().Do(r)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("%d bytes of headers over HTTP/2: %s", len(header), resp.Status)
				}
			}
			conn := v.dial("http/1.1")
			go fmt.Fprintf(conn, "GET /version HTTP/1.1\r\nHost: hub\r\nX: %s\r\n\r\n", header)
			if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				answer.Body.Close()
				if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("%d bytes of headers over HTTP/1.1: %s", len(header), answer.Status)
				}
			}
		}
	}
	v.served("after oversized headers")
}

// TestOversizedBodies: a write that is too long is refused after what the API
// server would have read of it; one that never ends, too.
func TestOversizedBodies(t *testing.T) {
	v := attack(t)
	for _, protocols := range []string{"HTTP/1.1", "HTTP/2"} {
		client := v.client()
		if protocols == "HTTP/1.1" {
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
			client.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		for _, length := range []int64{4 << 20, 1 << 40, -1} {
			var sent atomic.Int64
			body := readerFunc(func(p []byte) (int, error) { sent.Add(int64(len(p))); clear(p); return len(p), nil })
			var all io.Reader = body
			if length >= 0 { // or the client would look for what comes after it
				all = io.LimitReader(body, length)
			}
			r, err := http.NewRequest(http.MethodPost, v.url("/api/v1/namespaces/shop/configmaps"), all)
			v.must(err)
			r.ContentLength = length
			r.Header.Set("Authorization", "Bearer good")
			resp, err := client.Do(r)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusRequestEntityTooLarge {
					t.Errorf("%s: a body of %d bytes: %s", protocols, length, resp.Status)
				}
			}
			if most := int64(16 << 20); sent.Load() > most {
				t.Errorf("%s: a body of %d bytes: %d of them were taken", protocols, length, sent.Load())
			}
		}
	}
	for _, seen := range v.seen() {
		if strings.HasPrefix(seen, "POST /api/v1/namespaces/shop/configmaps") {
			t.Errorf("the API server got %s", seen)
		}
	}
	v.served("after oversized bodies")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestIdleConnections: ten thousand connections that say nothing, and as many as
// there may be that have said something, lock nobody out.
func TestIdleConnections(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := 10_000
	if room := int(min(limit.Cur, 1<<20)) - 3000; room < n {
		n = room // both ends are in this process
		t.Logf("this process may have %d files: %d connections", limit.Cur, n)
	}
	v := attack(t)
	for i := range n {
		conn, err := net.Dial("tcp", v.SecureAddr())
		v.must(err)
		t.Cleanup(func() { conn.Close() })
		if i%2000 == 0 {
			v.served(fmt.Sprintf("beside %d silent connections", i))
		}
	}
	v.served("beside all silent connections")
	goroutines := runtime.NumGoroutine()
	if most := 20 * (maxConnections + maxNewcomers); goroutines > most {
		t.Errorf("%d goroutines for %d connections", goroutines, n)
	}
}

// TestHTTP2Floods: what costs the attacker a few bytes and the server more, over
// one connection without end.
func TestHTTP2Floods(t *testing.T) {
	headers := func(id uint32, end bool, fields ...string) func(*http2.Framer) error {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for i := 0; i < len(fields); i += 2 {
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		return func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: end})
		}
	}
	request := []string{":method", "GET", ":scheme", "https", ":authority", "hub", ":path", "/api/v1/namespaces/shop/configmaps/a", "authorization", "Bearer good"}
	for name, frame := range map[string]func(f *http2.Framer, i uint32) error{
		"rapid reset": func(f *http2.Framer, i uint32) error {
			if err := headers(2*i+1, true, request...)(f); err != nil {
				return err
			}
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		},
		"streams": func(f *http2.Framer, i uint32) error { return headers(2*i+1, true, request...)(f) },
		"CONTINUATION": func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return headers(1, false, request...)(f)
			}
			return f.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'x', 1, 'y'}, 1000))
		},
		"PING": func(f *http2.Framer, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) },
		"SETTINGS": func(f *http2.Framer, _ uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
		},
		"empty HEADERS": func(f *http2.Framer, i uint32) error { return headers(2*i+1, true)(f) },
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			n := uint32(10_000)
			if name == "streams" {
				n = maxStreams + 1000 // refusals slow the client down: that is what they are for
			}
			v := attack(t)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			conn := v.dial("h2")
			_, err := io.WriteString(conn, http2.ClientPreface)
			v.must(err)
			buffered := bufio.NewWriter(conn)
			framer := http2.NewFramer(buffered, nil)
			v.must(framer.WriteSettings())
			sending := make(chan int, 1)
			go func() {
				sent := 0
				for i := range n {
					if frame(framer, i) != nil {
						break
					}
					sent++
				}
				_ = framer.WritePing(false, [8]byte{'e', 'n', 'd'})
				_ = buffered.Flush()
				sending <- sent
			}()
			withstood := make(chan struct{}) // the connection has ended, or the last frame is answered
			go func() {
				defer close(withstood)
				answers := http2.NewFramer(nil, conn)
				for {
					frame, err := answers.ReadFrame()
					if ping, ok := frame.(*http2.PingFrame); err != nil || ok && ping.IsAck() && ping.Data[0] == 'e' {
						return
					}
				}
			}()
			for done := false; !done; {
				v.served("beside the flood")
				select {
				case <-withstood:
					done = true
				default:
				}
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 256<<20 {
				t.Errorf("the flood has made the hub hold %d MiB more", grown>>20)
			}
			if n := runtime.NumGoroutine(); n > 5*maxStreams {
				t.Errorf("%d goroutines", n)
			}
			conn.Close()
			t.Logf("%d frames or pairs of them were sent", <-sending)
			v.served("after the flood")
		})
	}
}

// TestSmuggledRequests: of what two parsers could read differently the API server
// gets what the hub has understood, or nothing.
func TestSmuggledRequests(t *testing.T) {
	v := attack(t)
	const path = "/apis/x/v1/things"
	post := "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	get := "GET " + path + " HTTP/1.1\r\nHost: localhost\r\n"
	const hidden = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
	chunked := "0\r\n\r\n"
	for name, c := range map[string]struct {
		sent string
		want string // what the API server gets; empty: nothing
	}{
		"two lengths":                   {post + "Content-Length: 2\r\nContent-Length: 45\r\n\r\n{}" + hidden, ""},
		"two lengths in one":            {post + "Content-Length: 2, 45\r\n\r\n{}" + hidden, ""},
		"a signed length":               {post + "Content-Length: +2\r\n\r\n{}" + hidden, ""},
		"a negative length":             {post + "Content-Length: -1\r\n\r\n{}" + hidden, ""},
		"two encodings":                 {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked + hidden, ""},
		"an unknown encoding":           {post + "Transfer-Encoding: xchunked\r\n\r\n" + chunked + hidden, ""},
		"a space before the colon":      {post + "Transfer-Encoding : chunked\r\nContent-Length: 2\r\n\r\n{}" + hidden, ""},
		"a space in a name":             {get + "X Y: z\r\n\r\n", ""},
		"a header without a name":       {get + ": z\r\n\r\n", ""},
		"a line feed in a value":        {get + "X: y\rContent-Length: 45\r\n\r\n", ""},
		"two hosts":                     {get + "Host: other\r\n\r\n", ""},
		"an absolute target":            {"GET http://localhost/apis/x/v1/absolute HTTP/1.1\r\nHost: localhost\r\n\r\n", "GET /apis/x/v1/absolute"},
		"CONNECT":                       {"CONNECT 10.0.0.1:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
		"a folded header":               {get + "X: a\r\n Authorization: Bearer stolen\r\nConnection: close\r\n\r\n", "GET " + path},
		"headers of a proxy":            {get + "X-Remote-User: admin\r\nX-Remote-Group: system:masters\r\nConnection: close\r\n\r\n", "GET " + path},
		"Connection names a credential": {get + "Authorization: Bearer good\r\nConnection: close, Authorization\r\n\r\n", "GET " + path + " token good"},
		"a length and an encoding":      {post + "Content-Length: 45\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked + hidden, "POST " + path},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			v.seen()
			conn, err := net.Dial("tcp", v.plain.Addr().String())
			v.must(err)
			defer conn.Close()
			v.must(conn.SetDeadline(time.Now().Add(30 * time.Second)))
			_, err = io.WriteString(conn, c.sent)
			v.must(err)
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil && c.want != "" {
				t.Fatalf("no answer: %v", err)
			}
			if err == nil {
				_, _ = io.Copy(io.Discard, answer.Body)
				answer.Body.Close()
				if c.want == "" && answer.StatusCode < 400 {
					t.Errorf("answered %s", answer.Status)
				}
			}
			var want []string
			if c.want != "" {
				want = []string{c.want}
			}
			if diff := cmp.Diff(want, v.seen()); diff != "" {
				t.Errorf("what the API server got (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPathTricks: a path that can be read in two ways is passed on as it is,
// under the client's own token, and never answered from here.
func TestPathTricks(t *testing.T) {
	v := attack(t)
	const known = "/api/v1/namespaces/shop/configmaps/a"
	expect(t, "the object", get(v.client(), v.url(known), "good"), `"x":"y"`)
	paths := []string{
		"/api/v1/namespaces/other/../shop/configmaps/a", "/api/v1/namespaces/other/%2e%2e/shop/configmaps/a", "/api/v1/namespaces/other/..%2fshop/configmaps/a",
		"/api/v1/namespaces/shop/configmaps%2fa", "/api/v1/namespaces%2fshop/configmaps/a", "/api/v1/namespaces/shop/configmaps/%2e/a",
		"/api/v1/namespaces/shop//configmaps/a", "//api/v1/namespaces/shop/configmaps/a", "/api/v1/./namespaces/shop/configmaps/a",
		"/api/v1/namespaces/shop/configmaps/a/..%2f..%2f..%2fother", "/api/v1/namespaces/shop/configmaps/a%00", "/api/v1/namespaces/shop/configmaps/a%5c..",
		"/api/v1/namespaces/shop/configmaps/%61%2f", "/API/v1/namespaces/shop/configmaps/a", "/api/v1/watch/namespaces/shop/configmaps/a", "/api/v1/proxy/namespaces/shop/configmaps/a",
	}
	ask := func(path string) string {
		conn := v.dial("http/1.1")
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer good\r\nConnection: close\r\n\r\n", path)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err.Error()
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return answer.Status + " " + string(body)
	}
	v.seen()
	for _, path := range paths {
		answer := ask(path)
		got := v.seen()
		if refused := strings.HasPrefix(answer, "400 "); refused && len(got) == 0 {
			continue // it is no path at all
		}
		if diff := cmp.Diff([]string{"GET " + path + " token good"}, got); diff != "" {
			t.Errorf("%s: %s; what the API server got (-want +got):\n%s", path, answer, diff)
		}
	}
	v.api.CloseClientConnections()
	v.api.Close()
	expect(t, "the object in the dark", ask(known), `"x":"y"`)
	for _, path := range paths {
		if answer := ask(path); strings.HasPrefix(answer, "2") || strings.Contains(answer, `"x":"y"`) || strings.HasPrefix(answer, "404") {
			t.Errorf("%s: answered in the dark: %s", path, answer)
		}
	}
}

// TestSquatter: who takes the hub's port while the hub restarts learns nothing:
// a client that trusts the hub's authority sends it neither a request nor a
// certificate.
func TestSquatter(t *testing.T) {
	v := attack(t)
	impostor := newAuthority(t)
	var asked atomic.Bool
	l, err := net.Listen("tcp", "127.0.0.1:0")
	v.must(err)
	server := &http.Server{
		Handler:   http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Store(true) }),
		ErrorLog:  slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		TLSConfig: &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{impostor.issue(t, "127.0.0.1"), v.ca.issue(t, "127.0.0.1")}},
		ConnState: func(c net.Conn, _ http.ConnState) {
			if secured, ok := c.(*tls.Conn); ok && len(secured.ConnectionState().PeerCertificates) > 0 {
				asked.Store(true)
			}
		},
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
	defer func() { server.Close(); <-done }()
	for _, token := range []string{"", "good"} {
		expect(t, "at a squatter's", get(v.client(v.ca.issue(t, "system:node:edge")), "https://"+l.Addr().String()+"/version", token), "certificate")
	}
	if asked.Load() {
		t.Error("the squatter got a request or a certificate")
	}
}

// TestTokenInWebSocketProtocol: the API server takes a token there for a
// credential. It must not travel beside another one.
func TestTokenInWebSocketProtocol(t *testing.T) {
	v := attack(t)
	v.seen()
	for name, client := range map[string]*http.Client{"the node": v.kubelet, "nobody": v.client()} {
		for _, header := range []string{"base64url.bearer.authorization.k8s.io.Z29vZA", "v5.channel.k8s.io, BASE64URL.bearer.authorization.k8s.io.Z29vZA"} {
			for _, token := range []string{"", "good"} {
				r, err := http.NewRequest(http.MethodGet, v.url("/api/v1/namespaces/shop/pods/p/exec?command=id"), http.NoBody)
				v.must(err)
				r.Header.Set("Sec-WebSocket-Protocol", header)
				if token != "" {
					r.Header.Set("Authorization", "Bearer "+token)
				}
				resp, err := client.Do(r)
				v.must(err)
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: %s", name, resp.Status)
				}
			}
		}
	}
	conn, err := net.Dial("tcp", v.plain.Addr().String())
	v.must(err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/namespaces/shop/pods/p/exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Z29vZA\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	v.must(err)
	answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("the plain port: %s", answer.Status)
	}
	if seen := v.seen(); len(seen) > 0 {
		t.Errorf("the API server got %q", seen)
	}
}

// TestWebPagesAreRefused: a page in a browser on the node does not get the reach
// that programs there have, neither by its own origin nor by a name of its own
// that leads to loopback.
func TestWebPagesAreRefused(t *testing.T) {
	v := attack(t)
	for _, c := range []struct {
		host, origin string
		want         int
	}{
		{"", "", 200},
		{"localhost:10261", "", 200},
		{"[::1]:10261", "", 200},
		{"", "https://evil.example", 403},
		{"", "null", 403},
		{"", "http://localhost:8080", 403},
		{"evil.example:10261", "", 403},
		{"127.0.0.1.evil.example", "", 403},
		{"10.0.0.1:10261", "", 403},
		{"localhost.evil.example", "", 403},
	} {
		for _, url := range []string{"http://" + v.plain.Addr().String() + "/api/v1/namespaces/shop/configmaps/a", "http://" + v.AdminAddr() + "/status"} {
			r, err := http.NewRequest(http.MethodGet, url, http.NoBody)
			v.must(err)
			r.Host = c.host
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			resp, err := client.Do(r)
			v.must(err)
			resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("%s with Host %q and Origin %q: %s, want %d", url, c.host, c.origin, resp.Status, c.want)
			}
		}
	}
}

// TestPlainPort: it is off unless asked for, says so in the log, and listens on
// loopback only.
func TestPlainPort(t *testing.T) {
	s := newSite(t)
	var log lockedBuffer
	cfg := s.config()
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	run := func(cfg Config) *Hub {
		h, err := New(cfg)
		s.must(err)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		expect(t, "the admin port", get(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+h.AdminAddr()+"/livez", ""), "200 ")
		cancel()
		s.must(<-done)
		s.must(h.Close())
		return h
	}
	cfg.Insecure = false
	if h := run(cfg); h.plain != nil {
		t.Error("the plain port is open though nobody asked for it")
	}
	if strings.Contains(log.String(), "plain") {
		t.Errorf("the log speaks of a plain port that is not there: %s", log.String())
	}
	cfg.Insecure = true
	h := run(cfg)
	expect(t, "the log", log.String(), "the plain port is open: whoever reaches it acts as the node")
	if address := h.plain.Addr().(*net.TCPAddr); !address.IP.IsLoopback() {
		t.Errorf("the plain port is at %s", address)
	}
	for _, address := range []string{"0.0.0.0", "::", "10.0.0.1", "", "localhost"} {
		cfg.BindAddress = address
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "--bind-address") {
			t.Errorf("the plain port at %q: %v", address, err)
		}
	}
}

// TestFarClients: programs of one other address have a few connections, however
// many they open; those of others are not closed for them.
func TestFarClients(t *testing.T) {
	far, near := net.ParseIP("10.0.0.5"), net.ParseIP("10.0.0.6")
	inner := &pipes{conns: make(chan net.Conn)}
	cs := newConnections(inner, func(tls.ConnectionState) bool { return false })
	accept := func(ip net.IP) *connection {
		client, server := net.Pipe()
		t.Cleanup(func() { client.Close(); server.Close() })
		go func() { inner.conns <- addressed{server, ip} }()
		conn, err := cs.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn.(*connection)
	}
	neighbour := accept(near)
	cs.changed(neighbour, http.StateIdle)
	var busy []*connection
	for range maxConnectionsAddress {
		c := accept(far)
		cs.changed(c, http.StateActive)
		busy = append(busy, c)
	}
	surplus := accept(far)
	cs.changed(surplus, http.StateActive)
	if !isClosed(surplus) {
		t.Error("a connection too many of one address is served")
	}
	cs.changed(busy[7], http.StateIdle)
	if next := accept(far); isClosed(next) || !isClosed(busy[7]) {
		t.Error("an idle connection does not give way to a new one of the same address")
	}
	if isClosed(neighbour) || isClosed(busy[0]) {
		t.Error("the connection of another address, or one with a request, is closed")
	}
}

func isClosed(c *connection) bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// addressed is a connection from an address.
type addressed struct {
	net.Conn
	ip net.IP
}

func (a addressed) RemoteAddr() net.Addr { return &net.TCPAddr{IP: a.ip, Port: 1} }

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}
