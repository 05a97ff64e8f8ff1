package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func request(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestHandler(t *testing.T) {
	file := filepath.Join(t.TempDir(), "greeting")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GREETING", "good day")
	t.Setenv("WORKLOAD_VERSION", "7")
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	exited := 0
	srv := httptest.NewServer(handler(func(code int) { exited = code }))
	defer srv.Close()
	for _, step := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/", 200, hostname + " 7\n"},
		{"GET", "/env/GREETING", 200, "good day"},
		{"GET", "/env/NOBODY", 404, "no such variable\n"},
		{"GET", "/file" + file, 200, "hello"},
		{"GET", "/file/nowhere", 404, "open /nowhere: no such file or directory\n"},
		{"GET", "/readyz", 200, ""},
		{"POST", "/readyz?ready=false", 200, ""},
		{"GET", "/readyz", 503, "told to be unready\n"},
		{"POST", "/readyz?ready=true", 200, ""},
		{"GET", "/readyz", 200, ""},
		{"POST", "/exit", 200, ""},
	} {
		if code, body := request(t, step.method, srv.URL+step.path); code != step.code || body != step.body {
			t.Errorf("%s %s: %d %q, want %d %q", step.method, step.path, code, body, step.code, step.body)
		}
	}
	if exited != 1 {
		t.Error("it did not exit when told to")
	}
}

func TestTools(t *testing.T) {
	srv := httptest.NewServer(handler(func(int) {}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GREETING", "good day")
	for _, tc := range []struct {
		args []string
		want string // in the output, or in the error
		fail bool
	}{
		{args: []string{"get", srv.URL + "/env/GREETING"}, want: "good day"},
		{args: []string{"get", srv.URL + "/nothing"}, want: "404 Not Found", fail: true},
		{args: []string{"cat", file}, want: "content"},
		{args: []string{"cat", file + "x"}, want: "no such file", fail: true},
		{args: []string{"env"}, want: "GREETING=good day\n"},
		{args: []string{"probe", srv.URL, "soon"}, want: "invalid duration", fail: true},
		{args: nil, want: "usage:", fail: true},
	} {
		var out bytes.Buffer
		err := run(t.Context(), tc.args, &out)
		got := out.String()
		if err != nil {
			got = err.Error()
		}
		if (err != nil) != tc.fail || !strings.Contains(got, tc.want) {
			t.Errorf("%v: %q, error %v", tc.args, out.String(), err)
		}
	}
}

// safe is a buffer that may be read while it is written to.
type safe struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *safe) Write(data []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(data)
}

func (s *safe) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// probed probes until there are n lines, and returns them.
func probed(t *testing.T, url string, n int) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out safe
	done := make(chan error, 1)
	go func() { done <- probe(ctx, url, "5ms", "", &out) }()
	for deadline := time.Now().Add(30 * time.Second); strings.Count(out.String(), "\n") < n; {
		if time.Now().After(deadline) {
			t.Fatalf("too few attempts: %q", out.String())
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestProbe(t *testing.T) {
	srv := httptest.NewServer(handler(func(int) {}))
	defer srv.Close()
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GREETING", "good day")
	for _, tc := range []struct{ url, want string }{
		{srv.URL + "/env/GREETING", ` ok 127\.0\.0\.1 "good day"$`},
		{srv.URL + "/nothing", ` failed 127\.0\.0\.1 "404 Not Found"$`},
		{"http://nobody.invalid:" + port + "/", ` unresolved - ".*nobody\.invalid.*"$`},
		{"http://127.0.0.1:1/", ` failed 127\.0\.0\.1 ".*refused"$`},
	} {
		want := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z` + tc.want)
		for _, line := range probed(t, tc.url, 3) {
			if !want.MatchString(line) {
				t.Errorf("%s: %q, want %s", tc.url, line, want)
			}
		}
	}
}

// A server that does not answer holds up neither the next attempt nor, once it is told to end, the probe.
func TestProbeDoesNotWait(t *testing.T) {
	asked := make(chan struct{}, 1000)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- probe(ctx, srv.URL, "1ms", "", io.Discard) }()
	for range 3 {
		<-asked
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProbeAppends(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(file, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"probe", "http://127.0.0.1:1/", "5ms", file}, io.Discard) }()
	var got []byte
	for deadline := time.Now().Add(30 * time.Second); bytes.Count(got, []byte("\n")) < 3; time.Sleep(time.Millisecond) {
		var err error
		if got, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file has %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !bytes.HasPrefix(got, []byte("before\n")) {
		t.Errorf("the file has %q", got)
	}
}

func TestStaysDownWhenTold(t *testing.T) {
	down := filepath.Join(t.TempDir(), "down")
	if err := os.WriteFile(down, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), []string{"serve", "127.0.0.1:0", down}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "told to stay down") {
		t.Errorf("it served, and ended with %v", err)
	}
}

func TestServeEndsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, "127.0.0.1:0", "") }()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
}
