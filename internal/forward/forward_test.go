package forward

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"yurt/internal/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is an API server, and a hub before it that passes everything on.
type site struct {
	hub      *httptest.Server
	api      *httptest.Server
	suspects atomic.Int32
	err      error // instead of an answer
	exchange Exchange
	mu       sync.Mutex
	fallback []error
}

func newSite(t *testing.T, api http.HandlerFunc) *site {
	t.Helper()
	s := &site{api: httptest.NewServer(api)}
	proxy := &Proxy{Upstream: s, Logger: slog.New(slog.DiscardHandler)}
	s.hub = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := s.exchange
		x.Fallback = func(w http.ResponseWriter, _ *http.Request, err error) {
			s.mu.Lock()
			s.fallback = append(s.fallback, err)
			s.mu.Unlock()
			w.WriteHeader(http.StatusTeapot) // whatever the answer was going to be
			fmt.Fprint(w, "fallback")
		}
		proxy.Serve(w, r, x)
	}))
	t.Cleanup(func() {
		s.hub.CloseClientConnections()
		s.hub.Close()
		s.api.CloseClientConnections()
		s.api.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return s
}

// RoundTrip sends a request to the API server.
func (s *site) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	if s.err != nil {
		return nil, s.err
	}
	u, err := url.Parse(s.api.URL)
	if err != nil {
		return nil, err
	}
	out := r.Clone(r.Context())
	out.URL.Scheme, out.URL.Host = u.Scheme, u.Host
	if cred.Token != "" {
		out.Header.Set("Authorization", "Bearer "+cred.Token)
	}
	return http.DefaultTransport.RoundTrip(out)
}

func (s *site) Suspect() { s.suspects.Add(1) }

// get returns code and body of an answer; the error is that of reading it.
func (s *site) get(t *testing.T, path string, header ...string) (int, string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.hub.URL+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

const (
	object = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"}}`
	status = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":503}`
)

// TestJudge: what an API server can't have said leads to Fallback, with nothing
// written before.
func TestJudge(t *testing.T) {
	for _, tc := range []struct {
		name    string
		code    int
		mime    string
		body    string
		audit   bool
		foreign bool // not the API server's own words
		passes  bool
	}{
		{name: "an object", code: 200, mime: "application/json", body: object, passes: true},
		{name: "YAML", code: 200, mime: "application/yaml", body: "kind: ConfigMap", passes: true},
		{name: "OpenAPI", code: 200, mime: "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", body: "x", passes: true},
		{name: "not modified", code: 304, passes: true},
		{name: "a page", code: 200, mime: "text/html", body: "<html>"},
		{name: "plain text", code: 200, mime: "text/plain", body: "hello"},
		{name: "no type", code: 200, mime: "", body: "hello"},
		{name: "nothing", code: 200, mime: "application/json"},
		{name: "a redirect", code: 302, mime: "text/html", body: "x"},
		{name: "a page of an error", code: 404, mime: "text/html", body: "x"},
		{name: "404 in plain text", code: 404, mime: "text/plain", body: "404 page not found"},
		{name: "the API server's 404 in plain text", code: 404, mime: "text/plain", body: "404 page not found", audit: true, passes: true},
		{name: "the API server's 429", code: 429, mime: "text/plain", body: "Too many requests", audit: true, passes: true},
		{name: "a Status", code: 404, mime: "application/json", body: status, passes: true},
		{name: "a bad gateway", code: 502, mime: "text/html", body: "x"},
		{name: "an error in JSON that is no Status", code: 503, mime: "application/json", body: `{"error":"no backend"}`},
		{name: "an object with 503", code: 503, mime: "application/json", body: object},
		{name: "503 with a Status", code: 503, mime: "application/json", body: status, passes: true},
		{name: "an aggregated API is away", code: 503, mime: "text/plain", body: "service unavailable", audit: true, passes: true},
		{name: "a pod's own page", code: 502, mime: "text/html", body: "x", foreign: true, passes: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Type"] = []string{tc.mime}
				if tc.audit {
					w.Header().Set("Audit-Id", "1")
				}
				w.WriteHeader(tc.code)
				if tc.body != "" {
					_, _ = io.WriteString(w, tc.body)
				}
			})
			var inspected *Answer
			s.exchange = Exchange{API: !tc.foreign, Inspect: func(a Answer) error { inspected = &a; return nil }}
			noRedirect := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			resp, err := noRedirect.Get(s.hub.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.passes {
				if resp.StatusCode != http.StatusTeapot || len(s.fallback) != 1 || !errors.Is(s.fallback[0], ErrNotKubernetes) || inspected != nil {
					t.Errorf("got %d, fallback %v, inspected %v", resp.StatusCode, s.fallback, inspected)
				}
				return
			}
			want := &Answer{Code: tc.code, ContentType: tc.mime, Body: []byte(tc.body)}
			if diff := cmp.Diff(want, inspected); diff != "" || resp.StatusCode != tc.code || string(body) != tc.body {
				t.Errorf("got %d %q; inspected (-want +got):\n%s", resp.StatusCode, body, diff)
			}
		})
	}
}

// TestInspect: it sees whole answers only, before the client sees a byte; its
// error leads to Fallback.
func TestInspect(t *testing.T) {
	size := 0
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/short" {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(bytes.Repeat([]byte("x"), size))
	})
	var seen []int
	var refuse error
	s.exchange = Exchange{API: true, Inspect: func(a Answer) error { seen = append(seen, len(a.Body)); return refuse }}
	for _, size = range []int{1, MaxInspect, MaxInspect + 1, 3 * MaxInspect} {
		if code, body, err := s.get(t, "/"); code != 200 || len(body) != size || err != nil {
			t.Errorf("%d bytes: got %d, %d bytes, %v", size, code, len(body), err)
		}
	}
	if diff := cmp.Diff([]int{1, MaxInspect}, seen); diff != "" {
		t.Errorf("inspected (-want +got):\n%s", diff)
	}
	if code, body, _ := s.get(t, "/short"); code != http.StatusTeapot || body != "fallback" || len(seen) != 2 {
		t.Errorf("an answer that breaks off: got %d %q, inspected %d", code, body, len(seen))
	}
	size, refuse = 1, errors.New("refused")
	if code, _, _ := s.get(t, "/"); code != http.StatusTeapot || !errors.Is(s.fallback[len(s.fallback)-1], refuse) {
		t.Errorf("refused by Inspect: got %d, %v", code, s.fallback)
	}
}

// TestTruncated: an answer that breaks off in the middle breaks the client's
// connection: a part must not pass for the whole.
func TestTruncated(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "1000000")
		}
		_, _ = w.Write(make([]byte, 5000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s.exchange = Exchange{API: true}
	for _, path := range []string{"/length", "/chunked"} {
		if code, body, err := s.get(t, path); err == nil {
			t.Errorf("%s: %d and %d bytes look complete", path, code, len(body))
		}
	}
}

// TestStreaming: each piece goes out as it comes; and the client's end of the
// connection is the API server's end too.
func TestStreaming(t *testing.T) {
	next, gone := make(chan string), make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", "application/json")
		for {
			_ = http.NewResponseController(w).Flush()
			select {
			case piece := <-next:
				_, _ = io.WriteString(w, piece)
			case <-r.Context().Done():
				return
			}
		}
	})
	s.exchange = Exchange{API: true}
	resp, err := http.Get(s.hub.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, piece := range []string{"first", "second"} {
		next <- piece
		buf := make([]byte, len(piece))
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != piece {
			t.Fatalf("read %q, %v", buf, err)
		}
	}
	resp.Body.Close()
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the API server still serves a client that has gone")
	}
}

// TestUpgrade passes other protocols through, both ways, whatever they are
// called, and ends them when either side does.
func TestUpgrade(t *testing.T) {
	for _, protocol := range []string{"websocket", "SPDY/3.1"} {
		t.Run(protocol, func(t *testing.T) {
			s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
				_ = rw.Flush()
				line, err := rw.ReadString('\n')
				if err != nil {
					t.Error(err)
				}
				fmt.Fprintf(rw, "echo %s", line)
				_ = rw.Flush()
			})
			conn, err := net.Dial("tcp", s.hub.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST /exec HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != protocol {
				t.Fatalf("got %+v, %v", resp, err)
			}
			defer resp.Body.Close()
			fmt.Fprintf(conn, "hello\n")
			rest, err := io.ReadAll(r)
			if err != nil || string(rest) != "echo hello\n" {
				t.Errorf("read %q, %v", rest, err)
			}
		})
	}
}

// TestLargeBodies sends a body of 20 MB there and back.
func TestLargeBodies(t *testing.T) {
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	s.exchange = Exchange{API: true}
	body := make([]byte, 20<<20)
	_, _ = rand.Read(body) // never fails
	resp, err := http.Post(s.hub.URL, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	back, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(back, body) {
		t.Errorf("%d bytes came back, %v", len(back), err)
	}
}

// TestDeadline: after it Alternative is asked; if there is none, the request
// waits on. An answer that has begun is not cut off.
func TestDeadline(t *testing.T) {
	const soon, begun = 500 * time.Millisecond, 3 * time.Second // a busy machine takes its time to begin a long answer
	release := make(chan struct{})
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/slow-body" {
			_, _ = w.Write(make([]byte, MaxInspect+1)) // too long for Inspect: it has begun
			_ = http.NewResponseController(w).Flush()
			time.Sleep(begun + 500*time.Millisecond)
			_, _ = io.WriteString(w, "end")
			return
		}
		select {
		case <-release:
			_, _ = io.WriteString(w, object)
		case <-r.Context().Done():
		}
	})
	var something atomic.Bool
	something.Store(true)
	asked := make(chan struct{}, 10)
	s.exchange = Exchange{
		API: true, Deadline: soon, Inspect: func(Answer) error { return nil },
		Alternative: func() bool { asked <- struct{}{}; return something.Load() },
	}
	if code, _, err := s.get(t, "/hang"); code != http.StatusTeapot || !errors.Is(s.fallback[0], ErrSlow) {
		t.Errorf("got %d %v, fallback %v", code, err, s.fallback)
	}
	if n := s.suspects.Load(); n != 1 {
		t.Errorf("the upstream was told of %d late answers, want 1", n)
	}
	s.exchange.Deadline = begun
	if code, body, err := s.get(t, "/slow-body"); code != 200 || !strings.HasSuffix(body, "end") || err != nil {
		t.Errorf("an answer that had begun: got %d, %d bytes, %v", code, len(body), err)
	}
	s.exchange.Deadline = soon
	<-asked
	something.Store(false)
	go func() { <-asked; close(release) }()
	if code, body, err := s.get(t, "/hang"); code != 200 || body != object || err != nil {
		t.Errorf("without an alternative: got %d %q, %v", code, body, err)
	}
}

// TestFallback: the upstream's error reaches it, and nothing has been written.
func TestFallback(t *testing.T) {
	s := newSite(t, nil)
	s.err = errors.New("no way")
	if code, body, _ := s.get(t, "/"); code != http.StatusTeapot || body != "fallback" || !errors.Is(s.fallback[0], s.err) {
		t.Errorf("got %d %q, %v", code, body, s.fallback)
	}
}

// TestClientGone: nobody is answered, and nothing is done in his name; an
// interrupted exchange never ends as an empty 200.
func TestClientGone(t *testing.T) {
	arrived := make(chan struct{})
	s := newSite(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the connection end
		close(arrived)
		<-r.Context().Done()
	})
	called := make(chan struct{}, 1)
	proxy := &Proxy{Upstream: s, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", strings.NewReader("x"))
	w := httptest.NewRecorder()
	panicked := make(chan any)
	go func() {
		defer func() { panicked <- recover() }()
		proxy.Serve(w, r, Exchange{Fallback: func(http.ResponseWriter, *http.Request, error) { called <- struct{}{} }})
	}()
	<-arrived
	cancel()
	if p := <-panicked; p != http.ErrAbortHandler { //nolint:errorlint // a panic's value is no wrapped error
		t.Errorf("the handler returned with %v: net/http would send an empty 200", p)
	}
	if len(called) > 0 || w.Body.Len() > 0 {
		t.Error("somebody who has gone was answered")
	}
}

// TestHeaders: what leaves is what the client sent, but for what the hub must
// not vouch for.
func TestHeaders(t *testing.T) {
	var got http.Header
	var query string
	s := newSite(t, func(w http.ResponseWriter, r *http.Request) {
		got, query = r.Header.Clone(), r.URL.RawQuery
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, object)
	})
	sent := []string{
		"Authorization", "Bearer mine", "Impersonate-User", "admin", "impersonate-extra-scopes", "all",
		"X-Remote-User", "admin", "x-remote-extra-scopes", "all", "X-Forwarded-For", "1.2.3.4", "User-Agent", "kubelet", "X-Custom", "kept",
		"Accept-Encoding", "identity",
	}
	for _, tc := range []struct {
		name string
		x    Exchange
		want http.Header
	}{
		{"as the node", Exchange{}, http.Header{"User-Agent": {"kubelet"}, "X-Custom": {"kept"}, "Accept-Encoding": {"identity"}}},
		{"with a token", Exchange{Credential: credential.Credential{Identity: credential.Identity{Name: "alice"}, Token: "hers"}}, http.Header{
			"Authorization": {"Bearer hers"}, "Impersonate-User": {"admin"}, "Impersonate-Extra-Scopes": {"all"},
			"User-Agent": {"kubelet"}, "X-Custom": {"kept"}, "Accept-Encoding": {"identity"},
		}},
		{"inspected", Exchange{Inspect: func(Answer) error { return nil }}, http.Header{"User-Agent": {"kubelet"}, "X-Custom": {"kept"}, "Accept-Encoding": {"gzip"}}},
	} {
		s.exchange = tc.x
		if _, _, err := s.get(t, "/x?a=1;b=2&c=%zz", sent...); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if query != "a=1;b=2&c=%zz" {
			t.Errorf("%s: query became %q", tc.name, query)
		}
	}
}
