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
	"net/http"
	"net/http/httputil"
	"strings"
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
)

// MaxInspect is the longest answer that is read whole for Inspect. The largest
// object that etcd takes is 1.5 MiB.
const MaxInspect = 2 << 20

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
	// Inspect is set, until it is complete. When it is over, Alternative says
	// whether there is something better than to wait on.
	Deadline    time.Duration
	Alternative func() bool

	// API: the answer is one of the API's objects, in JSON or protobuf;
	// anything else is ErrNotKubernetes.
	API bool

	// Inspect, if set, is called with an answer of at most MaxInspect bytes
	// before its first byte goes to the client. An error of Inspect leads to
	// Fallback.
	Inspect func(Answer) error

	// Fallback answers the client when no API server did: the error is
	// ErrSlow, ErrNotKubernetes, one of the Upstream or that of Inspect.
	Fallback func(w http.ResponseWriter, r *http.Request, err error)
}

// Proxy passes requests to one Upstream.
type Proxy struct {
	Upstream Upstream
	Logger   *slog.Logger
}

// Serve passes r on and its answer back to w.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, x Exchange) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	stop := func() bool { return true }
	if x.Deadline > 0 {
		stop = time.AfterFunc(x.Deadline, func() {
			p.Upstream.Suspect()
			if x.Alternative() {
				cancel(ErrSlow)
			}
		}).Stop
	}
	proxy := httputil.ReverseProxy{
		Rewrite:       func(out *httputil.ProxyRequest) { prepare(out.Out, x) },
		Transport:     roundTripper(func(out *http.Request) (*http.Response, error) { return p.Upstream.RoundTrip(out, x.Credential) }),
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(p.Logger.Handler(), slog.LevelDebug),
		ModifyResponse: func(resp *http.Response) error {
			err := x.examine(resp)
			stop()
			return err
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(context.Cause(ctx), ErrSlow) {
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
func prepare(out *http.Request, x Exchange) {
	if x.Credential.Identity.IsNode() {
		out.Header.Del("Authorization")
		for name := range out.Header {
			if strings.HasPrefix(name, "Impersonate-") {
				out.Header.Del(name)
			}
		}
	}
	for name := range out.Header {
		if strings.HasPrefix(name, "X-Remote-") {
			out.Header.Del(name)
		}
	}
	if x.Inspect != nil {
		// What is kept must be readable by every client: the transport asks
		// for gzip by itself and unpacks it.
		out.Header.Del("Accept-Encoding")
	}
}

// examine refuses what no API server says, and shows a bounded answer to
// Inspect.
func (x *Exchange) examine(resp *http.Response) error {
	suspicious := resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout
	encoding, known := wire.ParseContentType(resp.Header.Get("Content-Type"))
	if (x.API || suspicious) && !known && resp.StatusCode != http.StatusSwitchingProtocols && resp.StatusCode != http.StatusNotModified {
		return fmt.Errorf("%w: %s with Content-Type %q", ErrNotKubernetes, resp.Status, resp.Header.Get("Content-Type"))
	}
	if !suspicious && x.Inspect == nil || resp.Body == nil {
		return nil
	}
	body, whole, err := readWhole(resp)
	if err != nil {
		return err
	}
	if suspicious && whole && !isStatus(encoding, body) {
		return fmt.Errorf("%w: %s without a Status", ErrNotKubernetes, resp.Status)
	}
	if whole && x.Inspect != nil {
		return x.Inspect(Answer{Code: resp.StatusCode, ContentType: resp.Header.Get("Content-Type"), Body: body})
	}
	return nil
}

// readWhole reads the body if it is at most MaxInspect bytes long, and leaves
// the response as if it had not been read.
func readWhole(resp *http.Response) (body []byte, whole bool, err error) {
	if resp.ContentLength > MaxInspect {
		return nil, false, nil
	}
	original := resp.Body
	body, err = io.ReadAll(io.LimitReader(original, MaxInspect+1))
	if err != nil {
		return nil, false, fmt.Errorf("read answer: %w", err)
	}
	if len(body) > MaxInspect {
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

func isStatus(encoding wire.Encoding, body []byte) bool {
	_, tm, err := wire.ParseObject(encoding, body)
	return err == nil && tm.Kind == "Status"
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
