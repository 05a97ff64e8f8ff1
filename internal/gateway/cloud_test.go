package gateway

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// cloud is an API server, with what stands between it and the node. It keeps to
// the protocol in JSON and protobuf, for objects of any kind that have data and
// no more; its link, its mood and its grants are the test's to change.
type cloud struct {
	mu       sync.Mutex
	link     upstream.Link
	changed  chan struct{}
	revision uint64
	objects  map[string]object // by collection path and name
	events   []event
	floor    uint64        // events up to here are forgotten
	wake     chan struct{} // something happened that streams look at
	broken   int           // how often streams have been broken
	seen     []string      // requests, since the last look
	suspects int

	tokens  map[string]tokenOwner // of valid tokens
	denied  map[string]bool       // "user path prefix", or "user verb:path prefix"
	reviews []string              // of access, since the last look
	mood    string                // "", "hang", "slow", "lose"
	balance *canned               // what a load balancer answers in the API server's place
	cut     int                   // items after which a list breaks off
}

// slowness is how long a slow cloud takes for an answer.
const slowness = 5 * time.Second

type object struct {
	path, uid, value string
	revision         uint64
}

func (o object) collection() string { return o.path[:strings.LastIndexByte(o.path, '/')] }
func (o object) name() string       { return o.path[strings.LastIndexByte(o.path, '/')+1:] }

type event struct {
	typ wire.EventType
	object
}

// tokenOwner is a user, and the pod that the token is bound to, if any.
type tokenOwner struct{ user, namespace, pod, uid string }

type canned struct {
	code              int
	contentType, body string
}

func newCloud() *cloud {
	return &cloud{
		link: upstream.Link{State: upstream.Up, Since: time.Now()}, changed: make(chan struct{}), wake: make(chan struct{}),
		revision: 100, floor: 100, objects: map[string]object{},
		tokens: map[string]tokenOwner{"alice-token": {user: "alice"}, "bob-token": {user: "bob"}}, denied: map[string]bool{},
	}
}

func (c *cloud) Link() upstream.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link
}

func (c *cloud) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *cloud) WaitUp(ctx context.Context) error {
	for {
		changed := c.Changed()
		if c.Link().State == upstream.Up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *cloud) WaitKnown(context.Context) {}

func (c *cloud) Suspect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.suspects++
}

// set changes the link, and breaks all streams.
func (c *cloud) set(state upstream.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link.State != state {
		c.link = upstream.Link{State: state, Since: time.Now()}
		if state == upstream.Down {
			c.link.Reason = "no answer"
		}
		close(c.changed)
		c.changed = make(chan struct{})
	}
	c.breakStreams()
}

func (c *cloud) breakStreams() {
	c.broken++
	c.stir()
}

func (c *cloud) stir() {
	close(c.wake)
	c.wake = make(chan struct{})
}

// put makes a new version of an object, or a new object.
func (c *cloud) put(path, value string) object {
	c.revision++
	typ := wire.Modified
	o, ok := c.objects[path]
	if !ok {
		typ, o = wire.Added, object{path: path, uid: fmt.Sprintf("uid-%d", c.revision)}
	}
	o.value, o.revision = value, c.revision
	c.objects[path] = o
	c.events = append(c.events, event{typ, o})
	c.stir()
	return o
}

func (c *cloud) remove(path string) {
	o, ok := c.objects[path]
	if !ok {
		return
	}
	c.revision++
	o.revision = c.revision
	delete(c.objects, path)
	c.events = append(c.events, event{wire.Deleted, o})
	c.stir()
}

// RoundTrip answers as the API server, or what is in its place, does.
func (c *cloud) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	q := request.Parse(r)
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link.State != upstream.Up {
		return nil, fmt.Errorf("%w: %s", upstream.ErrDown, c.link.Reason)
	}
	c.note(r, cred)
	if c.mood == "hang" {
		c.mu.Unlock()
		<-r.Context().Done()
		c.mu.Lock()
		return nil, context.Cause(r.Context())
	}
	if c.balance != nil {
		return respond(c.balance.code, c.balance.contentType, []byte(c.balance.body), false), nil
	}
	resp := c.serve(r, q, cred, body)
	if c.mood == "slow" {
		c.mu.Unlock()
		select {
		case <-time.After(slowness):
		case <-r.Context().Done():
		}
		c.mu.Lock()
		if r.Context().Err() != nil {
			return nil, context.Cause(r.Context())
		}
	}
	if c.mood == "lose" {
		return nil, &upstream.UnreachableError{Server: "cloud", Err: errors.New("connection reset by peer")}
	}
	return resp, nil
}

func (c *cloud) note(r *http.Request, cred credential.Credential) {
	line := r.Method + " " + r.URL.RequestURI() + " as " + cred.String()
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			line += " " + name + "=" + r.Header.Get(name)
		}
	}
	c.seen = append(c.seen, line)
}

func (c *cloud) serve(r *http.Request, q *request.Request, cred credential.Credential, body []byte) *http.Response {
	representation, _ := wire.Negotiate(r.Header.Get("Accept"))
	enc := wire.JSON
	if representation.Preference != wire.OnlyJSON {
		enc = wire.Protobuf
	}
	user := cred.Identity.String()
	if !cred.Identity.IsNode() && !c.valid(cred.Token) {
		return refusal(enc, http.StatusUnauthorized, "Unauthorized", "")
	}
	if c.denies(user, q.Verb, r.URL.Path) {
		return refusal(enc, http.StatusForbidden, "Forbidden", q.Name)
	}
	switch {
	case q.Resource.Resource == "tokenreviews":
		return c.review(body)
	case q.Resource.Resource == "subjectaccessreviews":
		return c.reviewAccess(body)
	case q.Discovery:
		return respond(http.StatusOK, "application/json", fmt.Appendf(nil, `{"path":%q,"accept":%q}`+"\n", r.URL.Path, r.Header.Get("Accept")), true)
	case q.Resource.Resource == "":
		return respond(http.StatusNotFound, "text/plain", []byte("404 page not found\n"), true)
	case strings.HasPrefix(q.Subresource, "proxy") || q.Subresource == "log":
		return respond(http.StatusServiceUnavailable, "text/html", []byte("<p>the container's own words</p>"), true)
	case q.Subresource == "figures":
		return respond(http.StatusOK, "application/json", []byte(`{"no":"object"}`), true)
	case q.Verb == request.Watch:
		return c.watch(r.Context(), q, enc)
	case q.Verb == request.List:
		return c.list(q, enc)
	case q.Verb == request.Get:
		if o, ok := c.objects[r.URL.Path]; ok {
			return o.response(enc, http.StatusOK)
		}
		return refusal(enc, http.StatusNotFound, "NotFound", q.Name)
	}
	return c.write(r, q, enc, body)
}

// issue answers a token request in JSON: the token is named after the account.
func (c *cloud) issue(q *request.Request, body []byte) *http.Response {
	var asked authenticationv1.TokenRequest
	if err := json.Unmarshal(body, &asked); err != nil {
		panic(err)
	}
	asked.TypeMeta = metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}
	asked.Status.Token = "issued-for-" + q.Name
	raw, err := json.Marshal(asked)
	if err != nil {
		panic(err)
	}
	return respond(http.StatusCreated, "application/json", raw, true)
}

func (c *cloud) write(r *http.Request, q *request.Request, enc wire.Encoding, body []byte) *http.Response {
	if q.Subresource == "token" && strings.Contains(string(body), "boundObjectRef") {
		return c.issue(q, body)
	}
	if r.URL.Query().Has("dryRun") {
		o := c.objects[r.URL.Path]
		o.value, o.revision = "dry", o.revision+1
		return o.response(enc, http.StatusOK)
	}
	path, code := strings.TrimSuffix(r.URL.Path, "/status"), http.StatusOK
	if q.Verb == request.Create {
		in, _ := wire.ParseContentType(r.Header.Get("Content-Type"))
		item, _, err := wire.ParseObject(in, body)
		if err != nil {
			return refusal(enc, http.StatusBadRequest, "BadRequest", "")
		}
		path, code = path+"/"+item.Name, http.StatusCreated
		if _, ok := c.objects[path]; ok {
			return refusal(enc, http.StatusConflict, "AlreadyExists", item.Name)
		}
	} else if _, ok := c.objects[path]; !ok {
		return refusal(enc, http.StatusNotFound, "NotFound", q.Name)
	}
	if q.Verb == request.Delete {
		c.remove(path)
		return respond(http.StatusOK, wire.ContentType(enc, false), wire.AppendStatus(nil, enc, wire.Status{Code: http.StatusOK}), true)
	}
	return c.put(path, "written").response(enc, code)
}

func (c *cloud) review(body []byte) *http.Response {
	var review struct{ Spec struct{ Token string } }
	if err := json.Unmarshal(body, &review); err != nil {
		return refusal(wire.JSON, http.StatusBadRequest, "BadRequest", "")
	}
	var answer authenticationv1.TokenReview
	if c.valid(review.Spec.Token) {
		owner := c.tokens[review.Spec.Token]
		answer.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: owner.user}}
		if owner.uid != "" {
			answer.Status.User.Extra = map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/pod-name":      {owner.pod},
				"authentication.kubernetes.io/pod-uid":       {owner.uid},
				"authentication.kubernetes.io/credential-id": {"JTI=" + review.Spec.Token},
			}
		}
	}
	raw, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return respond(http.StatusCreated, "application/json", raw, true)
}

// valid: a token dies with its pod.
func (c *cloud) valid(token string) bool {
	owner, ok := c.tokens[token]
	if owner.uid == "" {
		return ok
	}
	pod, exists := c.objects["/api/v1/namespaces/"+owner.namespace+"/pods/"+owner.pod]
	return exists && pod.uid == owner.uid
}

func (c *cloud) denies(user string, verb request.Verb, path string) bool {
	for rule := range c.denied {
		who, prefix, _ := strings.Cut(rule, " ")
		if who == user && (strings.HasPrefix(path, prefix) || strings.HasPrefix(string(verb)+":"+path, prefix)) {
			return true
		}
	}
	return false
}

// reviewAccess says what the same request of that user would be told.
func (c *cloud) reviewAccess(body []byte) *http.Response {
	var review authorizationv1.SubjectAccessReview
	if err := json.Unmarshal(body, &review); err != nil {
		return refusal(wire.JSON, http.StatusBadRequest, "BadRequest", "")
	}
	a := review.Spec.ResourceAttributes
	path := request.Resource{Group: a.Group, Version: a.Version, Resource: a.Resource}.Path(a.Namespace)
	if a.Name != "" {
		path += "/" + a.Name
	}
	line := fmt.Sprintf("may %s %s %s", review.Spec.User, a.Verb, path)
	if a.FieldSelector != nil {
		line += " where " + a.FieldSelector.RawSelector
	}
	if pod := review.Spec.Extra["authentication.kubernetes.io/pod-uid"]; len(pod) > 0 {
		line += " in pod " + pod[0]
	}
	c.reviews = append(c.reviews, line)
	return respond(http.StatusCreated, "application/json",
		fmt.Appendf(nil, `{"kind":"SubjectAccessReview","status":{"allowed":%t}}`, !c.denies(review.Spec.User, request.Verb(a.Verb), path)), true)
}

// Certificate: the hub has none of its own here, and none is expired.
func (c *cloud) Certificate(credential.Identity) *x509.Certificate { return nil }

// list honours a limit; the token says where to go on.
func (c *cloud) list(q *request.Request, enc wire.Encoding) *http.Response {
	path := q.Resource.Path(q.Namespace)
	var all []object
	for _, o := range c.objects {
		if o.collection() == path && (q.SingleName() == "" || q.SingleName() == o.name()) {
			all = append(all, o)
		}
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.path, b.path) })
	meta := wire.ListMeta{ResourceVersion: strconv.FormatUint(c.revision, 10)}
	at, _ := strconv.Atoi(q.Options.Continue)
	all = all[min(at, len(all)):]
	if limit := int(q.Options.Limit); limit > 0 && limit < len(all) {
		all = all[:limit]
		meta.Continue = strconv.Itoa(at + limit)
	}
	var body bytes.Buffer
	kind := kindOf(path)
	var size int64
	for _, o := range all {
		size += wire.ItemSize(len(o.item(enc)))
	}
	envelope := wire.Envelope{List: wire.TypeMeta{APIVersion: "v1", Kind: kind + "List"}, Item: wire.TypeMeta{APIVersion: "v1", Kind: kind}}
	w := wire.NewListWriter(&body, enc, envelope, meta, size)
	for _, o := range all {
		if err := w.WriteItem(o.item(enc)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	if c.cut > 0 {
		return respond(http.StatusOK, wire.ContentType(enc, false), body.Bytes()[:body.Len()-c.cut], true)
	}
	return respond(http.StatusOK, wire.ContentType(enc, false), body.Bytes(), true)
}

// watch streams what came after a version, until the link breaks.
func (c *cloud) watch(ctx context.Context, q *request.Request, enc wire.Encoding) *http.Response {
	from, err := strconv.ParseUint(q.Options.ResourceVersion, 10, 64)
	if err != nil || from < c.floor {
		return refusal(enc, http.StatusGone, "Expired", "")
	}
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	go c.stream(ctx, w, q, enc, from, c.broken)
	resp := respond(http.StatusOK, wire.ContentType(enc, true), nil, true)
	resp.Body = r
	return resp
}

func (c *cloud) stream(ctx context.Context, w *io.PipeWriter, q *request.Request, enc wire.Encoding, from uint64, broken int) {
	path := q.Resource.Path(q.Namespace)
	kind := wire.TypeMeta{APIVersion: "v1", Kind: kindOf(path)}
	for {
		c.mu.Lock()
		wake, lost := c.wake, c.broken != broken
		var frames []byte
		for _, e := range c.events {
			if e.revision <= from {
				continue
			}
			from = e.revision
			if e.collection() == path && (q.SingleName() == "" || q.SingleName() == e.name()) {
				frames = wire.AppendEvent(frames, enc, e.typ, kind, e.item(enc))
			}
		}
		c.mu.Unlock()
		if lost {
			w.CloseWithError(errors.New("connection lost"))
			return
		}
		if _, err := w.Write(frames); err != nil {
			return
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

func kindOf(path string) string {
	resource := path[strings.LastIndexByte(path, '/')+1:]
	return cmp.Or(map[string]string{"configmaps": "ConfigMap", "secrets": "Secret", "pods": "Pod", "nodes": "Node", "leases": "Lease", "events": "Event"}[resource], "Thing")
}

// item is an object in item form. Every kind has the shape of a ConfigMap.
func (o object) item(enc wire.Encoding) []byte {
	m := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.name(), UID: types.UID(o.uid), ResourceVersion: strconv.FormatUint(o.revision, 10)}, Data: map[string]string{"v": o.value}}
	if o.name() == "kube-root-ca.crt" {
		m.Data = map[string]string{"ca.crt": o.value}
	}
	if _, rest, ok := strings.Cut(o.path, "/namespaces/"); ok {
		m.Namespace, _, _ = strings.Cut(rest, "/")
	}
	var raw []byte
	var err error
	if enc == wire.Protobuf {
		raw, err = m.Marshal()
	} else {
		raw, err = json.Marshal(m)
	}
	if err != nil {
		panic(err)
	}
	return raw
}

func (o object) response(enc wire.Encoding, code int) *http.Response {
	tm := wire.TypeMeta{APIVersion: "v1", Kind: kindOf(o.collection())}
	return respond(code, wire.ContentType(enc, false), wire.AppendObject(nil, enc, tm, o.item(enc)), true)
}

func refusal(enc wire.Encoding, code int, reason, name string) *http.Response {
	s := wire.Status{Code: code, Reason: reason, Message: "the API server's own words", Details: &wire.StatusDetails{Name: name}}
	return respond(code, wire.ContentType(enc, false), wire.AppendStatus(nil, enc, s), true)
}

func respond(code int, contentType string, body []byte, genuine bool) *http.Response {
	h := http.Header{"Content-Type": {contentType}}
	if genuine {
		h.Set("Audit-Id", "1")
	}
	return &http.Response{
		StatusCode: code, Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: -1,
	}
}

func (c *cloud) takeReviews() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	reviews := c.reviews
	c.reviews = nil
	slices.Sort(reviews)
	return reviews
}

func (c *cloud) takeSeen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// command changes the world: "put PATH VALUE", "delete PATH", "cut", "heal",
// "hang", "slow", "lose", "answer CODE TYPE BODY", "properly", "truncate",
// "revoke TOKEN", "deny USER PREFIX", "allow USER PREFIX".
func (c *cloud) command(line string) error {
	f := strings.Fields(line)
	switch f[0] {
	case "cut":
		c.set(upstream.Down)
		return nil
	case "heal":
		c.set(upstream.Up)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f[0] {
	case "put":
		c.put(f[1], f[2])
	case "delete":
		c.remove(f[1])
	case "slow":
		c.mood = f[0] // streams stand
	case "hang", "lose":
		c.mood = f[0]
		c.breakStreams()
	case "answer":
		code, err := strconv.Atoi(f[1])
		if err != nil {
			return err
		}
		c.balance = &canned{code, f[2], strings.Join(f[3:], " ")}
		c.breakStreams()
	case "truncate":
		c.cut = 10
	case "properly":
		c.mood, c.balance, c.cut = "", nil, 0
	case "revoke":
		delete(c.tokens, f[1])
	case "issue":
		c.tokens[f[1]] = tokenOwner{user: f[2]}
	case "bind": // a token to a pod that is there: TOKEN NAMESPACE/NAME
		owner := c.tokens[f[1]]
		owner.namespace, owner.pod, _ = strings.Cut(f[2], "/")
		owner.uid = c.objects["/api/v1/namespaces/"+owner.namespace+"/pods/"+owner.pod].uid
		c.tokens[f[1]] = owner
	case "deny":
		c.denied[f[1]+" "+f[2]] = true
		c.breakStreams()
	case "allow":
		delete(c.denied, f[1]+" "+f[2])
	default:
		return fmt.Errorf("no command %s", line)
	}
	return nil
}
