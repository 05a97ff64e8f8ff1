package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"yurt/internal/forward"
	"yurt/internal/offline"
	"yurt/internal/replica"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// watch serves a watch from the replica, online and offline alike.
func (x *exchange) watch() {
	version := x.version()
	c := x.collection(x.startAt())
	if c == nil {
		return
	}
	x.dated(c.FreshAt())
	var err error
	switch {
	case x.q.Options.ResourceVersion == "":
		err = x.freshen(c)
	case x.q.Options.SendInitialEvents != nil && *x.q.Options.SendInitialEvents && version > c.Revision():
		err = x.catchUp(c, version)
	}
	if err == nil {
		ctx, release := x.Grants.Hold(x.r.Context(), x.caller, x.attributes())
		defer release()
		err = c.Watch(ctx, x.w, x.q.Options, x.filters)
	}
	if err != nil {
		x.failed(err)
	}
}

func (x *exchange) version() uint64 {
	version, _ := strconv.ParseUint(x.q.Options.ResourceVersion, 10, 64) // decide has seen that it is one, or empty
	return version
}

// startAt is the version of a plain watch whose client has listed elsewhere.
func (x *exchange) startAt() uint64 {
	if x.q.Options.SendInitialEvents != nil {
		return 0
	}
	return x.version()
}

// freshen makes the replica as new as this request, as far as the link allows:
// a watch without a version is a consistent read. A collection of one name is
// listed (a pod that follows its ConfigMap's change must not get the old
// value as environment for ever); for others it is enough that the feed is
// live, which is the one place where the hub is weaker than the API server.
func (x *exchange) freshen(c *replica.Collection) error {
	if x.away() {
		return nil
	}
	upTo := func(ctx context.Context) error { return c.Refresh(ctx, x.arrived) }
	if x.q.SingleName() == "" {
		upTo = c.Live
	}
	err := x.inTime(upTo)
	var denied *replica.DeniedError
	if err == nil || errors.As(err, &denied) && !x.lockedOut(denied.Code) {
		return err
	}
	x.stale(c.FreshAt()) // it is what there is
	return x.r.Context().Err()
}

// inTime waits for a replica to be as fresh as it shall be, but not for longer
// than a consistent read does.
func (x *exchange) inTime(upTo func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(x.r.Context(), readDeadline)
	defer cancel()
	err := upTo(ctx)
	if ctx.Err() != nil && !errors.Is(err, replica.ErrNotKept) {
		x.Proxy.Upstream.Suspect()
	}
	return err
}

// catchUp waits for a version that the replica has not reached.
func (x *exchange) catchUp(c *replica.Collection, version uint64) error {
	ctx, cancel := context.WithTimeout(x.r.Context(), aheadPatience)
	defer cancel()
	if !x.away() {
		// The version may be one that this collection hears of by a bookmark
		// a minute from now: ask.
		if err := c.Refresh(ctx, x.arrived); err == nil && c.Revision() >= version {
			return nil
		}
	}
	if err := c.Reach(ctx, version); err != nil {
		return &aheadError{version: version, current: c.Revision()}
	}
	return nil
}

// aheadError: the client knows a version that the replica has not reached.
type aheadError struct{ version, current uint64 }

func (e *aheadError) Error() string {
	return fmt.Sprintf("Timeout: Too large resource version: %d, current: %d", e.version, e.current)
}

// tooLarge answers as the API server does; client-go recovers by the cause.
func (x *exchange) tooLarge(e *aheadError) {
	x.reply(offline.StatusReply(x.encoding(), wire.Status{
		Code: http.StatusGatewayTimeout, Reason: "Timeout", Message: e.Error(),
		Details: &wire.StatusDetails{
			Causes:            []wire.StatusCause{{Type: "ResourceVersionTooLarge", Message: "Too large resource version"}},
			RetryAfterSeconds: 1,
		},
	}))
}

// list answers a list at any version, or at one not older than the client's.
func (x *exchange) list() {
	c := x.collection(0)
	if c == nil {
		return
	}
	version := x.version()
	if version > 0 && x.q.Options.Limit > 0 && !x.away() {
		x.ask() // pieces are the API server's, but for those of version 0, which it does not make
		return
	}
	if version > c.Revision() {
		if !x.away() {
			x.forward(forward.Exchange{API: x.own()})
			return
		}
		if err := x.catchUp(c, version); err != nil {
			x.failed(err)
			return
		}
	}
	x.serveList(c)
}

func (x *exchange) serveList(c *replica.Collection) {
	x.dated(c.FreshAt())
	if err := c.List(x.w, x.filters); err != nil {
		x.failed(err)
	}
}

// listFresh is a consistent read. Of a collection that is known it is a list
// of the feed's: committed, then answered, so that what the client has seen is
// still there when the cloud is not. Others, and lists in pieces, are
// forwarded, and their complete answers remembered.
func (x *exchange) listFresh() {
	c := x.listed()
	if c == nil || x.q.Options.Limit > 0 || x.away() {
		x.ask()
		return
	}
	if c = x.collection(0); c == nil {
		return
	}
	err := x.inTime(func(ctx context.Context) error { return c.Refresh(ctx, x.arrived) })
	var denied *replica.DeniedError
	switch {
	case err == nil:
		x.serveList(c)
	case errors.As(err, &denied), x.r.Context().Err() != nil:
		x.failed(err)
	case errors.Is(err, replica.ErrNotKept):
		x.ask() // the cloud is there: what the disk does not take is passed on, and not promised for the dark
	default:
		x.answerKnown(err)
	}
}

// listed is the collection that a list asks for, if that has ever been complete.
func (x *exchange) listed() *replica.Collection {
	if x.q.Verb != request.List {
		return nil
	}
	c, ok := x.Replicas.Lookup(replica.KeyOf(x.q, x.representation, x.caller.Identity))
	if !ok || !c.Populated() {
		return nil
	}
	return c
}

// listExact is answered here only if the replica is exactly there.
func (x *exchange) listExact() {
	c := x.listed()
	if c != nil && c.Denied() == nil && c.Revision() == x.version() && x.q.Options.Limit == 0 {
		if x.permitted() {
			x.serveList(c)
		}
		return
	}
	x.listNext()
}

// listNext: a continue token is the API server's own. Without it the pager must
// begin anew; the whole list again would be appended to what it has.
func (x *exchange) listNext() {
	x.forward(forward.Exchange{API: x.own(), Fallback: func(_ http.ResponseWriter, _ *http.Request, err error) { x.expired() }})
}

func (x *exchange) expired() {
	x.status(http.StatusGone, "Expired", "the cloud is away, and the replica does not hold this version: list again without it")
}

// ask forwards a read, remembers its answer, and gives the best that is known
// here when there is none.
func (x *exchange) ask() {
	x.forward(forward.Exchange{
		API:         x.own(),
		Deadline:    readDeadline,
		Alternative: x.knows,
		Inspect: func(a forward.Answer) error {
			if x.lockedOut(a.Code) {
				return errLockedOut
			}
			x.noteVerdict(a.Code)
			err := x.Memory.note(context.WithoutCancel(x.r.Context()), x.question(), a)
			if errors.Is(err, forward.ErrNotKubernetes) && x.own() && x.splittable {
				return err
			}
			x.warn(err)
			return nil
		},
		Fallback: func(_ http.ResponseWriter, _ *http.Request, err error) { x.answerKnown(err) },
	})
}

// table forwards a read whose answer is made for people. While the cloud is away
// a client that takes objects, too, gets these; kubectl prints their names and
// ages.
func (x *exchange) table() {
	plain := *x
	var takes bool
	plain.representation, takes = wire.NegotiateObjects(x.r.Header.Get("Accept"))
	x.forward(forward.Exchange{
		API:         x.own(),
		Deadline:    readDeadline,
		Alternative: func() bool { return takes && plain.knows() },
		Inspect: func(a forward.Answer) error {
			if x.lockedOut(a.Code) {
				return errLockedOut
			}
			x.noteVerdict(a.Code)
			return nil
		},
		Fallback: func(_ http.ResponseWriter, _ *http.Request, err error) {
			if !takes {
				x.unavailable(err)
				return
			}
			plain.answerKnown(err)
		},
	})
}

// warn says that an answer could not be kept. The client has it all the same: a
// full disk must not cut an online node off.
func (x *exchange) warn(err error) {
	if err != nil {
		x.Logger.Warn("an answer could not be kept for offline use", "path", x.r.URL.Path, "error", err)
	}
}

// ahead tells whether a client that knows a version would be shown the past: it
// is newer than all that is known here.
func (x *exchange) ahead(k known) bool {
	version := x.version()
	return x.q.Verb == request.Get && version > k.Revision && version > x.Replicas.Newest()
}

// noteVerdict learns from the API server's answer to the client's own read what
// the client may be shown.
func (x *exchange) noteVerdict(code int) {
	if code == http.StatusOK || code == http.StatusNotFound && x.own() { // it looks for the object after it has allowed the request
		x.Grants.Allow(context.WithoutCancel(x.r.Context()), x.caller, x.attributes())
		return
	}
	x.noteRefusal(code)
}

// answerKnown answers a read from what is known here, if the client may be shown
// that.
func (x *exchange) answerKnown(err error) {
	if !x.Grants.Known(x.caller, x.attributes()) {
		x.unavailable(err)
		return
	}
	if reply, ok := x.Desk.Lease(x.q, x.caller.Identity, x.encoding()); ok {
		x.reply(reply)
		return
	}
	k, ok := x.known()
	c := x.listed()
	switch {
	case c != nil && c.Denied() != nil: // the last word that the cloud had for this client
		x.unavailable(err)
	case c != nil && (!ok || c.Revision() >= k.Revision):
		x.stale(c.FreshAt())
		x.serveList(c)
	case ok && x.ahead(k):
		x.tooLarge(&aheadError{version: x.version(), current: x.Replicas.Newest()})
	case !ok && x.retell():
	case !ok:
		x.unavailable(err)
	case k.absent:
		x.reply(notFound(x.encoding(), x.q))
	default:
		x.stale(k.At)
		shown := x.shown(k.Answer)
		x.reply(offline.Reply{Code: http.StatusOK, ContentType: shown.ContentType, Body: shown.Body})
	}
}

// knows tells whether there is an answer to this read here.
func (x *exchange) knows() bool {
	if !x.Grants.Known(x.caller, x.attributes()) {
		return false
	}
	k, ok := x.known()
	return ok && !x.ahead(k) || x.listed() != nil
}

func (x *exchange) known() (known, bool) { return x.Memory.best(x.question()) }

// question is what this read asks, apart from how fresh the answer must be.
func (x *exchange) question() question {
	return question{q: x.q, identity: x.caller.Identity, accept: x.r.Header.Get("Accept"), representation: x.representation, splittable: x.splittable, path: x.r.URL.Path}
}
