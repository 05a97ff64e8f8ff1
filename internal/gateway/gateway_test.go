package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"yurt/internal/fairness"
	"yurt/internal/forward"
	"yurt/internal/identity"
	"yurt/internal/offline"
	"yurt/internal/overlay"
	"yurt/internal/replica"
	"yurt/internal/store"
	"yurt/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestGateway tells the HTTP surface as scripts: a cloud, a hub, and requests to
// it. After each line the world has come to rest; time is the test's own, so
// that "after 2s" is exact.
func TestGateway(t *testing.T) {
	datadriven.Walk(t, "testdata/surface", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			defer w.stop()
			datadriven.RunTest(t, path, w.command)
		})
	})
}

// world is a cloud and a hub.
type world struct {
	t       testing.TB
	dir     string
	cloud   *cloud
	gateway *Gateway
	store   *store.Store
	cancel  context.CancelFunc
	running sync.WaitGroup
	streams map[string]*client
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), cloud: newCloud(), streams: map[string]*client{}}
	w.start()
	return w
}

func (w *world) start() {
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(w.dir, store.Options{Logger: log})
	w.must(err)
	w.store = st
	set, err := replica.Open(st, w.cloud, log)
	w.must(err)
	books := map[string]*offline.Book{}
	for _, name := range []string{"reads", "asked", "identities", "identity", "grants"} {
		books[name], err = offline.OpenBook(st, name)
		w.must(err)
	}
	journal, err := offline.OpenJournal(st, w.cloud, log)
	w.must(err)
	laidOver, err := overlay.Open(st, overlay.Options{Logger: log})
	w.must(err)
	set.ShowThrough(laidOver, "edge")
	memory := &Memory{Answers: books["reads"], Replicas: set, Link: w.cloud, Overlay: laidOver}
	reviewer := identity.NewReviewer(w.cloud, w.cloud, identity.OpenClock(books["identity"]), log)
	authenticator := &identity.Authenticator{
		Node: "edge", Reviewer: reviewer, Certificates: w.cloud, Tokens: books["identities"], Own: books["identity"], HasPod: memory.HasPod,
	}
	grants := identity.NewGrants(reviewer, authenticator, books["grants"], log)
	set.OnUnauthorized(grants.Doubt)
	w.gateway = &Gateway{
		Link: w.cloud, Replicas: set, Memory: memory, Logger: log, Authenticator: authenticator, Grants: grants,
		Proxy:   &forward.Proxy{Upstream: w.cloud, Logger: log},
		Desk:    &offline.Desk{Node: "edge", Objects: memory, Answers: books["asked"], Journal: journal, Overlay: laidOver},
		Gate:    fairness.NewGate(fairness.DefaultLimits(250)),
		Metrics: NewMetrics(prometheus.NewRegistry()),
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	storeCtx, stopStore := context.WithCancel(context.Background())
	stored := make(chan struct{})
	go func() { defer close(stored); _ = st.Run(storeCtx) }()
	var others sync.WaitGroup
	others.Go(func() { _ = set.Run(ctx) })
	others.Go(func() { _ = journal.Run(ctx) })
	others.Go(func() { _ = grants.Run(ctx) })
	w.running.Go(func() { others.Wait(); stopStore(); <-stored })
}

func (w *world) stop() {
	for name := range w.streams {
		w.hangUp(name)
	}
	w.cancel()
	w.running.Wait()
	w.must(w.store.Close())
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) restart() {
	w.stop()
	w.start()
}

func (w *world) change(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, "sleep "); ok {
			d, err := time.ParseDuration(name)
			w.must(err)
			time.Sleep(d)
			continue
		}
		w.must(w.cloud.command(line))
		rest()
	}
}

// rest lets the world come to rest; commits take a few milliseconds.
func rest() {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

// client is one request's end of the connection.
type client struct {
	mu     sync.Mutex
	code   int
	header http.Header
	out    bytes.Buffer
	broken bool // by the server
	took   time.Duration
	cancel context.CancelFunc
	done   chan struct{}
}

func (c *client) Header() http.Header              { return c.header }
func (c *client) Flush()                           {}
func (c *client) SetWriteDeadline(time.Time) error { return nil }
func (c *client) WriteHeader(code int) {
	if c.code == 0 {
		c.code = code
	}
}

func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.WriteHeader(http.StatusOK)
	return c.out.Write(b)
}

// begin sends a request: "METHOD TARGET [KEY=VALUE...]", where the keys are
// as (a token), accept and content ("protobuf" or a media type), cert (the
// common name of a client certificate over TLS), tls, body, and headers.
func (w *world) begin(line string) *client {
	w.t.Helper()
	line, body, _ := strings.Cut(line, " body=")
	f := strings.Fields(line)
	r := httptest.NewRequest(f[0], f[1], strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	for _, option := range f[2:] {
		key, value, _ := strings.Cut(option, "=")
		if value == "protobuf" {
			value = "application/vnd.kubernetes.protobuf"
		}
		w.option(r, key, value)
	}
	if r.Header.Get("Content-Type") == "application/vnd.kubernetes.protobuf" {
		w.encode(r, body)
	}
	if body != "" && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), http.ServerContextKey, &http.Server{}))
	c := &client{header: http.Header{}, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		began := time.Now()
		defer func() {
			c.took = time.Since(began)
			if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // a panic's value is no wrapped error
				panic(p)
			} else if p != nil {
				c.broken = true
			}
		}()
		port := identity.Plain
		if r.TLS != nil {
			port = identity.Host
		}
		w.gateway.At(port).ServeHTTP(c, r.WithContext(ctx))
		c.WriteHeader(http.StatusOK) // as net/http does
	}()
	return c
}

func (w *world) option(r *http.Request, key, value string) {
	switch key {
	case "as":
		r.Header.Set("Authorization", "Bearer "+value)
	case "accept":
		r.Header.Set("Accept", value)
	case "content":
		r.Header.Set("Content-Type", value)
	case "tls":
		r.TLS = &tls.ConnectionState{}
	case "cert":
		certificate := &x509.Certificate{Subject: pkix.Name{CommonName: value, Organization: []string{"system:nodes"}}, NotAfter: time.Now().Add(time.Hour)}
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
	default:
		r.Header.Set(key, value)
	}
}

// encode makes a protobuf body of "KIND NAME".
func (w *world) encode(r *http.Request, body string) {
	kind, name, _ := strings.Cut(body, " ")
	o := corev1.Event{}
	o.Name, o.Namespace = name, "shop"
	raw, err := o.Marshal()
	w.must(err)
	encoded := wire.AppendObject(nil, wire.Protobuf, wire.TypeMeta{APIVersion: "v1", Kind: kind}, raw)
	replaced := httptest.NewRequest(r.Method, "/", bytes.NewReader(encoded))
	r.Body, r.ContentLength = replaced.Body, replaced.ContentLength
}

// do sends a request and waits for its end.
func (w *world) do(line string) *client {
	w.t.Helper()
	c := w.begin(line)
	<-c.done
	c.cancel()
	rest()
	return c
}

func (w *world) hangUp(name string) {
	c := w.streams[name]
	delete(w.streams, name)
	c.cancel()
	<-c.done
}

func (w *world) command(t *testing.T, d *datadriven.TestData) string {
	w.t = t
	var out strings.Builder
	switch d.Cmd {
	case "cloud":
		w.change(strings.Split(d.Input, "\n")...)
	case "restart":
		w.restart()
	case "request":
		for line := range strings.SplitSeq(d.Input, "\n") {
			fmt.Fprintln(&out, w.do(line))
		}
	case "watch": // watch NAME
		name := d.CmdArgs[0].Key
		w.streams[name] = w.begin(d.Input)
	case "stop":
		if name := d.CmdArgs[0].Key; w.streams[name] != nil {
			w.hangUp(name)
		}
	case "events":
	case "seen": // by the cloud, since the last look; its own housekeeping aside
		for _, line := range w.cloud.takeSeen() {
			if !strings.Contains(line, "watch=1") && !strings.Contains(line, "subjectaccessreviews") && !strings.Contains(line, "resourceVersionMatch=NotOlderThan") {
				fmt.Fprintln(&out, line)
			}
		}
	case "reviews": // of access, since the last look
		for _, line := range w.cloud.takeReviews() {
			fmt.Fprintln(&out, line)
		}
	case "journal":
		s := w.gateway.Desk.Journal.Stats()
		fmt.Fprintf(&out, "pending=%d replayed=%d dropped=%d\n", s.Pending, s.Replayed, s.Dropped)
	default:
		t.Fatalf("%s: no command %s", d.Pos, d.Cmd)
	}
	rest()
	for _, name := range slices.Sorted(keys(w.streams)) {
		c := w.streams[name]
		for line := range strings.Lines(c.takeEvents()) {
			fmt.Fprintf(&out, "%s: %s", name, line)
		}
		select {
		case <-c.done:
			fmt.Fprintf(&out, "%s: ends: %s\n", name, c)
			delete(w.streams, name)
			c.cancel()
		default:
		}
	}
	return out.String()
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// String is the answer as a script shows it.
func (c *client) String() string {
	var b strings.Builder
	if c.broken {
		b.WriteString("connection broken")
		if c.code != 0 {
			fmt.Fprintf(&b, " after %d", c.code)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "%d %s", c.code, c.body())
	if age, err := strconv.Atoi(c.header.Get("Age")); err == nil {
		fmt.Fprintf(&b, " Age=%d", age/10*10) // feeds come back with jitter
	}
	if v := c.header.Get("Retry-After"); v != "" {
		fmt.Fprintf(&b, " Retry-After=%s", v)
	}
	if c.header.Get("Warning") != "" {
		b.WriteString(" Warning")
	}
	if c.took >= 100*time.Millisecond {
		fmt.Fprintf(&b, " after %s", c.took.Round(time.Second))
	}
	return b.String()
}

// body reads what came back, whatever it is.
func (c *client) body() string {
	contentType := c.header.Get("Content-Type")
	enc, ok := wire.ParseContentType(contentType)
	if !ok || c.out.Len() == 0 {
		return fmt.Sprintf("%s %q", contentType, c.out.String())
	}
	suffix := ""
	if enc == wire.Protobuf {
		suffix = " (protobuf)"
	}
	if list, items, err := readList(enc, c.out.Bytes()); err == nil {
		if list.Continue != "" {
			suffix += " continue=" + list.Continue
		}
		return fmt.Sprintf("%s @%s%s%s", list.List.Kind, list.ResourceVersion, items, suffix)
	}
	item, tm, err := wire.ParseObject(enc, c.out.Bytes())
	switch {
	case err != nil:
		return strings.TrimSpace(c.out.String())
	case tm.IsStatus():
		s, err := wire.ParseStatus(enc, item.Raw)
		if err != nil {
			return err.Error()
		}
		if s.Details != nil && len(s.Details.Causes) > 0 {
			suffix += " cause=" + s.Details.Causes[0].Type
		}
		return fmt.Sprintf("%s: %s%s", s.Reason, s.Message, suffix)
	}
	return fmt.Sprintf("%s %s%s", tm.Kind, show(enc, item), suffix)
}

// show is "name=value @version".
func show(enc wire.Encoding, item wire.Item) string {
	var value string
	if _, rest, ok := strings.Cut(string(item.Raw), `"v":"`); ok && enc == wire.JSON {
		value, _, _ = strings.Cut(rest, `"`)
	} else if enc == wire.Protobuf {
		var m corev1.ConfigMap
		if err := m.Unmarshal(item.Raw); err == nil {
			value = m.Data["v"]
		}
	}
	return fmt.Sprintf("%s=%s @%s", item.Name, value, item.ResourceVersion)
}

func readList(enc wire.Encoding, body []byte) (wire.List, string, error) {
	var items strings.Builder
	list, err := wire.ReadList(bytes.NewReader(body), enc, 1<<20, func(item wire.Item) error {
		items.WriteString(" " + show(enc, item))
		return nil
	})
	return list, items.String(), err
}

// takeEvents reads the frames of a watch that have come so far.
func (c *client) takeEvents() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	enc, ok := wire.ParseContentType(c.header.Get("Content-Type"))
	if !ok || c.code != http.StatusOK {
		return ""
	}
	var out strings.Builder
	decoder := wire.NewWatchDecoder(bytes.NewReader(c.out.Bytes()), enc, 1<<20)
	for {
		e, err := decoder.Next()
		if err != nil {
			break
		}
		switch e.Type {
		case wire.Bookmark:
			fmt.Fprintf(&out, "%s @%s\n", e.Type, e.ResourceVersion)
		case wire.Error:
			s, _ := wire.ParseStatus(enc, e.Raw)
			fmt.Fprintf(&out, "ERROR %d %s\n", s.Code, s.Reason)
		default:
			fmt.Fprintf(&out, "%s %s\n", e.Type, show(enc, e.Item))
		}
	}
	c.out.Reset()
	return out.String()
}

func (w *world) storeFiles() []string {
	files, err := filepath.Glob(filepath.Join(w.dir, "*"))
	w.must(err)
	return files
}
