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
	"yurt/internal/wire"
)

// Memory finds the newest that the hub knows of an object: among the answers
// that it remembers and the replicas that hold it. Absence counts as knowledge
// where a replica that covers the name has reached the version of whatever else
// is known; otherwise a deleted object would come back.
type Memory struct {
	Answers  *offline.Book
	Replicas *replica.Set
}

// question is a read, apart from how fresh its answer must be.
type question struct {
	q              *request.Request
	identity       credential.Identity
	accept         string
	representation wire.Representation
	splittable     bool
	path           string
}

// key is under what the answer is remembered.
func (k question) key() string {
	form := k.accept
	if k.splittable {
		form = k.representation.String()
	}
	o := k.q.Options
	return fmt.Sprintf("%s %q %s %q %q %d", k.identity.Name, form, k.path, o.LabelSelector, o.FieldSelector, o.Limit)
}

func (k question) object() bool {
	return k.q.Verb == request.Get && k.q.Resource.Resource != "" && k.q.Subresource == ""
}

// known is an answer, or the knowledge that there is nothing.
type known struct {
	offline.Answer
	absent bool
}

// best returns the newest that is known here.
func (m *Memory) best(k question) (known, bool) {
	remembered, ok := m.Answers.Recall(k.key())
	best := known{Answer: remembered}
	if !k.object() {
		return best, ok
	}
	for _, c := range m.Replicas.Holding(k.identity, k.q.Resource, k.q.Namespace) {
		object, at, found, err := c.Get(k.q.Namespace, k.q.Name)
		switch {
		case err != nil:
			continue
		case !found && at >= best.Revision && c.Covers(k.q.Resource, k.q.Namespace, k.q.Name):
			return known{absent: true}, true
		case found && object.Revision >= best.Revision && k.takes(c, object):
			best = known{Answer: offline.Answer{ContentType: object.ContentType, Revision: object.Revision, Body: object.Body, At: c.FreshAt()}}
			ok = true
		}
	}
	return best, ok
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

// note remembers an answer, unless a replica holds the same or newer.
func (m *Memory) note(ctx context.Context, k question, a forward.Answer) error {
	if a.Code != http.StatusOK {
		return nil // a refusal is never remembered: the node authorizer lags behind the scheduler
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
