// Package forward passes one request through to an API server and its answer
// back, streaming, upgrades (exec, port-forward) included.
//
// It guarantees that a request leaves with the credential that it was given and
// no other, that nothing has been written to the client when Fallback is
// called, and that an answer which Inspect has seen was complete. It never
// repeats a request and never answers one itself.
package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"yurt/internal/credential"
	"yurt/internal/wire"
)

var (
	// ErrSlow: no answer within the exchange's deadline.
	ErrSlow = errors.New("no answer in time")
	// ErrNotKubernetes: something on the way answered in the API server's
	// place: a load balancer's 502, a captive portal's page.
	ErrNotKubernetes = errors.New("the answer is not from an API server")
	// ErrTooLong: the answer is too long to be shown otherwise than as it is.
	ErrTooLong = errors.New("the answer is too long")
)

// MaxInspect is the longest answer that is read whole for Inspect. The largest
// object that etcd takes is 1.5 MiB.
const MaxInspect = 2 << 20

// MaxShow is the longest answer that is read whole for Show.
const MaxShow = 64 << 20

// Upstream sends a request to an API server as somebody.
type Upstream interface {
	RoundTrip(*http.Request, credential.Credential) (*http.Response, error)
	// Suspect is told of answers that don't come.
	Suspect()
}

// Answer is a complete answer of an API server.
type Answer struct {
	Code        int
	ContentType string
	Body        []byte
}

// Exchange says how one request is to be passed on.
type Exchange struct {
	Credential credential.Credential

	// Deadline, if not 0, bounds the time until the answer begins or, if
	// Inspect is set, until it is complete. When it is over, Alternative, which
	// must be set then, says whether there is something better than to wait on.
	Deadline    time.Duration
	Alternative func() bool

	// API: the API server itself answers this, not a pod or an extension behind
	// it. What it can't have said (a page, a redirect, a load balancer's 502, a
	// 200 without a body) is ErrNotKubernetes.
	API bool

	// Inspect, if set, is called with an answer of at most MaxInspect bytes
	// before its first byte goes to the client. An error of Inspect leads to
	// Fallback.
	Inspect func(Answer) error

	// Show, if set, returns a successful answer as the client is to see it. It is
	// called after Inspect, with the whole answer; one of more than MaxShow bytes
	// leads to Fallback.
	Show func(Answer) []byte

	// Allowed, if set, is called when a successful answer begins.
	Allowed func()

	// Fallback answers the client when no API server did: the error is
	// ErrSlow, ErrNotKubernetes, one of the Upstream or that of Inspect.
	Fallback func(w http.ResponseWriter, r *http.Request, err error)
}

// Proxy passes requests to one Upstream.
type Proxy struct {
	Upstream Upstream
	Logger   *slog.Logger

	buffers buffers
}

// buffers are those that bodies are copied through. Without them each request
// would leave 32 KiB for the garbage collector, more than all else together.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get is called by httputil.ReverseProxy.
func (b *buffers) Get() []byte {
	if buf, ok := b.pool.Get().(*[bufferSize]byte); ok {
		return buf[:]
	}
	return make([]byte, bufferSize)
}

// Put is called by httputil.ReverseProxy with what Get returned.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[bufferSize]byte)(buf)) }

// Serve passes r on and its answer back to w. It panics with
// http.ErrAbortHandler, which breaks the connection, if the answer breaks off in
// its middle, and if r's context ends before an answer has begun: then either
// nobody is listening, or the hub stops, and silence must not look like an
// empty answer.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, x Exchange) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	var settled atomic.Bool // by an answer or by the deadline, whichever comes first
	stop := func() {}
	if x.Deadline > 0 {
		timer := time.AfterFunc(x.Deadline, func() {
			p.Upstream.Suspect()
			if x.Alternative() && settled.CompareAndSwap(false, true) {
				cancel(ErrSlow)
			}
		})
		stop = func() { timer.Stop() }
		defer stop()
	}
	proxy := httputil.ReverseProxy{
		Rewrite:       func(out *httputil.ProxyRequest) { prepare(out, x) },
		Transport:     roundTripper(func(out *http.Request) (*http.Response, error) { return p.Upstream.RoundTrip(out, x.Credential) }),
		FlushInterval: -1,
		BufferPool:    &p.buffers,
		ErrorLog:      slog.NewLogLogger(p.Logger.Handler(), slog.LevelDebug),
		ModifyResponse: func(resp *http.Response) error {
			answer, err := x.examine(resp)
			if err != nil {
				return err
			}
			if !settled.CompareAndSwap(false, true) {
				return ErrSlow
			}
			stop()
			if answer != nil && x.Inspect != nil && len(answer.Body) <= MaxInspect {
				if err := x.Inspect(*answer); err != nil {
					return err
				}
			}
			if x.Allowed != nil && resp.StatusCode == http.StatusOK {
				x.Allowed()
			}
			return x.show(resp, answer)
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			switch {
			case r.Context().Err() != nil:
				panic(http.ErrAbortHandler)
			case errors.Is(context.Cause(ctx), ErrSlow):
				err = ErrSlow
			}
			x.Fallback(w, r, err)
		},
	}
	proxy.ServeHTTP(w, r.WithContext(ctx))
}

// prepare makes the outgoing request carry what the client sent and nothing
// that the hub would vouch for: with the node's own certificate no header of
// the client may name another user.
func prepare(p *httputil.ProxyRequest, x Exchange) {
	out := p.Out
	// Parameters that the proxy finds malformed are the API server's, or those
	// of a Service behind it.
	out.URL.RawQuery = p.In.URL.RawQuery
	node, certified := x.Credential.Identity.IsNode(), x.Credential.Token == ""
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Remote-") || certified && name == "Authorization" || node && strings.HasPrefix(name, "Impersonate-") {
			delete(out.Header, name)
		}
	}
	if certified {
		dropProtocolToken(out.Header)
	}
	if x.Inspect != nil || x.Show != nil {
		// What is kept must be readable by every client: the transport asks
		// for gzip by itself and unpacks it.
		out.Header.Del("Accept-Encoding")
	}
}

// dropProtocolToken drops the bearer token that a browser's client hides among
// the protocols of a WebSocket: the API server takes it for a credential.
func dropProtocolToken(h http.Header) {
	const name = "Sec-Websocket-Protocol"
	var kept []string
	for _, line := range h.Values(name) {
		for protocol := range strings.SplitSeq(line, ",") {
			if protocol = strings.TrimSpace(protocol); !strings.HasPrefix(protocol, "base64url.bearer.authorization.k8s.io.") {
				kept = append(kept, protocol)
			}
		}
	}
	h.Del(name)
	if len(kept) > 0 {
		h.Set(name, strings.Join(kept, ", "))
	}
}

// examine refuses what no API server says. If there is an Inspect it returns
// the answer, read whole, unless that is too long.
func (x *Exchange) examine(resp *http.Response) (*Answer, error) {
	signed := !x.API || resp.Header.Get(auditHeader) != ""
	if !signed && !plausible(resp) {
		return nil, fmt.Errorf("%w: %s with Content-Type %q", ErrNotKubernetes, resp.Status, resp.Header.Get("Content-Type"))
	}
	suspicious := !signed && gatewayError(resp.StatusCode)
	if !suspicious && x.Inspect == nil && x.Show == nil || resp.Body == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil
	}
	most := int64(MaxInspect)
	if x.Show != nil && resp.StatusCode == http.StatusOK {
		most = MaxShow
	}
	body, whole, err := readWhole(resp, most)
	if err != nil || !whole {
		return nil, err
	}
	contentType := resp.Header.Get("Content-Type")
	switch {
	case suspicious && !isStatus(contentType, body):
		return nil, fmt.Errorf("%w: %s without a Status", ErrNotKubernetes, resp.Status)
	case x.API && resp.StatusCode == http.StatusOK && len(body) == 0:
		return nil, fmt.Errorf("%w: %s with nothing in it", ErrNotKubernetes, resp.Status)
	}
	return &Answer{Code: resp.StatusCode, ContentType: contentType, Body: body}, nil
}

// auditHeader is in every answer of an API server, and in no other.
const auditHeader = "Audit-Id"

// plausible tells whether an API server without an audit header, an old one,
// could have answered this. It redirects nobody, and has no text for people
// where an object was asked for.
func plausible(resp *http.Response) bool {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // none is as good as a bad one
	switch code := resp.StatusCode; {
	case code == http.StatusSwitchingProtocols, code == http.StatusNoContent, code == http.StatusNotModified:
		return true
	case code >= http.StatusBadRequest:
		_, known := wire.ParseContentType(mediaType)
		return known
	case code >= http.StatusMultipleChoices:
		return false
	}
	return strings.HasPrefix(mediaType, "application/")
}

// gatewayError tells whether a code is what a load balancer answers with when
// it has no API server.
func gatewayError(code int) bool {
	return code == http.StatusBadGateway || code == http.StatusServiceUnavailable || code == http.StatusGatewayTimeout
}

// show puts what the client is to see into an answer's place.
func (x *Exchange) show(resp *http.Response, answer *Answer) error {
	if x.Show == nil || resp.StatusCode != http.StatusOK {
		return nil
	}
	if answer == nil {
		return fmt.Errorf("%w: an answer of more than %d bytes can't be filtered", ErrTooLong, MaxShow)
	}
	body := x.Show(*answer)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// readWhole reads the body if it has at most so many bytes, and leaves the
// response as if it had not been read.
func readWhole(resp *http.Response, most int64) (body []byte, whole bool, err error) {
	if resp.ContentLength > most {
		return nil, false, nil
	}
	original := resp.Body
	// Room for all of a common answer at once, and for the read that finds the end.
	buffer := bytes.NewBuffer(make([]byte, 0, min(max(resp.ContentLength, 0), 64<<10)+bytes.MinRead))
	_, err = buffer.ReadFrom(io.LimitReader(original, most+1))
	body = buffer.Bytes()
	if err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	if int64(len(body)) > most {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(body), original), original}
		return nil, false, nil
	}
	if err := original.Close(); err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return body, true, nil
}

func isStatus(contentType string, body []byte) bool {
	encoding, _ := wire.ParseContentType(contentType) // plausible has seen that it is one
	_, tm, err := wire.ParseObject(encoding, body)
	return err == nil && tm.IsStatus()
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
