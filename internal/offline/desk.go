package offline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// reviewAge is how old the remembered answer to a TokenReview or
// SubjectAccessReview may be. The kubelet asks who may call its own port.
const reviewAge = 24 * time.Hour

// Objects finds what the hub knows of an object, as the answer to a get in an
// encoding.
type Objects interface {
	Known(identity credential.Identity, resource request.Resource, namespace, name string, encoding wire.Encoding) (body []byte, ok bool)
}

// Desk answers writes while the cloud is away.
type Desk struct {
	Node    string
	Objects Objects
	Answers *Book // to tokens and reviews
	Journal *Journal
	Overlay *overlay.Overlay // nil: pod status is refused

	mu    sync.Mutex
	lease []byte // the node's lease as the kubelet wrote it last, in its encoding
}

// Write is one write, read whole.
type Write struct {
	Request    *request.Request
	Method     string
	Path       string // with the query
	Body       []byte
	Encoding   wire.Encoding // of Body; 0 if it is neither JSON nor protobuf
	MediaType  string        // the Content-Type header
	Answer     wire.Encoding // that the client takes
	Credential credential.Credential
}

// Reply is what the client is told.
type Reply struct {
	Code        int
	ContentType string
	Body        []byte
}

// Outage is why there is no better answer.
type Outage struct {
	Since  time.Time
	Reason string
}

func (o Outage) String() string {
	return fmt.Sprintf("the cloud has been away since %s (%s)", o.Since.UTC().Format(time.RFC3339), o.Reason)
}

// Serve answers a write.
func (d *Desk) Serve(ctx context.Context, w Write, outage Outage) Reply {
	kind := decide(w.Request, d.Node)
	switch kind {
	case lease, nodeCreate, nodeStatus, podCreate, podStatus:
		if !d.isNode(w.Credential.Identity) {
			kind = refuse // only the kubelet is told that its own heartbeat is well, and what is there
		}
	}
	switch kind {
	case lease:
		return d.holdLease(w, outage)
	case nodeCreate:
		return d.nodeExists(w, outage)
	case nodeStatus:
		return d.knownNode(w, outage)
	case eventCreate:
		return d.createEvent(ctx, w, outage)
	case eventPatch:
		return d.patchEvent(ctx, w, outage)
	case token:
		return d.recall(w, outage, 0)
	case review:
		return d.recall(w, outage, reviewAge)
	case podCreate:
		return d.mirrorPod(w, outage)
	case podStatus:
		return d.holdStatus(ctx, w, outage)
	}
	return Unavailable(w.Answer, outage, "")
}

// isNode tells whether an identity is this node's kubelet, by whatever credential.
func (d *Desk) isNode(identity credential.Identity) bool {
	return identity.IsNode() || identity.Name == "system:node:"+d.Node
}

// Unavailable is the answer to what can't be had before the cloud is back. It
// has no Retry-After: client-go would sleep and repeat it ten times, and the
// kubelet's status loop stand still.
func Unavailable(encoding wire.Encoding, outage Outage, what string) Reply {
	message := outage.String()
	if what != "" {
		message = what + ": " + message
	}
	return StatusReply(encoding, wire.Status{Code: http.StatusServiceUnavailable, Reason: "ServiceUnavailable", Message: message})
}

// StatusReply is a Status as an answer.
func StatusReply(encoding wire.Encoding, s wire.Status) Reply {
	return Reply{Code: s.Code, ContentType: wire.ContentType(encoding, false), Body: wire.AppendStatus(nil, encoding, s)}
}

func objectReply(code int, encoding wire.Encoding, body []byte) Reply {
	return Reply{Code: code, ContentType: wire.ContentType(encoding, false), Body: body}
}

// errEncoding: the API server may read this body; the hub does not.
var errEncoding = errors.New("the request is in an encoding that is not read here")

// object reads the object that w writes.
func (w Write) object() (wire.Item, error) {
	if w.Encoding == 0 {
		return wire.Item{}, errEncoding
	}
	item, _, err := wire.ParseObject(w.Encoding, w.Body)
	return item, err
}

// unreadable is the answer to a body that makes no sense, or none here.
func unreadable(w Write, outage Outage, err error) Reply {
	if errors.Is(err, errEncoding) {
		return Unavailable(w.Answer, outage, err.Error())
	}
	return StatusReply(w.Answer, wire.Status{Code: http.StatusBadRequest, Reason: "BadRequest", Message: "read request body: " + err.Error()})
}

// holdLease echoes the lease: it carries the cloud's last resourceVersion, so
// that the first update after the heal matches.
func (d *Desk) holdLease(w Write, outage Outage) Reply {
	if _, err := w.object(); err != nil {
		return unreadable(w, outage, err)
	}
	if w.Encoding != w.Answer {
		return Unavailable(w.Answer, outage, "the lease can't be answered in another encoding")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lease = w.Body
	return objectReply(http.StatusOK, w.Answer, w.Body)
}

// Lease returns the node's lease to the node, if it was written since the hub's
// start.
func (d *Desk) Lease(q *request.Request, identity credential.Identity, encoding wire.Encoding) (Reply, bool) {
	if q.Verb != request.Get || !isLease(q, d.Node) || !d.isNode(identity) {
		return Reply{}, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, _, err := wire.ParseObject(encoding, d.lease); err != nil {
		return Reply{}, false // there is none, or it is in another encoding
	}
	return objectReply(http.StatusOK, encoding, d.lease), true
}

// NoteLease keeps the answer to a lease update that reached the API server.
func (d *Desk) NoteLease(q *request.Request, body []byte) {
	if decide(q, d.Node) != lease {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lease = body
}

var (
	nodes = request.Resource{Version: "v1", Resource: "nodes"}
	pods  = request.Resource{Version: "v1", Resource: "pods"}
)

// nodeExists lets a restarted kubelet go on: it creates its node first of all,
// and takes AlreadyExists for an answer.
func (d *Desk) nodeExists(w Write, outage Outage) Reply {
	item, err := w.object()
	if err != nil {
		return unreadable(w, outage, err)
	}
	if item.Name != d.Node {
		return Unavailable(w.Answer, outage, "")
	}
	if _, ok := d.Objects.Known(w.Credential.Identity, nodes, "", d.Node, w.Answer); !ok {
		return Unavailable(w.Answer, outage, "node "+d.Node+" is not known here")
	}
	return alreadyExists(w.Answer, "nodes", d.Node)
}

func (d *Desk) knownNode(w Write, outage Outage) Reply {
	body, ok := d.Objects.Known(w.Credential.Identity, nodes, "", d.Node, w.Answer)
	if !ok {
		return Unavailable(w.Answer, outage, "node "+d.Node+" is not known here")
	}
	return objectReply(http.StatusOK, w.Answer, body)
}

func (d *Desk) mirrorPod(w Write, outage Outage) Reply {
	item, err := w.object()
	if err != nil {
		return unreadable(w, outage, err)
	}
	if _, ok := d.Objects.Known(w.Credential.Identity, w.Request.Resource, w.Request.Namespace, item.Name, w.Answer); !ok {
		return Unavailable(w.Answer, outage, "")
	}
	return alreadyExists(w.Answer, "pods", item.Name)
}

func alreadyExists(encoding wire.Encoding, resource, name string) Reply {
	return StatusReply(encoding, wire.Status{
		Code: http.StatusConflict, Reason: "AlreadyExists",
		Message: fmt.Sprintf("%s %q already exists", resource, name),
		Details: &wire.StatusDetails{Name: name, Kind: resource},
	})
}

// createEvent accepts an event as the API server would, but for what only it
// can give: uid and resourceVersion.
func (d *Desk) createEvent(ctx context.Context, w Write, outage Outage) Reply {
	item, err := w.object()
	if err != nil {
		return unreadable(w, outage, err)
	}
	if item.Name == "" {
		return Unavailable(w.Answer, outage, "an event without a name could be written twice")
	}
	e, err := decodeEvent(w.Request, w.Encoding, w.Body)
	if err != nil {
		return unreadable(w, outage, err)
	}
	return d.journal(ctx, w, e, http.StatusCreated, outage)
}

func (d *Desk) patchEvent(ctx context.Context, w Write, outage Outage) Reply {
	if !mergePatch(w.MediaType) {
		return unreadable(w, outage, errEncoding)
	}
	var base event
	created, ok := d.Journal.Last(func(e Entry) bool {
		path, _, _ := strings.Cut(e.Path, "?")
		return e.Method == http.MethodPost && e.Identity == w.Credential.Identity.Name &&
			w.Request.Resource.Path(w.Request.Namespace) == path && namesEvent(w.Request, e)
	})
	if ok {
		encoding, _ := wire.ParseContentType(created.ContentType)
		base, _ = decodeEvent(w.Request, encoding, created.Body) // it was decoded when it was taken in
	}
	e, err := patchEvent(w.Request, base, w.Body)
	if err != nil {
		return unreadable(w, outage, err)
	}
	return d.journal(ctx, w, e, http.StatusOK, outage)
}

// mergePatch tells whether a patch is one that a recorder sends. Any other may
// mean something else when it is applied a second time.
func mergePatch(contentType string) bool {
	mediaType, _, _ := mime.ParseMediaType(contentType) // a malformed one is no patch
	return mediaType == "application/strategic-merge-patch+json" || mediaType == "application/merge-patch+json"
}

func namesEvent(q *request.Request, e Entry) bool {
	encoding, ok := wire.ParseContentType(e.ContentType)
	if !ok {
		return false
	}
	item, _, err := wire.ParseObject(encoding, e.Body)
	return err == nil && item.Name == q.Name
}

func (d *Desk) journal(ctx context.Context, w Write, e event, code int, outage Outage) Reply {
	body, err := encodeEvent(w.Request, w.Answer, e)
	if err != nil {
		return unreadable(w, outage, err)
	}
	entry := Entry{Method: w.Method, Path: w.Path, ContentType: w.MediaType, At: time.Now(), Body: w.Body}
	if err := d.Journal.Append(ctx, entry, w.Credential); err != nil {
		return Unavailable(w.Answer, outage, err.Error())
	}
	return objectReply(code, w.Answer, body)
}

// question names a token request or review: the same client asks the same thing
// in the same bytes.
func question(w Write) string {
	sum := sha256.Sum256(append([]byte(w.MediaType+"\x00"), w.Body...))
	return fmt.Sprintf("%q %s %s %s", w.Credential.Identity.Name, w.Answer, w.Path, hex.EncodeToString(sum[:]))
}

// Asked remembers the API server's answer to a token request or review. Only an
// answer takes the place of an answer: a token that can't be renewed stays.
func (d *Desk) Asked(ctx context.Context, w Write, contentType string, body []byte) error {
	err := d.Answers.Keep(ctx, question(w), Answer{ContentType: contentType, At: time.Now(), Body: body})
	if decide(w.Request, d.Node) == token {
		err = errors.Join(err, d.dropTokens(ctx, w))
	}
	return err
}

// recall gives the last answer to the same question, if it is not older than
// maxAge. For a token 0 means any age: an expired one still lets the kubelet
// start the pod, and the API server's word on it stays final.
func (d *Desk) recall(w Write, outage Outage, maxAge time.Duration) Reply {
	a, ok := d.Answers.Recall(question(w))
	if !ok || maxAge > 0 && time.Since(a.At) > maxAge {
		return Unavailable(w.Answer, outage, "no answer to this is known from before")
	}
	return Reply{Code: http.StatusCreated, ContentType: a.ContentType, Body: a.Body}
}
