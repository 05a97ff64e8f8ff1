package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"

	"yurt/internal/forward"
	"yurt/internal/offline"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// maxWrite is the longest body of a write, which is read whole so that it can be
// answered when the cloud does not. It is the API server's own limit.
const maxWrite = 3 << 20

// write forwards a write; the desk answers while the cloud is away.
func (x *exchange) write() {
	if x.wouldCarryBack() {
		return
	}
	if x.r.ContentLength > maxWrite {
		x.tooLong()
		return
	}
	body, err := x.readBody()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.status(http.StatusRequestTimeout, "Timeout", "the request's body does not come")
		return
	case err != nil:
		x.status(http.StatusBadRequest, "BadRequest", "read request body: "+err.Error())
		return
	case body == nil:
		x.tooLong()
		return
	}
	w := offline.Write{
		Request: x.q, Method: x.r.Method, Path: x.r.URL.RequestURI(), Body: body,
		MediaType: x.r.Header.Get("Content-Type"), Answer: x.encoding(), Credential: x.caller.Credential,
	}
	w.Encoding, _ = wire.ParseContentType(w.MediaType)
	x.forward(forward.Exchange{
		API: x.own(),
		Inspect: func(a forward.Answer) error {
			if x.lockedOut(a.Code) {
				return errLockedOut
			}
			x.warn(x.noteWrite(w, a))
			return nil
		},
		Fallback: func(_ http.ResponseWriter, r *http.Request, err error) {
			if offline.Asked(x.q) && !x.Grants.Known(x.caller, x.attributes()) {
				x.unavailable(err) // another client of that name was answered this
				return
			}
			x.reply(x.Desk.Serve(context.WithoutCancel(r.Context()), w, x.outage(err)))
		},
	})
}

// readBody reads the request's body and leaves it to be read again. It returns
// nil for one that is too long.
func (x *exchange) readBody() ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(x.r.Body, maxWrite+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxWrite {
		return nil, nil
	}
	x.r.Body = io.NopCloser(bytes.NewReader(body))
	return body, nil
}

// noteWrite learns from the API server's answer to a write.
func (x *exchange) noteWrite(w offline.Write, a forward.Answer) error {
	if a.Code == http.StatusUnauthorized { // 403 says nothing of reads
		x.noteRefusal(a.Code)
	}
	if a.Code >= 300 || x.r.URL.Query().Has("dryRun") {
		return nil
	}
	ctx := context.WithoutCancel(x.r.Context())
	if offline.Asked(x.q) {
		x.Grants.Allow(ctx, x.caller, x.attributes())
		if token, ok := offline.Issued(w, offline.Answer{ContentType: a.ContentType, Body: a.Body}); ok && x.caller.Identity.IsNode() {
			x.warn(x.Authenticator.Issued(ctx, x.q.Namespace, x.q.Name, token))
		}
		return x.Desk.Asked(ctx, w, a.ContentType, a.Body)
	}
	x.Desk.NoteLease(x.q, a.Body)
	x.warn(x.Desk.NotePodStatus(ctx, w, a.ContentType, a.Body))
	switch x.q.Verb {
	case request.Update, request.Patch, request.Delete:
		get := *x.q
		get.Verb = request.Get
		get.Subresource = ""
		k := x.question()
		k.q, k.path = &get, get.Resource.Path(get.Namespace)+"/"+get.Name
		return x.Memory.written(ctx, k, x.q.Verb, a)
	}
	return nil
}
