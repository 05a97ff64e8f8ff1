package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"yurt/internal/credential"
	"yurt/internal/forward"
	"yurt/internal/offline"
	"yurt/internal/overlay"
	"yurt/internal/replica"
	"yurt/internal/request"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// Memory is what the hub knows of reads: the answers that it remembers, and the
// replicas.
type Memory struct {
	Answers  *offline.Book
	Replicas *replica.Set
	Link     Link
	Overlay  *overlay.Overlay // nil: none
}

// quietWatch is longer than an API server leaves a watch without a bookmark.
const quietWatch = 2 * time.Minute

// question is a read, apart from how fresh its answer must be.
type question struct {
	q              *request.Request
	identity       credential.Identity
	accept         string
	representation wire.Representation
	splittable     bool
	path           string
}

// key is under what the answer is remembered. A limit is no part of it: lists are
// remembered when they are complete. What is no resource comes in forms of its
// own (aggregated discovery), which only the header tells apart.
func (k question) key() string {
	form := k.accept
	if k.splittable && k.q.Resource.Resource != "" {
		form = k.representation.String()
	}
	o := k.q.Options
	return fmt.Sprintf("%q %s %q %q %q", k.identity.Name, k.path, form, o.LabelSelector, o.FieldSelector)
}

// noSelectors ends the keys of lists without selectors.
const noSelectors = ` "" ""`

// below is what the keys of this identity's questions below a path begin with.
func (k question) below(path string) string { return fmt.Sprintf("%q %s", k.identity.Name, path) }

func (k question) object() bool {
	return k.q.Verb == request.Get && k.q.Resource.Resource != "" && k.q.Subresource == ""
}

// best returns the newest that is known here. ok is false if that is nothing, or
// if an object is known to have gone and may have come back since.
func (m *Memory) best(k question) (known, bool) {
	if !k.object() {
		remembered, ok := m.Answers.Recall(k.key())
		return known{Answer: remembered}, ok
	}
	return m.search(k).result()
}

// search looks into all that may know of an object.
func (m *Memory) search(k question) *search {
	s := &search{question: k}
	for _, key := range m.Answers.Questions(k.below(k.path + " ")) {
		if answer, ok := m.Answers.Recall(key); ok {
			s.inAnswer(answer, key == k.key())
		}
	}
	for _, path := range slices.Compact([]string{k.q.Resource.Path(""), k.q.Resource.Path(k.q.Namespace)}) {
		for _, key := range m.Answers.Questions(k.below(path + " ")) {
			if list, ok := m.Answers.Recall(key); ok {
				s.inList(list, strings.HasSuffix(key, noSelectors))
			}
		}
	}
	for _, c := range m.Replicas.Holding(k.identity, k.q.Resource, k.q.Namespace) {
		s.inReplica(c, m.frozen(c))
	}
	return s
}

// frozen tells whether a collection followed the cloud until the cloud went
// away, if it did. One that nobody had asked for lately proves nothing of what
// has been made since.
func (m *Memory) frozen(c *replica.Collection) bool {
	end := time.Now()
	if link := m.Link.Link(); link.State != upstream.Up {
		end = link.Since
	}
	return c.FreshAt().After(end.Add(-quietWatch))
}

// withdraw drops all answers of the kind that a client was refused. No refusal is
// remembered: the node authorizer lags behind the scheduler, for which reason
// the node's own answers also survive one.
func (m *Memory) withdraw(ctx context.Context, k question) error {
	if k.identity.IsNode() || k.q.Resource.Resource == "" {
		return nil
	}
	return m.Answers.Forget(ctx, m.Answers.Questions(k.below(k.q.Resource.Path(k.q.Namespace)))...)
}

// note remembers an answer, unless a replica holds the same or newer.
//
// The error is forward.ErrNotKubernetes for an answer that is none.
func (m *Memory) note(ctx context.Context, k question, a forward.Answer) error {
	switch {
	case a.Code == http.StatusNotFound && k.object() && saysGone(k.q, a):
		s := m.search(k)
		if s.seen == 0 {
			return nil
		}
		return m.bury(ctx, k, s.seen)
	case a.Code != http.StatusOK:
		return nil
	}
	answer := offline.Answer{ContentType: a.ContentType, At: time.Now(), Body: a.Body}
	if k.q.Resource.Resource != "" {
		content, err := examine(k, a)
		if err != nil {
			return err
		}
		if !content.whole || !keepable(k.q.Resource) || k.object() && m.held(k, content.revision) {
			return nil
		}
		answer.Revision = content.revision
	}
	return m.Answers.Keep(ctx, k.key(), answer)
}

// bury remembers that an object which was seen at a version has gone since, so
// that no source that is older brings it back. It is no 404 for later: the object
// may have been made anew.
func (m *Memory) bury(ctx context.Context, k question, seen uint64) error {
	return m.Answers.Keep(ctx, k.key(), offline.Answer{ContentType: tombstone, Revision: seen, At: time.Now()})
}

// tombstone stands for a Content-Type.
const tombstone = "gone"

// saysGone tells whether a 404 is about the object that was asked for, and not
// about its kind or namespace.
func saysGone(q *request.Request, a forward.Answer) bool {
	encoding, ok := wire.ParseContentType(a.ContentType)
	if !ok {
		return false
	}
	item, tm, err := wire.ParseObject(encoding, a.Body)
	if err != nil || !tm.IsStatus() {
		return false
	}
	status, err := wire.ParseStatus(encoding, item.Raw)
	return err == nil && status.Reason == "NotFound" && status.Details != nil && status.Details.Name == q.Name
}

// held tells whether a replica answers the question at this revision or later.
func (m *Memory) held(k question, revision uint64) bool {
	return slices.ContainsFunc(m.Replicas.Holding(k.identity, k.q.Resource, k.q.Namespace), func(c *replica.Collection) bool {
		object, _, found, err := c.Get(k.q.Namespace, k.q.Name)
		return err == nil && found && object.Revision >= revision && k.takes(object.ContentType, c.Representation.Transform)
	})
}

// content is what an answer says.
type content struct {
	whole    bool // an object, or all of a list
	revision uint64
}

// examine reads an answer as far as it must be known. What is in an encoding
// that is not read here is not whole.
func examine(k question, a forward.Answer) (content, error) {
	encoding, ok := wire.ParseContentType(a.ContentType)
	if !ok {
		return content{}, nil
	}
	var c content
	var version string
	if k.q.Verb == request.List {
		list, err := wire.ReadList(bytes.NewReader(a.Body), encoding, len(a.Body)+1, func(wire.Item) error { return nil })
		if err != nil {
			return c, fmt.Errorf("%w: %w", forward.ErrNotKubernetes, err)
		}
		version, c.whole = list.ResourceVersion, list.Continue == ""
	} else {
		item, tm, err := wire.ParseObject(encoding, a.Body)
		if err != nil {
			return c, fmt.Errorf("%w: %w", forward.ErrNotKubernetes, err)
		}
		if tm.IsStatus() {
			return c, fmt.Errorf("%w: a Status in an object's place", forward.ErrNotKubernetes)
		}
		version, c.whole = item.ResourceVersion, true
	}
	var err error
	if c.revision, err = strconv.ParseUint(version, 10, 64); err != nil {
		c.whole = false // an aggregated API's may have none, and no order
	}
	return c, nil
}

// written notes what a successful write says of an object that is remembered.
func (m *Memory) written(ctx context.Context, k question, verb request.Verb, a forward.Answer) error {
	if k.q.Subresource != "" && k.q.Subresource != "status" {
		return nil
	}
	if verb == request.Delete {
		return m.bury(ctx, k, m.search(k).seen)
	}
	if _, ok := m.Answers.Recall(k.key()); !ok {
		return nil
	}
	return m.note(ctx, k, forward.Answer{Code: http.StatusOK, ContentType: a.ContentType, Body: a.Body})
}

// Known returns what is known of an object, in an encoding.
func (m *Memory) Known(identity credential.Identity, resource request.Resource, namespace, name string, encoding wire.Encoding) ([]byte, bool) {
	preference := wire.OnlyJSON
	if encoding == wire.Protobuf {
		preference = wire.OnlyProtobuf
	}
	k := question{
		q:              &request.Request{Verb: request.Get, Resource: resource, Namespace: namespace, Name: name},
		identity:       identity,
		representation: wire.Representation{Preference: preference},
		splittable:     true,
		path:           resource.Path(namespace) + "/" + name,
	}
	best, ok := m.best(k)
	if ok && !best.absent {
		return best.Body, true
	}
	if encoding == wire.Protobuf && !best.absent { // the kubelet's own wording
		k.representation.Preference = wire.ProtobufOrJSON
		if best, ok = m.best(k); ok && !best.absent {
			if got, _ := wire.ParseContentType(best.ContentType); got == encoding {
				return best.Body, true
			}
		}
	}
	return nil, false
}

// HasPod tells whether the node has the pod of that uid, as its kubelet was told.
func (m *Memory) HasPod(namespace, name, uid string) bool {
	pods := request.Resource{Version: "v1", Resource: "pods"}
	return slices.ContainsFunc(m.Replicas.Holding(credential.Node, pods, namespace), func(c *replica.Collection) bool {
		object, _, found, err := c.Get(namespace, name)
		if err != nil || !found {
			return false
		}
		encoding, _ := wire.ParseContentType(object.ContentType) // the replica has no other
		item, _, err := wire.ParseObject(encoding, object.Body)
		return err == nil && item.UID == uid
	})
}

// notFound is the API server's answer to a get of what does not exist.
func notFound(encoding wire.Encoding, q *request.Request) offline.Reply {
	return offline.StatusReply(encoding, wire.Status{
		Code: http.StatusNotFound, Reason: "NotFound",
		Message: fmt.Sprintf("%s %q not found", groupResource(q.Resource), q.Name),
		Details: &wire.StatusDetails{Name: q.Name, Group: q.Resource.Group, Kind: q.Resource.Resource},
	})
}

func groupResource(r request.Resource) string {
	if r.Group == "" {
		return r.Resource
	}
	return r.Resource + "." + r.Group
}
