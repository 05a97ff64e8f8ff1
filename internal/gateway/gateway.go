// Package gateway is where clients of the node meet the hub: it tells who asks,
// decides which path the request takes (route.go, a pure function), and puts
// the paths in order: the replica, an API server, what is remembered, the
// offline table.
//
// It guarantees that a thing not known is answered 503 or 504 with a reason,
// never by an empty list and never by a 404 that the replica does not prove.
// It never changes an object and never reads the store itself.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"yurt/internal/backoff"
	"yurt/internal/fairness"
	"yurt/internal/filter"
	"yurt/internal/forward"
	"yurt/internal/identity"
	"yurt/internal/offline"
	"yurt/internal/replica"
	"yurt/internal/request"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

const (
	// readDeadline is how long a consistent read waits for the cloud when the
	// hub has an answer of its own.
	readDeadline = 2 * time.Second
	// aheadPatience is how long a read waits for a version that the replica
	// has not reached: the API server's own three seconds.
	aheadPatience = 3 * time.Second
)

// Gateway serves the Kubernetes API to this node.
type Gateway struct {
	Link          Link
	Replicas      *replica.Set
	Proxy         *forward.Proxy
	Desk          *offline.Desk
	Memory        *Memory
	Authenticator *identity.Authenticator
	Grants        *identity.Grants
	Gate          *fairness.Gate
	Filters       *filter.Site // nil: none
	Logger        *slog.Logger
	Metrics       *Metrics
}

// Link tells whether the cloud can be reached.
type Link interface {
	Link() upstream.Link
	WaitKnown(context.Context)
}

// exchange is one request on its way through the gateway.
type exchange struct {
	*Gateway
	w              http.ResponseWriter
	r              *http.Request
	q              *request.Request
	caller         identity.Caller
	filters        *filter.Chain // between this client and what it asks for
	representation wire.Representation
	splittable     bool
	arrived        time.Time
}

// At serves the clients of a port.
func (g *Gateway) At(port identity.Port) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, port) })
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, port identity.Port) {
	x := &exchange{Gateway: g, w: w, r: r, q: request.Parse(r), arrived: time.Now()}
	x.representation, x.splittable = wire.Negotiate(r.Header.Get("Accept"))
	var err error
	if x.caller, err = g.Authenticator.Authenticate(r, port); err != nil {
		x.refuse(err)
		return
	}
	g.Metrics.count(x)
	g.Desk.Journal.Remember(x.caller.Credential)
	if g.Filters != nil {
		x.filters = g.Filters.For(r.UserAgent(), x.q.Resource)
	}
	route := decide(x.q, x.representation, x.splittable)
	if impersonates(r) {
		if x.caller.Identity.IsNode() {
			x.status(http.StatusForbidden, "Forbidden", "the node may not act as somebody else")
			return
		}
		route = pass
	}
	turn, ok := x.admit(route)
	if !ok {
		return
	}
	defer turn.End()
	route = x.affordable(route)
	done := g.Metrics.began(route)
	defer done()
	x.take(route)
}

func impersonates(r *http.Request) bool {
	for name := range r.Header {
		if strings.HasPrefix(name, "Impersonate-") {
			return true
		}
	}
	return false
}

// take sends the request down its path.
func (x *exchange) take(to route) {
	switch to {
	case pass:
		x.pass()
	case watchReplica:
		x.watch()
	case listReplica:
		x.list()
	case listFresh:
		x.listFresh()
	case listExact:
		x.listExact()
	case listNext:
		x.listNext()
	case ask:
		x.ask()
	case table:
		x.table()
	case write:
		x.write()
	}
}

// pass streams, and has nothing to offer while the cloud is away.
func (x *exchange) pass() {
	x.forward(forward.Exchange{API: x.own()})
}

// own tells whether the API server itself answers, and not something that it
// passes the request on to: a container, a Service, an extension.
func (x *exchange) own() bool {
	if x.q.Opaque || x.q.Upgrade {
		return false
	}
	switch x.q.Subresource {
	case "", "status", "scale", "token":
		return x.q.Resource.Resource != "" || x.q.Discovery
	}
	return false
}

// forward passes the request on with the client's credential; without a
// Fallback of its own the client is told why there is no answer.
func (x *exchange) forward(e forward.Exchange) {
	x.Link.WaitKnown(x.r.Context())
	e.Credential = x.caller.Credential
	e.Show = x.filtered()
	if e.Fallback == nil {
		e.Fallback = func(_ http.ResponseWriter, _ *http.Request, err error) { x.unavailable(err) }
	}
	x.Proxy.Serve(x.w, x.r, e)
}

// collection returns the replica of what is asked, fed and populated, or
// answers the client and returns nil. That the client may read it is the API
// server's word about this client.
func (x *exchange) collection(startAt uint64) *replica.Collection {
	if !x.permitted() {
		return nil
	}
	c, err := x.Replicas.Use(replica.KeyOf(x.q, x.representation, x.caller.Identity), x.caller.Credential, startAt)
	if err == nil {
		err = c.Ready(x.r.Context())
	}
	if err != nil {
		x.failed(err)
		return nil
	}
	return c
}

func (x *exchange) attributes() identity.Attributes {
	return identity.AttributesOf(x.q, x.r.URL.Path)
}

// permitted tells whether the client may be shown what it asks for from here;
// otherwise it has been answered.
func (x *exchange) permitted() bool {
	err := x.Grants.Check(x.r.Context(), x.caller, x.attributes())
	switch {
	case err == nil:
		return true
	case x.filters != nil && x.q.Verb == request.Watch && errors.Is(err, identity.ErrDenied):
		x.status(http.StatusForbidden, "Forbidden", err.Error())
	case x.filters != nil && x.q.Verb == request.Watch: // what is streamed past the replica is not filtered
		x.unavailable(err)
	case x.away():
		x.unavailable(err)
	default:
		x.pass() // the API server says it better
	}
	return false
}

// failed answers with what a replica's error means for the client.
func (x *exchange) failed(err error) {
	var denied *replica.DeniedError
	var ahead *aheadError
	switch {
	case errors.Is(err, replica.ErrAborted):
		panic(http.ErrAbortHandler) // break the connection: a part must not pass for the whole
	case errors.As(err, &denied) && x.lockedOut(denied.Code):
		x.answerKnown(errLockedOut)
	case errors.As(err, &denied):
		x.denied(denied)
	case errors.As(err, &ahead):
		x.tooLarge(ahead)
	case x.r.Context().Err() != nil:
		// Nobody is listening, or the hub stops: to return now would be an
		// empty 200.
		panic(http.ErrAbortHandler)
	default:
		x.unavailable(err)
	}
}

// denied answers what the feed was denied. The client is not its feed: it may be
// allowed to list and not to watch. So the API server has the word, and gets the
// client's own request.
func (x *exchange) denied(d *replica.DeniedError) {
	x.noteRefusal(d.Code)
	refusal := offline.Reply{Code: d.Code, ContentType: d.ContentType, Body: d.Body}
	if x.filters != nil && x.q.Verb == request.Watch {
		x.reply(refusal) // what is streamed past the replica is not filtered
		return
	}
	e := forward.Exchange{API: x.own(), Fallback: func(http.ResponseWriter, *http.Request, error) { x.reply(refusal) }}
	if x.q.Verb != request.Watch {
		x.forward(e)
		return
	}
	ctx, end := context.WithCancel(x.r.Context())
	var feeding sync.WaitGroup
	defer feeding.Wait()
	defer end()
	x.r = x.r.WithContext(ctx)
	e.Allowed = func() {
		feeding.Go(func() {
			defer end()
			x.awaitFed(ctx)
		})
	}
	x.forward(e)
}

const (
	// reaskBase and reaskCap space the attempts to feed a collection that a
	// client streams past the replica.
	reaskBase = time.Second
	reaskCap  = 5 * time.Minute
)

// awaitFed makes the feed ask again, ever less often, while a client streams
// past the replica what the feed was denied: a node authorizer that has not seen
// a binding yet allows a moment later what it denied, and what is not fed is
// missing in the dark. It returns when the collection is fed, so that the stream
// is ended and the client's next one comes from the replica, or when ctx ends.
func (x *exchange) awaitFed(ctx context.Context) {
	again := backoff.Backoff{Base: reaskBase, Cap: reaskCap}
	for again.Wait(ctx) == nil {
		c, ok := x.Replicas.Lookup(replica.KeyOf(x.q, x.representation, x.caller.Identity))
		if !ok {
			return
		}
		c.Reconsider()
		if c.Ready(ctx) == nil {
			return
		}
	}
}

// refuse answers a client that could not be identified.
func (x *exchange) refuse(err error) {
	switch {
	case errors.As(err, new(*fairness.RefusalError)):
		x.notAdmitted(err)
	case errors.Is(err, identity.ErrUnauthenticated):
		x.Logger.Debug("a client is not known", "client", x.r.RemoteAddr, "error", err)
		if !x.admitStranger() {
			return
		}
		x.status(http.StatusUnauthorized, "Unauthorized", "Unauthorized")
	case errors.Is(err, identity.ErrForeign):
		x.status(http.StatusForbidden, "Forbidden", err.Error())
	default:
		x.reply(offline.Unavailable(x.encoding(), x.outage(err), "who asks is not known here"))
	}
}

// outage is why the cloud does not answer.
func (x *exchange) outage(err error) offline.Outage {
	link := x.Link.Link()
	if link.State != upstream.Up {
		return offline.Outage{Since: link.Since, Reason: link.Reason}
	}
	return offline.Outage{Since: x.arrived, Reason: err.Error()}
}

// away tells whether the cloud is known not to answer; while the hub has only
// just begun to find out, nobody waits for more than a moment.
func (x *exchange) away() bool {
	x.Link.WaitKnown(x.r.Context())
	return x.Link.Link().State != upstream.Up
}

// unavailable is the answer to what is not known here.
func (x *exchange) unavailable(err error) {
	what := fmt.Sprintf("%s %s is not known here", x.r.Method, x.r.URL.Path)
	switch {
	case errors.Is(err, identity.ErrUnknown):
		what = "whether this client may read this is not known here"
	case errors.Is(err, replica.ErrUnavailable):
		what = fmt.Sprintf("%s %s is not in the replica yet", x.r.Method, x.r.URL.Path)
	}
	x.reply(offline.Unavailable(x.encoding(), x.outage(err), what))
}

func (x *exchange) status(code int, reason, message string) {
	x.reply(offline.StatusReply(x.encoding(), wire.Status{Code: code, Reason: reason, Message: message}))
}

// encoding is in which the client reads a Status.
func (x *exchange) encoding() wire.Encoding {
	if x.splittable && x.representation.Preference != wire.OnlyJSON {
		return wire.Protobuf
	}
	return wire.JSON
}

func (x *exchange) reply(a offline.Reply) {
	h := x.w.Header()
	h.Set("Content-Type", a.ContentType)
	h.Set("Cache-Control", "no-cache, private")
	x.w.WriteHeader(a.Code)
	_, _ = x.w.Write(a.Body) // a client that has gone does not need it
}

// noteRefusal forgets whose a token was that the API server no longer takes, and
// what its owner may no longer read. What somebody behind the API server refuses
// says nothing of that.
func (x *exchange) noteRefusal(code int) {
	if !x.own() {
		return
	}
	ctx := context.WithoutCancel(x.r.Context())
	switch code {
	case http.StatusUnauthorized:
		confirmed, err := x.Authenticator.Confirmed(ctx, x.caller.Credential)
		x.warn(err)
		if !confirmed {
			x.Grants.EndToken(x.caller.Credential)
		}
	case http.StatusForbidden:
		x.warn(x.Memory.withdraw(ctx, x.question()))
		x.warn(x.Grants.Withdraw(ctx, x.caller, x.attributes()))
	}
}

// errLockedOut: the API server does not take the node's own credential any more.
var errLockedOut = errors.New("the API server no longer takes this node's certificate")

// lockedOut tells whether a refusal is of the node's own credential: expired, or
// taken away. It is no refusal of the kubelet's: that would exit if its request
// for a new one got a 401.
func (x *exchange) lockedOut(code int) bool {
	if !x.caller.Identity.IsNode() || !x.own() {
		return false
	}
	x.Authenticator.Reviewer.NoteNode(code)
	return code == http.StatusUnauthorized
}

// dated marks what a replica answers by how old it is, unless it follows the
// cloud.
func (x *exchange) dated(since time.Time) {
	if x.Link.Link().State != upstream.Up {
		x.stale(since)
	}
}

// stale marks what is answered in the cloud's place. The text is constant:
// client-go logs each distinct warning once.
func (x *exchange) stale(since time.Time) {
	x.w.Header().Set("Warning", `299 yurthub "answered from the node's replica: the cloud is away"`)
	if !since.IsZero() {
		x.w.Header().Set("Age", strconv.Itoa(max(0, int(time.Since(since).Seconds())))) // clocks are set back
	}
}
