package upstream

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"sync/atomic"

	"yurt/internal/credential"
)

// RoundTrip sends r to an API server as the given identity and returns its
// answer, whatever its status. r's URL needs a path and a query only. The error
// is ErrDown, an *UnreachableError, or that of r's context.
//
// A request that got no answer, or one from something on the way, is sent to
// another server if that is safe: a read is, and anything else that was never
// sent. The body is closed by the caller.
func (p *Pool) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	out, body := r, &body{}
	if r.Body != nil && r.Body != http.NoBody {
		body.Reader = r.Body
		out = r.WithContext(r.Context())
		out.Body = body
	}
	s := p.pick(nil)
	if s == nil {
		return nil, p.downError()
	}
	var tried []*server
	for {
		resp, err := p.roundTripTo(s, out, cred)
		if r.Context().Err() != nil || !repeatable(r, resp, err) || body.begun.Load() {
			return resp, err
		}
		tried = append(tried, s)
		if s = p.another(tried, err); s == nil {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
	}
}

// repeatable tells whether the request may be sent again after this outcome.
func repeatable(r *http.Request, resp *http.Response, err error) bool {
	safe := r.Method == http.MethodGet || r.Method == http.MethodHead
	if err != nil {
		var gone *UnreachableError
		return errors.As(err, &gone) && (safe || unsent(err))
	}
	return safe && fromBetween(resp)
}

// another returns a server that has not been tried. If there is only one it is
// tried once more after a connection has broken: behind a balancer the next one
// leads to another API server.
func (p *Pool) another(tried []*server, err error) *server {
	if len(p.servers) == 1 && len(tried) == 1 && err != nil && !unreachable(err) {
		return p.pick(nil)
	}
	return p.pick(tried)
}

// pick returns the server to ask next, or nil.
func (p *Pool) pick(tried []*server) *server {
	candidates := make([]candidate, len(p.servers))
	for i, s := range p.servers {
		candidates[i] = candidate{usable: s.healthy() && !slices.Contains(tried, s), score: s.scored()}
	}
	at, ok := pick(p.cfg.Mode, candidates, int(p.last.Load()))
	if !ok {
		return nil
	}
	p.last.Store(int32(at))
	return p.servers[at]
}

// body is a request's. It is not closed by the transport that gives up on it
// unread, so that another one may read it.
type body struct {
	io.Reader
	begun atomic.Bool
}

func (b *body) Read(buf []byte) (int, error) {
	b.begun.Store(true)
	return b.Reader.Read(buf)
}

func (*body) Close() error { return nil }
