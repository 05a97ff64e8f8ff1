package replica

import (
	"fmt"
	"net/url"
	"strings"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// Key is what makes two reads the same list+watch. Selectors are opaque: two
// that mean the same and are spelled differently are two collections.
//
// The identity is part of the key, so that nothing fetched for one is ever
// shown to another.
type Key struct {
	Resource       request.Resource
	Namespace      string // empty: all
	LabelSelector  string
	FieldSelector  string
	Representation wire.Representation
	Identity       credential.Identity
}

// KeyOf returns the key of a list or watch.
func KeyOf(q *request.Request, representation wire.Representation, identity credential.Identity) Key {
	return Key{
		Resource: q.Resource, Namespace: q.Namespace,
		LabelSelector: q.Options.LabelSelector, FieldSelector: q.Options.FieldSelector,
		Representation: representation, Identity: identity,
	}
}

// selectors is the query that selects the collection's objects.
func (k Key) selectors() url.Values {
	v := url.Values{}
	if k.LabelSelector != "" {
		v.Set("labelSelector", k.LabelSelector)
	}
	if k.FieldSelector != "" {
		v.Set("fieldSelector", k.FieldSelector)
	}
	return v
}

// Covers tells whether an object of that name is in the collection if it
// exists at all, so that its absence from the replica proves something.
func (k Key) Covers(resource request.Resource, namespace, name string) bool {
	if k.Resource != resource || k.Namespace != "" && k.Namespace != namespace || k.LabelSelector != "" {
		return false
	}
	return k.FieldSelector == "" || request.SingleName(k.FieldSelector) == name
}

// String is how people and the store know the collection: its URL with the
// identity and the representation before it.
func (k Key) String() string {
	u := url.URL{Path: k.Resource.Path(k.Namespace), RawQuery: k.selectors().Encode()}
	return fmt.Sprintf("%s %s %s", url.QueryEscape(k.Identity.Name), k.Representation, u.String())
}

// ParseKey reads what String wrote.
func ParseKey(s string) (Key, error) {
	parts := strings.SplitN(s, " ", 3)
	if len(parts) != 3 {
		return Key{}, fmt.Errorf("collection %q: want identity, representation and URL", s)
	}
	identity, err := url.QueryUnescape(parts[0])
	if err != nil {
		return Key{}, fmt.Errorf("collection %q: %w", s, err)
	}
	representation, err := wire.ParseRepresentation(parts[1])
	if err != nil {
		return Key{}, fmt.Errorf("collection %q: %w", s, err)
	}
	u, err := url.Parse(parts[2])
	if err != nil {
		return Key{}, fmt.Errorf("collection %q: %w", s, err)
	}
	q := request.ParseURL(u)
	if q.Opaque || q.Verb != request.List {
		return Key{}, fmt.Errorf("collection %q: not the URL of a list", s)
	}
	return KeyOf(q, representation, credential.Identity{Name: identity}), nil
}

// rowKey is an object's place in its collection: the order of these is the
// order of a list of Kubernetes.
func rowKey(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// splitKey reads what rowKey wrote.
func splitKey(key string) (namespace, name string) {
	if namespace, name, ok := strings.Cut(key, "/"); ok {
		return namespace, name
	}
	return "", key
}
