package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func fetch(t *testing.T, method, url string) (int, string) {
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
		if code, body := fetch(t, step.method, srv.URL+step.path); code != step.code || body != step.body {
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

func TestProbe(t *testing.T) {
	unready := handler(func(int) {})
	srv := httptest.NewServer(unready)
	defer srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var out bytes.Buffer
	if err := probe(ctx, srv.URL+"/env/"+url.PathEscape("PATH"), "20ms", &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 3 {
		t.Fatalf("too few attempts: %q", out.String())
	}
	for _, line := range lines {
		if !strings.Contains(line, " ok ") {
			t.Errorf("an attempt that should succeed: %q", line)
		}
	}
}

func TestServeEndsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, "127.0.0.1:0") }()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it goes on")
	}
}
