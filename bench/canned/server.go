package canned

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EmitPath is where events are asked for, by POST with the parameters table (path and fieldSelector, as "path?selector"), n, and
// rate (events a second; 0: at once).
const EmitPath = "/bench/emit"

// Server is a canned API server.
type Server struct {
	resources map[string]*content

	mu     sync.Mutex
	tables map[string]*table
}

// table is the events of one selector. Its version grows by one with each.
type table struct {
	mu      sync.Mutex
	version int64
	grown   chan struct{} // closed when the version grows
}

// New returns a server of so many pods and EndpointSlices.
func New(podCount, sliceCount int) (*Server, error) {
	p, err := pods(podCount)
	if err != nil {
		return nil, fmt.Errorf("make pods: %w", err)
	}
	e, err := endpointSlices(sliceCount)
	if err != nil {
		return nil, fmt.Errorf("make EndpointSlices: %w", err)
	}
	return &Server{resources: map[string]*content{"pods": p, "endpointslices": e}, tables: map[string]*table{}}, nil
}

// Run serves with TLS until ctx ends.
func (s *Server) Run(ctx context.Context, l net.Listener, cert tls.Certificate) error {
	// A client certificate is asked for, as an API server does, and not looked at.
	config := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	server := &http.Server{Handler: s, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	content, named := s.resources[path.Base(r.URL.Path)], s.resources[path.Base(path.Dir(r.URL.Path))]
	switch {
	case r.URL.Path == EmitPath:
		s.emit(w, r)
	case r.URL.Path == "/readyz" || r.URL.Path == "/livez" || r.URL.Path == "/healthz":
		fmt.Fprint(w, "ok")
	case r.URL.Path == "/version":
		w.Header().Set("Content-Type", asJSON)
		fmt.Fprint(w, `{"major":"1","minor":"37","gitVersion":"v1.37.2"}`)
	case content != nil && (query.Get("watch") == "true" || query.Get("watch") == "1"):
		s.watch(w, r, content)
	case content != nil:
		s.list(w, r, content)
	case named != nil && r.Method == http.MethodGet:
		media := mediaOf(r)
		w.Header().Set("Content-Type", media)
		write(w, named.objects[media][0])
	default:
		w.Header().Set("Content-Type", asJSON)
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
	}
}

func mediaOf(r *http.Request) string {
	if strings.Contains(r.Header.Get("Accept"), "protobuf") {
		return asProtobuf
	}
	return asJSON
}

// write ignores that the reader may have gone away: there is nobody to tell.
func write(w http.ResponseWriter, parts ...[]byte) {
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

func (s *Server) table(name string) *table {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tables[name]
	if t == nil {
		t = &table{version: firstVersion, grown: make(chan struct{})}
		s.tables[name] = t
	}
	return t
}

func tableOf(r *http.Request) string { return r.URL.Path + "?" + r.URL.Query().Get("fieldSelector") }

// state returns the version, and what is closed when there is a newer one.
func (t *table) state() (int64, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.version, t.grown
}

func (t *table) grow(n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.version += n
	close(t.grown)
	t.grown = make(chan struct{})
}

func (s *Server) emit(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
	rate, rateErr := strconv.Atoi(r.FormValue("rate"))
	if err := errors.Join(err, rateErr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	t := s.table(r.FormValue("table"))
	if rate == 0 {
		t.grow(n)
		return
	}
	next := time.Now()
	for range n {
		select {
		case <-time.After(time.Until(next)):
		case <-r.Context().Done():
			return
		}
		t.grow(1)
		next = next.Add(time.Second / time.Duration(rate))
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, c *content) {
	version, _ := s.table(tableOf(r)).state()
	media := mediaOf(r)
	body := c.list[media]
	at := bytes.Index(body, noVersion)
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	write(w, body[:at], strconv.AppendInt(nil, version, 10), body[at+len(noVersion):])
}

// batch is how many events are written before they are flushed.
const batch = 32

func (s *Server) watch(w http.ResponseWriter, r *http.Request, c *content) {
	t := s.table(tableOf(r))
	version, grown := t.state()
	from := version
	if asked, err := strconv.ParseInt(r.URL.Query().Get("resourceVersion"), 10, 64); err == nil && asked >= firstVersion {
		from = asked
	}
	w.Header().Set("Content-Type", asProtobuf+";stream=watch")
	flush := http.NewResponseController(w)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		from = version
		write(w, c.frames...)
		end, err := bookmark(c.kind, version, true)
		if err != nil {
			panic(err) // an object of one's own that does not encode
		}
		write(w, end)
	}
	var buffer []byte
	for {
		for from < version {
			buffer = buffer[:0]
			for range min(batch, version-from) {
				from++
				buffer = appendEvent(buffer, c, from)
			}
			write(w, buffer)
			if flush.Flush() != nil {
				return
			}
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-grown:
		case <-r.Context().Done():
			return
		}
		version, grown = t.state()
	}
}

// appendEvent appends the event of a version: an object of which version and mark were replaced.
func appendEvent(b []byte, c *content, version int64) []byte {
	start := len(b)
	b = append(b, c.altered[version%int64(len(c.altered))]...)
	event := b[start:]
	digits := strconv.AppendInt(nil, version, 10)
	if at := bytes.Index(event, strconv.AppendInt(nil, firstVersion, 10)); at >= 0 {
		copy(event[at:], digits)
	}
	if at := bytes.Index(event, []byte(Mark)); at >= 0 {
		copy(event[at+len(Mark):], digits)
	}
	return b
}
