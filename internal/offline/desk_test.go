package offline

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/credential"
	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// known stands for what the gateway knows: objects by path, in every encoding.
type known map[string]bool

func (k known) Known(identity credential.Identity, resource request.Resource, namespace, name string, encoding wire.Encoding) ([]byte, bool) {
	path := resource.Path(namespace) + "/" + name
	return []byte("the object " + path), k[identity.Name+path]
}

// inDesk runs a test at a desk whose node is "edge", and where the node and the
// pod web are known to the node.
func inDesk(t *testing.T, test func(*testing.T, *Desk)) {
	t.Helper()
	onStore(t, func(t *testing.T, d *Desk, _ *store.Store) { test(t, d) })
}

func onStore(t *testing.T, test func(*testing.T, *Desk, *store.Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t, t.TempDir())
		asked, err := OpenBook(st, "asked")
		if err != nil {
			t.Fatal(err)
		}
		journal, err := OpenJournal(st, newCloud(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = st.Run(ctx) }()
		test(t, &Desk{
			Node: "edge", Answers: asked, Journal: journal,
			Objects: known{"alice/api/v1/namespaces/shop/pods/web": true, "/api/v1/nodes/edge": true, "/api/v1/namespaces/shop/pods/web": true},
		}, st)
		cancel()
		<-done
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
}

// message is a Go type of the API that can be both JSON and protobuf.
type message interface{ Marshal() ([]byte, error) }

// writeOf makes a write of an object, as client-go makes it.
func writeOf(t *testing.T, method, path string, enc wire.Encoding, tm wire.TypeMeta, o message) Write {
	t.Helper()
	raw, err := o.Marshal()
	if enc == wire.JSON {
		raw, err = json.Marshal(o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return Write{
		Request: request.Parse(httptest.NewRequest(method, path, http.NoBody)), Method: method, Path: path,
		Body: wire.AppendObject(nil, enc, tm, raw), Encoding: enc, MediaType: enc.MediaType(), Answer: enc,
	}
}

var (
	outage    = Outage{Since: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC), Reason: "no answer"}
	leaseType = wire.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}
	podType   = wire.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	nodeType  = wire.TypeMeta{APIVersion: "v1", Kind: "Node"}
	tokenType = wire.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}
)

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// answerOf is the code of a reply, and the reason of its Status if it is one.
func answerOf(t *testing.T, r Reply) string {
	t.Helper()
	enc, ok := wire.ParseContentType(r.ContentType)
	if !ok {
		t.Fatalf("reply %d has Content-Type %q", r.Code, r.ContentType)
	}
	item, tm, err := wire.ParseObject(enc, r.Body)
	if err != nil || !tm.IsStatus() {
		return fmt.Sprint(r.Code)
	}
	s, err := wire.ParseStatus(enc, item.Raw)
	if err != nil || s.Code != r.Code {
		t.Fatalf("reply %d holds Status %+v, %v", r.Code, s, err)
	}
	if s.Details != nil && s.Details.RetryAfterSeconds != 0 {
		t.Errorf("Status %+v would make client-go repeat it", s)
	}
	if r.Code == http.StatusServiceUnavailable && !strings.Contains(s.Message, "the cloud has been away since 2026-05-01T12:00:00Z (no answer)") {
		t.Errorf("503 does not name the outage: %s", s.Message)
	}
	return fmt.Sprintf("%d %s", r.Code, s.Reason)
}

// TestDesk holds the table of what each write gets, in both encodings.
func TestDesk(t *testing.T) {
	leasePath := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/"
	node := credential.Identity{}
	alice := credential.Identity{Name: "alice"}
	kubelet := credential.Identity{Name: "system:node:edge"}
	for _, tc := range []struct {
		name   string
		method string
		path   string
		tm     wire.TypeMeta
		object message
		as     credential.Identity
		want   string
	}{
		{"the node's lease", "PUT", leasePath + "edge", leaseType, &coordinationv1.Lease{ObjectMeta: named("kube-node-lease", "edge")}, node, "200"},
		{"the node's lease, by a kubelet with a token", "PUT", leasePath + "edge", leaseType, &coordinationv1.Lease{ObjectMeta: named("kube-node-lease", "edge")}, kubelet, "200"},
		{"the node's lease, by a pod", "PUT", leasePath + "edge", leaseType, &coordinationv1.Lease{ObjectMeta: named("kube-node-lease", "edge")}, alice, "503 ServiceUnavailable"},
		{"another lease", "PUT", leasePath + "other", leaseType, &coordinationv1.Lease{ObjectMeta: named("kube-node-lease", "other")}, node, "503 ServiceUnavailable"},
		{"a new lease", "POST", strings.TrimSuffix(leasePath, "/"), leaseType, &coordinationv1.Lease{ObjectMeta: named("kube-node-lease", "edge")}, node, "503 ServiceUnavailable"},
		{"create the node", "POST", "/api/v1/nodes", nodeType, &corev1.Node{ObjectMeta: named("", "edge")}, node, "409 AlreadyExists"},
		{"create another node", "POST", "/api/v1/nodes", nodeType, &corev1.Node{ObjectMeta: named("", "other")}, node, "503 ServiceUnavailable"},
		{"create the node, unknown to the client", "POST", "/api/v1/nodes", nodeType, &corev1.Node{ObjectMeta: named("", "edge")}, alice, "503 ServiceUnavailable"},
		{"update the node's status", "PUT", "/api/v1/nodes/edge/status", nodeType, &corev1.Node{ObjectMeta: named("", "edge")}, node, "200"},
		{"update the node's status, by a pod", "PUT", "/api/v1/nodes/edge/status", nodeType, &corev1.Node{ObjectMeta: named("", "edge")}, alice, "503 ServiceUnavailable"},
		{"update another node's status", "PUT", "/api/v1/nodes/other/status", nodeType, &corev1.Node{ObjectMeta: named("", "other")}, node, "503 ServiceUnavailable"},
		{"a mirror pod that is known", "POST", "/api/v1/namespaces/shop/pods", podType, &corev1.Pod{ObjectMeta: named("shop", "web")}, node, "409 AlreadyExists"},
		{"a mirror pod that is known, by a pod", "POST", "/api/v1/namespaces/shop/pods", podType, &corev1.Pod{ObjectMeta: named("shop", "web")}, alice, "503 ServiceUnavailable"},
		{"another pod", "POST", "/api/v1/namespaces/shop/pods", podType, &corev1.Pod{ObjectMeta: named("shop", "db")}, node, "503 ServiceUnavailable"},
		{"a pod's status, without an overlay", "PUT", "/api/v1/namespaces/shop/pods/web/status", podType, &corev1.Pod{ObjectMeta: named("shop", "web")}, node, "503 ServiceUnavailable"},
		{"an eviction", "POST", "/api/v1/namespaces/shop/pods/web/eviction", podType, &corev1.Pod{ObjectMeta: named("shop", "web")}, node, "503 ServiceUnavailable"},
		{"an event", "POST", "/api/v1/namespaces/shop/events", eventType(&request.Request{}), &corev1.Event{ObjectMeta: named("shop", "e")}, node, "201"},
		{"an event of events.k8s.io", "POST", "/apis/events.k8s.io/v1/namespaces/shop/events", wire.TypeMeta{APIVersion: "events.k8s.io/v1", Kind: "Event"}, &eventsv1.Event{ObjectMeta: named("shop", "e")}, alice, "201"},
		{"an event without a name", "POST", "/api/v1/namespaces/shop/events", eventType(&request.Request{}), &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}}, node, "503 ServiceUnavailable"},
		{"an event replaced", "PUT", "/api/v1/namespaces/shop/events/e", eventType(&request.Request{}), &corev1.Event{ObjectMeta: named("shop", "e")}, node, "503 ServiceUnavailable"},
		{"a token that was never asked for", "POST", "/api/v1/namespaces/shop/serviceaccounts/s/token", tokenType, &corev1.Pod{}, node, "503 ServiceUnavailable"},
		{"a certificate", "POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", podType, &corev1.Pod{}, node, "503 ServiceUnavailable"},
	} {
		for _, enc := range []wire.Encoding{wire.JSON, wire.Protobuf} {
			t.Run(tc.name+" in "+enc.String(), func(t *testing.T) {
				inDesk(t, func(t *testing.T, d *Desk) {
					w := writeOf(t, tc.method, tc.path, enc, tc.tm, tc.object)
					w.Credential.Identity = tc.as
					if got := answerOf(t, d.Serve(t.Context(), w, outage)); got != tc.want {
						t.Errorf("got %s, want %s", got, tc.want)
					}
				})
			})
		}
	}
}

// TestDeskLease: what the kubelet writes is echoed and read back, by the kubelet
// only, and lasts as long as the process.
func TestDeskLease(t *testing.T) {
	inDesk(t, func(t *testing.T, d *Desk) {
		path := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge"
		get := request.Parse(httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if _, ok := d.Lease(get, credential.Node, wire.Protobuf); ok {
			t.Error("a lease that was never written is known")
		}
		w := writeOf(t, "PUT", path, wire.Protobuf, leaseType, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "edge", ResourceVersion: "42"}})
		r := d.Serve(t.Context(), w, outage)
		if diff := gocmp.Diff(Reply{Code: 200, ContentType: wire.Protobuf.MediaType(), Body: w.Body}, r); diff != "" {
			t.Errorf("echo (-want +got):\n%s", diff)
		}
		got, ok := d.Lease(get, credential.Node, wire.Protobuf)
		if diff := gocmp.Diff(r, got); !ok || diff != "" {
			t.Errorf("get (-want +got):\n%s", diff)
		}
		if _, ok := d.Lease(get, credential.Node, wire.JSON); ok {
			t.Error("a lease in protobuf was given to a client that reads JSON")
		}
		if _, ok := d.Lease(get, credential.Identity{Name: "alice"}, wire.Protobuf); ok {
			t.Error("the node's lease was given to somebody else")
		}
	})
}

// TestDeskAnswers: tokens and reviews are the last answer to the very same
// question of the same client; a review only for a day.
func TestDeskAnswers(t *testing.T) {
	inDesk(t, func(t *testing.T, d *Desk) {
		token := writeOf(t, "POST", "/api/v1/namespaces/shop/serviceaccounts/s/token", wire.JSON, tokenType, &corev1.Pod{ObjectMeta: named("shop", "bound-to-this")})
		review := writeOf(t, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", wire.JSON, podType, &corev1.Pod{ObjectMeta: named("", "may-he")})
		for _, w := range []Write{token, review} {
			if err := d.Asked(t.Context(), w, "application/json", []byte("the answer")); err != nil {
				t.Fatal(err)
			}
		}
		want := Reply{Code: http.StatusCreated, ContentType: "application/json", Body: []byte("the answer")}
		for _, w := range []Write{token, review} {
			if diff := gocmp.Diff(want, d.Serve(t.Context(), w, outage)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", w.Path, diff)
			}
		}
		for name, change := range map[string]func(*Write){
			"another client":    func(w *Write) { w.Credential.Identity.Name = "alice" },
			"another audience":  func(w *Write) { w.Body = append([]byte(" "), w.Body...) },
			"another encoding":  func(w *Write) { w.Answer = wire.Protobuf },
			"another namespace": func(w *Write) { w.Path = strings.Replace(w.Path, "shop", "else", 1) },
		} {
			other := token
			change(&other)
			if got := answerOf(t, d.Serve(t.Context(), other, outage)); got != "503 ServiceUnavailable" {
				t.Errorf("%s: got %s", name, got)
			}
		}
		time.Sleep(reviewAge + time.Minute)
		if got := d.Serve(t.Context(), token, outage).Code; got != http.StatusCreated {
			t.Errorf("an old token: got %d", got)
		}
		if got := answerOf(t, d.Serve(t.Context(), review, outage)); got != "503 ServiceUnavailable" {
			t.Errorf("an old review: got %s", got)
		}
	})
}

// TestDeskEvents: an event comes back as it was sent, and patched.
func TestDeskEvents(t *testing.T) {
	inDesk(t, func(t *testing.T, d *Desk) {
		e := &corev1.Event{ObjectMeta: named("shop", "e"), Reason: "Started", Count: 1, FirstTimestamp: metav1.Unix(100, 0)}
		create := writeOf(t, "POST", "/api/v1/namespaces/shop/events?timeout=1s", wire.Protobuf, eventType(&request.Request{}), e)
		d.Serve(t.Context(), create, outage)
		patch := Write{
			Request: request.Parse(httptest.NewRequest(http.MethodPatch, "/api/v1/namespaces/shop/events/e", http.NoBody)),
			Method:  http.MethodPatch, Path: "/api/v1/namespaces/shop/events/e", Answer: wire.Protobuf,
			MediaType: "application/strategic-merge-patch+json", Body: []byte(`{"count":2,"lastTimestamp":"1970-01-01T00:03:20Z"}`),
		}
		r := d.Serve(t.Context(), patch, outage)
		item, _, err := wire.ParseObject(wire.Protobuf, r.Body)
		if err != nil {
			t.Fatal(err)
		}
		var got corev1.Event
		if err := got.Unmarshal(item.Raw); err != nil {
			t.Fatal(err)
		}
		e.Count, e.LastTimestamp = 2, metav1.Unix(200, 0)
		if diff := gocmp.Diff(*e, got); diff != "" {
			t.Errorf("patched (-want +got):\n%s", diff)
		}

		patch.Credential.Identity.Name = "alice"
		if body := d.Serve(t.Context(), patch, outage).Body; strings.Contains(string(body), "Started") {
			t.Errorf("alice reads the node's event: %q", body)
		}
		patch.MediaType = "application/apply-patch+yaml"
		if got := answerOf(t, d.Serve(t.Context(), patch, outage)); got != "503 ServiceUnavailable" {
			t.Errorf("an apply: got %s", got)
		}
		if n := d.Journal.Stats().Pending; n != 3 {
			t.Errorf("%d entries in the journal, want 3", n)
		}
	})
}

// pod stands for what the gateway knows of the pod web, as the cloud has it.
type pod corev1.Pod

func (p *pod) Known(_ credential.Identity, resource request.Resource, namespace, name string, encoding wire.Encoding) ([]byte, bool) {
	if resource.Resource != "pods" || namespace != p.Namespace || name != p.Name {
		return nil, false
	}
	object := (*corev1.Pod)(p)
	raw, err := object.Marshal()
	if encoding == wire.JSON {
		raw, err = json.Marshal(object)
	}
	return wire.AppendObject(nil, encoding, podType, raw), err == nil
}

// TestDeskPodStatus: what the kubelet says of a pod is accepted from the kubelet
// only, comes back laid over the pod, and is given up when the API server has it.
func TestDeskPodStatus(t *testing.T) {
	const path = "/api/v1/namespaces/shop/pods/web/status"
	for _, tc := range []struct {
		name, method, mediaType, body string
		as                            credential.Identity
		path                          string
		want                          string // of the answer
		address                       string // that the pod has then
	}{
		{name: "a patch", body: `{"metadata":{"uid":"u1"},"status":{"podIP":"10.0.0.9","podIPs":[{"ip":"10.0.0.9"}]}}`, want: "200", address: "10.0.0.9"},
		{name: "a patch of another pod of that name", body: `{"metadata":{"uid":"u2"},"status":{"podIP":"10.0.0.9"}}`, want: "409 Conflict"},
		{name: "a patch that is none", body: `{"status":[]}`, want: "422 Invalid"},
		{name: "a JSON patch", mediaType: "application/json-patch+json", body: `[]`, want: "503 ServiceUnavailable"},
		{name: "an update", method: http.MethodPut, mediaType: "application/json", want: "200", address: "10.0.0.9",
			body: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","uid":"u1"},"status":{"phase":"Running","podIP":"10.0.0.9"}}`},
		{name: "an update in an unknown encoding", method: http.MethodPut, mediaType: "application/cbor", want: "503 ServiceUnavailable"},
		{name: "a pod that is not known", path: "/api/v1/namespaces/shop/pods/db/status", body: `{}`, want: "503 ServiceUnavailable"},
		{name: "a patch by a pod", as: credential.Identity{Name: "alice"}, body: `{}`, want: "503 ServiceUnavailable"},
	} {
		for _, enc := range []wire.Encoding{wire.JSON, wire.Protobuf} {
			t.Run(tc.name+" answered in "+enc.String(), func(t *testing.T) {
				onStore(t, func(t *testing.T, d *Desk, st *store.Store) {
					var err error
					if d.Overlay, err = overlay.Open(st, overlay.Options{}); err != nil {
						t.Fatal(err)
					}
					d.Objects = &pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1", ResourceVersion: "7"}, Status: corev1.PodStatus{PodIP: "10.0.0.1", Phase: corev1.PodRunning}}
					w := Write{
						Method: cmp.Or(tc.method, http.MethodPatch), Path: cmp.Or(tc.path, path), Body: []byte(tc.body), Answer: enc,
						MediaType: cmp.Or(tc.mediaType, "application/strategic-merge-patch+json"), Credential: credential.Credential{Identity: tc.as},
					}
					w.Encoding, _ = wire.ParseContentType(w.MediaType)
					w.Request = request.Parse(httptest.NewRequest(w.Method, w.Path, http.NoBody))
					r := d.Serve(t.Context(), w, outage)
					if got := answerOf(t, r); got != tc.want {
						t.Fatalf("got %s, want %s: %s", got, tc.want, r.Body)
					}
					_, laidOver := d.Overlay.State(overlay.Key{Namespace: "shop", Name: "web"})
					if laidOver != (tc.address != "") {
						t.Errorf("it has an entry: %v", laidOver)
					}
					if !laidOver {
						return
					}
					if !strings.Contains(string(r.Body), tc.address) {
						t.Errorf("the answer lacks %s: %s", tc.address, r.Body)
					}
					d.Overlay.Heal()
					somebody := w
					somebody.Credential.Identity.Name = "alice"
					if err := d.NotePodStatus(t.Context(), somebody, r.ContentType, r.Body); err != nil {
						t.Error(err)
					}
					if state, _ := d.Overlay.State(overlay.Key{Namespace: "shop", Name: "web"}); state != overlay.Healed {
						t.Errorf("somebody has written to the status, and the entry is %v", state)
					}
					if err := d.NotePodStatus(t.Context(), w, r.ContentType, r.Body); err != nil {
						t.Error(err)
					}
					if state, _ := d.Overlay.State(overlay.Key{Namespace: "shop", Name: "web"}); state != overlay.Reported {
						t.Errorf("the API server has the status, and the entry is %v", state)
					}
				})
			})
		}
	}
}
