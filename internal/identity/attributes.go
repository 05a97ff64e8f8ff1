package identity

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"

	"yurt/internal/request"
)

// Attributes is what somebody wants to do, as the API server's authorizers see
// it: a list is no watch, and a list of one name is about that name.
type Attributes struct {
	Verb          request.Verb
	Resource      request.Resource // empty for a path that is none
	Subresource   string
	Namespace     string
	Name          string
	LabelSelector string
	FieldSelector string
	Path          string // of what is no resource
}

// AttributesOf returns those of a request. They follow the API server's
// RequestInfoFactory.
func AttributesOf(q *request.Request, path string) Attributes {
	if q.Resource.Resource == "" {
		return Attributes{Verb: q.Verb, Path: path}
	}
	a := Attributes{
		Verb: q.Verb, Resource: q.Resource, Subresource: q.Subresource, Namespace: q.Namespace, Name: q.Name,
		LabelSelector: q.Options.LabelSelector, FieldSelector: q.Options.FieldSelector,
	}
	if q.Verb == request.List || q.Verb == request.Watch {
		if selector, err := fields.ParseSelector(a.FieldSelector); err == nil {
			if name, ok := selector.RequiresExactMatch("metadata.name"); ok {
				a.Name = name
			}
		}
	}
	if q.Resource.Group == "" && q.Resource.Resource == "namespaces" && a.Namespace == "" {
		a.Namespace = q.Name // a namespace is in itself; one that a list selects is not
	}
	return a
}

// spec is the attributes' part of a SubjectAccessReview's.
func (a Attributes) spec() map[string]any {
	if a.Resource.Resource == "" {
		return map[string]any{"nonResourceAttributes": map[string]string{"path": a.Path, "verb": string(a.Verb)}}
	}
	attributes := map[string]any{
		"verb": a.Verb, "group": a.Resource.Group, "version": a.Resource.Version, "resource": a.Resource.Resource,
		"subresource": a.Subresource, "namespace": a.Namespace, "name": a.Name,
	}
	// KEP-4601: an authorizer may allow what it would not allow without.
	if a.LabelSelector != "" {
		attributes["labelSelector"] = map[string]string{"rawSelector": a.LabelSelector}
	}
	if a.FieldSelector != "" {
		attributes["fieldSelector"] = map[string]string{"rawSelector": a.FieldSelector}
	}
	return map[string]any{"resourceAttributes": attributes}
}

// other is the same with list for watch, and the other way round: a client that
// starts again in the dark may begin with either. ok is false for what is
// neither.
func (a Attributes) other() (other Attributes, ok bool) {
	switch a.Verb {
	case request.List:
		a.Verb = request.Watch
	case request.Watch:
		a.Verb = request.List
	default:
		return a, false
	}
	return a, true
}

// kind is the part of a key that grants of one kind in one namespace share.
func (a Attributes) kind() string {
	return fmt.Sprintf("%q %q %q", a.Resource.GroupResource(), a.Namespace, a.Path)
}

func (a Attributes) key() string {
	return fmt.Sprintf("%s %s %q %q %q %q %q", a.kind(), a.Verb, a.Resource.Version, a.Subresource, a.Name, a.LabelSelector, a.FieldSelector)
}
