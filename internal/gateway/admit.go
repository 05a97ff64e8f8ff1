package gateway

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"yurt/internal/fairness"
	"yurt/internal/offline"
	"yurt/internal/replica"
	"yurt/internal/wire"
)

// bodyPatience is how long a client has to send the body of a request that has an
// end.
const bodyPatience = 30 * time.Second

// admit waits for the request's turn. ok is false if there is none: then the
// client has been told to try again.
func (x *exchange) admit(to route) (turn *fairness.Turn, ok bool) {
	// What is opaque may be a watch.
	stream := x.q.Streaming() || x.q.Opaque
	var held int64
	if to == write {
		held = x.r.ContentLength
		if held < 0 {
			held = maxWrite
		}
	}
	turn, err := x.Gate.Enter(x.r.Context(), fairness.Request{Client: x.client(), Stream: stream, Body: min(held, maxWrite)})
	if err != nil {
		x.notAdmitted(err)
		return nil, false
	}
	x.w = chargedWriter{x.w, turn}
	if !stream {
		x.boundBody(to)
	}
	return turn, true
}

// client is who the request's turn is counted for.
func (x *exchange) client() fairness.Client {
	if id := x.caller.Identity; !id.IsNode() && id.Name != "system:node:"+x.Desk.Node {
		return fairness.Client{Name: id.Name}
	}
	return fairness.Client{Node: true}
}

// admitStranger paces those who are nobody, by their address.
func (x *exchange) admitStranger() bool {
	turn, err := x.Gate.Enter(x.r.Context(), fairness.Request{Client: fairness.Client{Name: "address " + addressOf(x.r)}})
	if err != nil {
		x.notAdmitted(err)
		return false
	}
	turn.End()
	return true
}

func addressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func (x *exchange) notAdmitted(err error) {
	var refusal *fairness.RefusalError
	if !errors.As(err, &refusal) {
		panic(http.ErrAbortHandler) // nobody is listening
	}
	seconds := max(1, int(math.Ceil(refusal.RetryAfter.Seconds())))
	x.w.Header().Set("Retry-After", strconv.Itoa(seconds))
	x.reply(offline.StatusReply(x.encoding(), wire.Status{
		Code: http.StatusTooManyRequests, Reason: "TooManyRequests", Message: refusal.Error(),
		Details: &wire.StatusDetails{RetryAfterSeconds: seconds},
	}))
}

// boundBody lets nobody keep a seat by a body that does not come. The body of a
// read is nobody's.
func (x *exchange) boundBody(to route) {
	if x.r.Body == nil || x.r.Body == http.NoBody {
		return
	}
	connection := http.NewResponseController(x.w)
	if connection.SetReadDeadline(time.Now().Add(bodyPatience)) != nil {
		return // nothing comes slowly over this
	}
	r := *x.r
	r.Body = timelyBody{x.r.Body, connection}
	if to != pass && to != write {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	x.r = &r
}

// timelyBody must be read to its end before a deadline. After that the connection
// has none.
type timelyBody struct {
	io.ReadCloser
	connection *http.ResponseController
}

func (b timelyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.connection.SetReadDeadline(time.Time{}) // it was supported before
	}
	return n, err
}

// chargedWriter counts what a turn costs. What an upgraded connection carries
// costs nothing.
type chargedWriter struct {
	http.ResponseWriter
	turn *fairness.Turn
}

func (w chargedWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.turn.Sent(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (w chargedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// affordable: each collection is a feed upstream and a table on the disk. A
// client that has opened as many as it may is passed on to the API server for
// more.
func (x *exchange) affordable(to route) route {
	if to != watchReplica && to != listReplica || x.client().Node {
		return to
	}
	key := replica.KeyOf(x.q, x.representation, x.caller.Identity)
	if _, ok := x.Replicas.Lookup(key); ok || x.Replicas.MayOpen(x.caller.Identity) {
		return to
	}
	return pass
}

// tooLong answers as the API server does.
func (x *exchange) tooLong() {
	x.status(http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "Request entity too large: limit is "+strconv.Itoa(maxWrite))
}
