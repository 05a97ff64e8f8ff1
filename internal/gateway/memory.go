package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"yurt/internal/credential"
	"yurt/internal/forward"
	"yurt/internal/offline"
	"yurt/internal/replica"
	"yurt/internal/request"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// Memory finds the newest that the hub knows of an object: among the answers
// that it remembers and the replicas that hold it. Absence counts as knowledge
// where a replica that covers the name has reached the version of whatever else
// is known; otherwise a deleted object would come back.
type Memory struct {
	Answers  *offline.Book
	Replicas *replica.Set
	Link     Link
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

// key is under what the answer is remembered. What is no resource comes in forms
// of its own (aggregated discovery), which only the header tells apart.
func (k question) key() string {
	form := k.accept
	if k.splittable && k.q.Resource.Resource != "" {
		form = k.representation.String()
	}
	o := k.q.Options
	return fmt.Sprintf("%q %q %s %q %q %d", k.identity.Name, form, k.path, o.LabelSelector, o.FieldSelector, o.Limit)
}

func (k question) object() bool {
	return k.q.Verb == request.Get && k.q.Resource.Resource != "" && k.q.Subresource == ""
}

// known is an answer, or the knowledge that there is nothing.
type known struct {
	offline.Answer
	absent bool
}

// best returns the newest that is known here. ok is false if that is nothing, or
// if an object is known to have gone and may have come back since.
func (m *Memory) best(k question) (best known, ok bool) {
	best.Answer, ok = m.Answers.Recall(k.key())
	if !k.object() {
		return best, ok
	}
	seen := best.Revision // the newest version at which the object existed
	var gone uint64       // the newest version at which it did not
	proven, doubt := false, false
	for _, c := range m.Replicas.Holding(k.identity, k.q.Resource, k.q.Namespace) {
		object, at, found, err := c.Get(k.q.Namespace, k.q.Name)
		switch {
		case err != nil:
			doubt = true
		case found && object.Revision >= best.Revision && k.takes(c, object):
			best.Answer = offline.Answer{ContentType: object.ContentType, Revision: object.Revision, Body: object.Body, At: c.FreshAt()}
			ok, seen = true, max(seen, object.Revision)
		case found:
			seen = max(seen, object.Revision)
		case c.Covers(k.q.Resource, k.q.Namespace, k.q.Name) && at > gone:
			gone, proven = at, m.frozen(c)
		}
	}
	switch {
	case gone <= seen:
		return best, ok
	case proven && !doubt:
		return known{absent: true}, true
	}
	return known{}, false // what is known is older than its end
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

// takes tells whether the client can read an object as the collection has it.
func (k question) takes(c *replica.Collection, object replica.Object) bool {
	if !k.splittable || c.Representation.Transform != k.representation.Transform {
		return false
	}
	encoding, _ := wire.ParseContentType(object.ContentType)
	switch k.representation.Preference {
	case wire.OnlyJSON:
		return encoding == wire.JSON
	case wire.OnlyProtobuf:
		return encoding == wire.Protobuf
	}
	return true
}

// note remembers an answer, unless a replica holds the same or newer. It drops
// the remembered one of an object that has gone, or that may no longer be read.
// No refusal is remembered: the node authorizer lags behind the scheduler, for
// which reason the node's own answers also survive one.
func (m *Memory) note(ctx context.Context, k question, a forward.Answer) error {
	switch {
	case a.Code == http.StatusNotFound && k.object() && saysGone(k.q, a),
		a.Code == http.StatusForbidden && !k.identity.IsNode():
		return m.drop(ctx, k)
	case a.Code != http.StatusOK:
		return nil
	}
	answer := offline.Answer{ContentType: a.ContentType, At: time.Now(), Body: a.Body}
	if k.q.Resource.Resource != "" {
		var ok bool
		if answer.Revision, ok = revisionOf(k, a); !ok {
			return nil
		}
	}
	if k.object() && m.held(k, answer.Revision) {
		return nil
	}
	return m.Answers.Keep(ctx, k.key(), answer)
}

func (m *Memory) drop(ctx context.Context, k question) error {
	if _, ok := m.Answers.Recall(k.key()); !ok {
		return nil
	}
	return m.Answers.Forget(ctx, k.key())
}

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
		return err == nil && found && object.Revision >= revision && k.takes(c, object)
	})
}

// revisionOf returns the version of an object or of a complete list; ok is
// false for anything that is not worth remembering.
func revisionOf(k question, a forward.Answer) (uint64, bool) {
	encoding, ok := wire.ParseContentType(a.ContentType)
	if !ok {
		return 0, false
	}
	var version string
	if k.q.Verb == request.List {
		list, err := wire.ReadList(bytes.NewReader(a.Body), encoding, len(a.Body)+1, func(wire.Item) error { return nil })
		if err != nil || list.Continue != "" {
			return 0, false
		}
		version = list.ResourceVersion
	} else {
		item, tm, err := wire.ParseObject(encoding, a.Body)
		if err != nil || tm.Kind == "Status" {
			return 0, false
		}
		version = item.ResourceVersion
	}
	revision, err := strconv.ParseUint(version, 10, 64)
	return revision, err == nil
}

// written notes what a successful write says of an object that is remembered.
func (m *Memory) written(ctx context.Context, k question, verb request.Verb, a forward.Answer) error {
	if k.q.Subresource != "" && k.q.Subresource != "status" {
		return nil
	}
	if verb == request.Delete {
		return m.Answers.Forget(ctx, k.key())
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
