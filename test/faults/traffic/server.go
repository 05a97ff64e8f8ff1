package traffic

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"

	"yurt/test/faults/history"
)

// Server is an API server over a World, for one node.
type Server struct {
	World *World
	rec   *history.Recorder
	link  *link
	http  *httptest.Server

	mu     sync.Mutex
	events map[string]bool // that have been created
}

// NewServer starts a server. Close ends it.
func NewServer(w *World, rec *history.Recorder) (*Server, error) {
	s := &Server{World: w, rec: rec, events: map[string]bool{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.link = &link{Listener: s.http.Listener, open: map[net.Conn]struct{}{}}
	s.http.Listener = s.link
	s.http.EnableHTTP2 = true
	s.http.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	// A connection is of the hub that made it, however late its last request is read.
	s.http.Config.ConnContext = func(ctx context.Context, _ net.Conn) context.Context {
		return context.WithValue(ctx, lifeKey{}, s.rec.Life())
	}
	s.http.StartTLS()
	return s, nil
}

type lifeKey struct{}

// Close ends the server and all that it streams.
func (s *Server) Close() {
	s.link.set(false)
	s.http.Close()
}

// SetLink connects the server to its node, or cuts all connections.
func (s *Server) SetLink(up bool) { s.link.set(up) }

// link is a listener that may take no connections, as if nobody were there.
type link struct {
	net.Listener
	mu   sync.Mutex
	up   bool
	open map[net.Conn]struct{}
}

func (l *link) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = up
	for c := range l.open {
		c.Close()
	}
	clear(l.open)
}

func (l *link) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		up := l.up
		if up {
			l.open[c] = struct{}{}
		}
		l.mu.Unlock()
		if up {
			return c, nil
		}
		c.Close()
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Audit-Id", "1")
	w.Header().Set("Content-Type", "application/json")
	collection := s.World.objects[r.URL.Path] // the map of paths never changes
	query := r.URL.Query()
	switch {
	case r.URL.Path == "/readyz":
	case collection != nil && r.Method == http.MethodGet && query.Has("watch"):
		s.watch(w, r)
	case collection != nil && r.Method == http.MethodGet:
		s.list(w, r)
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/events"):
		s.create(w, r)
	case r.URL.Path == "/apis/example.org/v1":
		fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"example.org/v1","resources":[{"name":"widgets","namespaced":true,"kind":"Widget"}]}`)
	default:
		refuse(w, http.StatusNotFound, "NotFound")
	}
}

func refuse(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	fmt.Fprint(w, status(code, reason))
}

func status(code int, reason string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"no","reason":%q,"code":%d}`, reason, code)
}

// kindOf returns the kind and the version of a collection's objects.
func kindOf(path string) (kind, apiVersion string) {
	switch path {
	case ConfigMaps:
		return "ConfigMap", "v1"
	case Secrets:
		return "Secret", "v1"
	}
	return "Widget", "example.org/v1"
}

func (o object) body() string {
	return fmt.Sprintf(`"metadata":{"name":%q,"namespace":"shop","uid":%q,"resourceVersion":"%d"},"data":{"v":%q}}`, o.name, o.uid, o.version, o.value)
}

// inWatch is an object with its kind, in the order of an API server's words: built-in kinds begin otherwise than custom
// ones.
func (o object) inWatch(kind, version string) string {
	if version == "v1" {
		return fmt.Sprintf(`{"kind":%q,"apiVersion":%q,%s`, kind, version, o.body())
	}
	return fmt.Sprintf(`{"apiVersion":%q,"kind":%q,%s`, version, kind, o.body())
}

// inList is an item of a list: those of built-in kinds don't say what they are.
func (o object) inList(kind, version string) string {
	if version == "v1" {
		return "{" + o.body()
	}
	return o.inWatch(kind, version)
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	objects, revision := s.World.list(r.URL.Path)
	query := r.URL.Query()
	asked, _ := strconv.ParseUint(query.Get("resourceVersion"), 10, 64)
	switch {
	case asked > revision:
		refuse(w, http.StatusGatewayTimeout, "Timeout")
		return
	case query.Get("resourceVersionMatch") == "Exact" && asked != revision:
		refuse(w, http.StatusGone, "Expired")
		return
	}
	kind, version := kindOf(r.URL.Path)
	fmt.Fprintf(w, `{"kind":"%sList","apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, kind, version, revision)
	for i, o := range objects {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprint(w, o.inList(kind, version))
	}
	fmt.Fprint(w, "]}\n")
}

// bookmarkEvery spaces bookmarks, by changes of any collection.
const bookmarkEvery = 7

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	from, err := strconv.ParseUint(r.URL.Query().Get("resourceVersion"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest")
		return
	}
	kind, version := kindOf(r.URL.Path)
	ends, told := s.World.ended(), from
	flush := func() { _ = http.NewResponseController(w).Flush() }
	flush()
	for {
		changes, upTo, wake, ok := s.World.since(r.URL.Path, from, ends)
		if !ok {
			if ends == s.World.ended() {
				fmt.Fprintf(w, `{"type":"ERROR","object":%s}`+"\n", status(http.StatusGone, "Expired"))
			}
			return
		}
		for _, e := range changes {
			fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", e.typ, e.inWatch(kind, version))
		}
		from = upTo
		if upTo >= told+bookmarkEvery {
			told = upTo
			fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":%q,"apiVersion":%q,"metadata":{"resourceVersion":"%d"}}}`+"\n", kind, version, upTo)
		}
		flush()
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

// create takes an event: one of each name.
func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e struct{ Metadata struct{ Name string } }
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest")
		return
	}
	name := e.Metadata.Name
	s.mu.Lock()
	code := http.StatusCreated
	if s.events[name] {
		code = http.StatusConflict
	}
	s.events[name] = true
	s.mu.Unlock()
	if strings.HasPrefix(name, NotePrefix) {
		life, _ := r.Context().Value(lifeKey{}).(int)
		s.rec.Received(life, name, code)
	}
	if code == http.StatusConflict {
		refuse(w, code, "AlreadyExists")
		return
	}
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
