// Package request reads one Kubernetes API request: which resource it names,
// what it wants done with it, and under which list options.
//
// It follows k8s.io/apiserver's RequestInfoFactory for the paths under /api and
// /apis, and guarantees that whatever it does not understand in full (an
// unknown query parameter, a path that two parsers could read differently) is
// marked Opaque: an opaque request may be passed on as it is, and must never be
// answered from anything that the hub keeps. It never rejects a request and
// never looks at a body.
package request

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Verb is what a request does, in the words of Kubernetes' authorization. For
// paths that are not resources it is the lower-case HTTP method.
type Verb string

// The verbs of resource requests.
const (
	Get              Verb = "get"
	List             Verb = "list"
	Watch            Verb = "watch"
	Create           Verb = "create"
	Update           Verb = "update"
	Patch            Verb = "patch"
	Delete           Verb = "delete"
	DeleteCollection Verb = "deletecollection"
)

// Resource names a kind of object as the API's paths do.
type Resource struct {
	Group, Version, Resource string
}

// Path is the resource's URL path, in a namespace unless that is empty:
// /apis/apps/v1/namespaces/default/deployments.
func (r Resource) Path(namespace string) string {
	var b strings.Builder
	if r.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + r.Group + "/")
	}
	b.WriteString(r.Version)
	if namespace != "" {
		b.WriteString("/namespaces/" + namespace)
	}
	b.WriteString("/" + r.Resource)
	return b.String()
}

// String is "resource.version.group", as in "deployments.v1.apps", or
// "pods.v1" for the core group.
func (r Resource) String() string {
	return strings.TrimSuffix(r.Resource+"."+r.Version+"."+r.Group, ".")
}

// GroupResource is "resource.group", as in "deployments.apps", or "pods".
func (r Resource) GroupResource() string { return strings.TrimSuffix(r.Resource+"."+r.Group, ".") }

// Request is one API request, parsed.
type Request struct {
	Verb Verb

	// Resource is empty for a path that is no resource: discovery, /version.
	Resource    Resource
	Namespace   string
	Name        string
	Subresource string // and what follows it: "status", "exec", "proxy/metrics"

	Options Options // of a get, list or watch

	// Discovery: the path says what the API server offers: /api, /apis and
	// what is below them short of a resource, /version, /openapi.
	Discovery bool

	// Upgrade: the client wants another protocol on this connection (exec,
	// attach, port-forward).
	Upgrade bool

	// Opaque: see the package comment.
	Opaque bool
}

// Options are the query parameters of metav1.ListOptions and GetOptions.
type Options struct {
	LabelSelector, FieldSelector string

	ResourceVersion      string
	ResourceVersionMatch string
	Limit                int64
	Continue             string

	AllowWatchBookmarks bool
	SendInitialEvents   *bool
	Timeout             time.Duration // of a watch; 0: the server decides
}

// Parse reads r's method, path, query and Upgrade header.
func Parse(r *http.Request) *Request {
	q := &Request{
		Verb:    Verb(strings.ToLower(r.Method)),
		Upgrade: r.Header.Get("Upgrade") != "",
	}
	if ambiguous(r.URL) {
		q.Opaque = true
		return q
	}
	if !q.parsePath(r.Method, r.URL.Path) {
		q.Discovery = discovery(r.URL.Path)
		return q
	}
	q.parseQuery(r.URL.RawQuery)
	return q
}

// ParseURL reads the URL of a read, as Parse does.
func ParseURL(u *url.URL) *Request {
	return Parse(&http.Request{Method: http.MethodGet, URL: u})
}

// ambiguous tells whether the API server could read the path otherwise than
// this package: encoded slashes, empty or dot segments.
func ambiguous(u *url.URL) bool {
	if u.RawPath != "" && u.RawPath != u.Path {
		return true
	}
	for segment := range strings.SplitSeq(strings.TrimPrefix(strings.TrimSuffix(u.Path, "/"), "/"), "/") {
		if segment == "" && u.Path != "/" || segment == "." || segment == ".." || strings.ContainsAny(segment, "\\%\x00") {
			return true
		}
	}
	return false
}

// parsePath reports whether the path is one of a resource.
func (q *Request) parsePath(method, path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		q.Resource.Version = parts[1]
		parts = parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		q.Resource.Group, q.Resource.Version = parts[1], parts[2]
		parts = parts[3:]
	default:
		return false
	}
	if parts[0] == "watch" || parts[0] == "proxy" { // deprecated path verbs
		q.Opaque = true
		return true
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		q.Namespace = parts[1]
		if len(parts) > 2 && !namespaceSubresource(parts[2]) {
			parts = parts[2:]
		} else { // the namespace itself
			q.Namespace = ""
		}
	}
	q.Resource.Resource = parts[0]
	if len(parts) > 1 {
		q.Name = parts[1]
	}
	if len(parts) > 2 {
		q.Subresource = strings.Join(parts[2:], "/")
	}
	q.Verb = resourceVerb(method, q.Name != "")
	return true
}

func discovery(path string) bool {
	first, _, _ := strings.Cut(strings.Trim(path, "/"), "/")
	return slices.Contains([]string{"api", "apis", "version", "openapi"}, first)
}

func namespaceSubresource(s string) bool { return s == "status" || s == "finalize" }

func resourceVerb(method string, named bool) Verb {
	switch {
	case method == http.MethodGet && named:
		return Get
	case method == http.MethodGet:
		return List
	case method == http.MethodPost:
		return Create
	case method == http.MethodPut:
		return Update
	case method == http.MethodPatch:
		return Patch
	case method == http.MethodDelete && named:
		return Delete
	case method == http.MethodDelete:
		return DeleteCollection
	}
	return Verb(strings.ToLower(method))
}

// parseQuery reads the options of a read. The parameters of writes are the
// API server's business.
func (q *Request) parseQuery(raw string) {
	if q.Verb != Get && q.Verb != List {
		return
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		q.Opaque = true
		return
	}
	for key, values := range query {
		if len(values) != 1 || !q.option(key, values[0]) {
			q.Opaque = true
			return
		}
	}
}

// option takes one parameter and reports whether it is understood.
func (q *Request) option(key, value string) bool {
	o := &q.Options
	var err error
	switch key {
	case "labelSelector":
		o.LabelSelector = value
	case "fieldSelector":
		o.FieldSelector = value
	case "resourceVersion":
		o.ResourceVersion = value
	case "resourceVersionMatch":
		o.ResourceVersionMatch = value
	case "limit":
		o.Limit, err = strconv.ParseInt(value, 10, 64)
	case "continue":
		o.Continue = value
	case "allowWatchBookmarks":
		o.AllowWatchBookmarks = parseBool(value)
	case "sendInitialEvents":
		send := parseBool(value)
		o.SendInitialEvents = &send
	case "timeoutSeconds":
		var seconds int64
		seconds, err = strconv.ParseInt(value, 10, 32)
		o.Timeout = time.Duration(seconds) * time.Second
	case "watch":
		if parseBool(value) && q.Verb == List {
			q.Verb = Watch
		}
	case "timeout": // client-go's; it bounds the request, not the answer
	default:
		return false
	}
	return err == nil
}

// parseBool reads a boolean as Kubernetes' query conversion does: everything
// but "false" and "0" is true, a bare key too.
func parseBool(value string) bool {
	return !slices.Contains([]string{"false", "0"}, strings.ToLower(value))
}

// SingleName returns the name N if the request's selectors are exactly
// metadata.name=N: the list or watch of one object.
func (q *Request) SingleName() string {
	if q.Options.LabelSelector != "" {
		return ""
	}
	return SingleName(q.Options.FieldSelector)
}

// SingleName returns N if the field selector is exactly metadata.name=N.
func SingleName(fieldSelector string) string {
	name, ok := strings.CutPrefix(fieldSelector, "metadata.name=")
	if !ok || strings.ContainsAny(name, ",=!\\") {
		return ""
	}
	return name
}

// Write tells whether the request changes something, as far as its verb says.
// Reviews and tokens are creations, and count as writes.
func (q *Request) Write() bool {
	switch q.Verb {
	case Create, Update, Patch, Delete, DeleteCollection, "post", "put":
		return true
	}
	return false
}

// Streaming tells whether the answer has no end of its own or speaks another
// protocol, so that no deadline can be put on it: exec, attach, port-forward,
// proxies, logs, and watches.
func (q *Request) Streaming() bool {
	if q.Upgrade || q.Verb == Watch {
		return true
	}
	switch first, _, _ := strings.Cut(q.Subresource, "/"); first {
	case "exec", "attach", "portforward", "proxy", "log":
		return true
	}
	return false
}
