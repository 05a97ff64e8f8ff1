package request

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	pods   = Resource{Version: "v1", Resource: "pods"}
	yes    = true
	secret = Resource{Version: "v1", Resource: "secrets"}
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		method, url string
		want        Request
	}{
		{"GET", "/api/v1/namespaces/default/pods/web", Request{Verb: Get, Resource: pods, Namespace: "default", Name: "web"}},
		{"GET", "/api/v1/pods", Request{Verb: List, Resource: pods}},
		{"GET", "/api/v1/namespaces/default/pods", Request{Verb: List, Resource: pods, Namespace: "default"}},
		{"GET", "/api/v1/namespaces/default", Request{Verb: Get, Resource: Resource{Version: "v1", Resource: "namespaces"}, Name: "default"}},
		{"GET", "/api/v1/namespaces", Request{Verb: List, Resource: Resource{Version: "v1", Resource: "namespaces"}}},
		{"PUT", "/api/v1/namespaces/default/finalize", Request{Verb: Update, Resource: Resource{Version: "v1", Resource: "namespaces"}, Name: "default", Subresource: "finalize"}},
		{"GET", "/apis/apps/v1/namespaces/a/deployments/b/scale", Request{Verb: Get, Resource: Resource{"apps", "v1", "deployments"}, Namespace: "a", Name: "b", Subresource: "scale"}},
		{"POST", "/api/v1/namespaces/a/serviceaccounts/b/token", Request{Verb: Create, Resource: Resource{Version: "v1", Resource: "serviceaccounts"}, Namespace: "a", Name: "b", Subresource: "token"}},
		{"PATCH", "/api/v1/nodes/n/status", Request{Verb: Patch, Resource: Resource{Version: "v1", Resource: "nodes"}, Name: "n", Subresource: "status"}},
		{"DELETE", "/api/v1/namespaces/a/pods", Request{Verb: DeleteCollection, Resource: pods, Namespace: "a"}},
		{"GET", "/api/v1/nodes/n/proxy/metrics", Request{Verb: Get, Resource: Resource{Version: "v1", Resource: "nodes"}, Name: "n", Subresource: "proxy/metrics"}},
		{"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge&watch=1&resourceVersion=7&timeoutSeconds=30&allowWatchBookmarks=true", Request{
			Verb: Watch, Resource: pods,
			Options: Options{FieldSelector: "spec.nodeName=edge", ResourceVersion: "7", Timeout: 30 * time.Second, AllowWatchBookmarks: true},
		}},
		{"GET", "/api/v1/namespaces/a/secrets?watch&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", Request{
			Verb: Watch, Resource: secret, Namespace: "a",
			Options: Options{SendInitialEvents: &yes, ResourceVersionMatch: "NotOlderThan"},
		}},
		{"GET", "/api/v1/pods?watch=false&limit=500", Request{Verb: List, Resource: pods, Options: Options{Limit: 500}}},
		{"GET", "/version", Request{Verb: "get", Discovery: true}},
		{"GET", "/apis", Request{Verb: "get", Discovery: true}},
		{"GET", "/apis/apps/v1", Request{Verb: "get", Discovery: true}},
		{"GET", "/metrics", Request{Verb: "get"}},

		// What two parsers could read differently is opaque.
		{"GET", "/api/v1/namespaces/a%2Fb/pods", Request{Verb: "get", Opaque: true}},
		{"GET", "/api/v1//pods", Request{Verb: "get", Opaque: true}},
		{"GET", "/api/v1/../v1/secrets", Request{Verb: "get", Opaque: true}},
		{"GET", "/api/v1/watch/pods", Request{Verb: "get", Resource: Resource{Version: "v1"}, Opaque: true}},
		{"GET", "/api/v1/pods?pretty=true", Request{Verb: List, Resource: pods, Opaque: true}},
		{"GET", "/api/v1/pods?limit=1&limit=2", Request{Verb: List, Resource: pods, Opaque: true}},
		{"GET", "/api/v1/pods?limit=x", Request{Verb: List, Resource: pods, Opaque: true}},
	} {
		got := Parse(httptest.NewRequest(tc.method, tc.url, http.NoBody))
		if diff := cmp.Diff(&tc.want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", tc.method, tc.url, diff)
		}
	}
}

func TestSingleName(t *testing.T) {
	for selector, want := range map[string]string{
		"metadata.name=a":                      "a",
		"metadata.name=a,metadata.namespace=b": "",
		"metadata.name!=a":                     "",
		"spec.nodeName=a":                      "",
		"":                                     "",
	} {
		if got := SingleName(selector); got != want {
			t.Errorf("SingleName(%q) = %q, want %q", selector, got, want)
		}
	}
}

func TestResourcePathIsParsedBack(t *testing.T) {
	for _, r := range []Resource{pods, {"apps", "v1", "deployments"}, {"stable.example.com", "v1beta1", "crontabs"}} {
		for _, namespace := range []string{"", "default"} {
			got := Parse(httptest.NewRequest("GET", r.Path(namespace), http.NoBody))
			if got.Resource != r || got.Namespace != namespace || got.Verb != List {
				t.Errorf("%s parses to %+v", r.Path(namespace), got)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("/api/v1/pods?watch=1&resourceVersion=0")
	f.Add("/apis/a/b/namespaces/c/d/e/f")
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.NewRequest(http.MethodGet, "http://hub"+target, http.NoBody)
		if err != nil {
			t.Skip()
		}
		q := Parse(r)
		if !q.Opaque && q.Resource.Resource != "" && (q.Verb == List || q.Verb == Get) && q.Subresource == "" {
			path := q.Resource.Path(q.Namespace)
			if q.Name != "" {
				path += "/" + q.Name
			}
			u := &url.URL{Scheme: "http", Host: "hub", Path: path}
			if again := Parse(&http.Request{Method: http.MethodGet, URL: u}); again.Resource != q.Resource || again.Name != q.Name {
				t.Errorf("%q reads as %+v, whose path reads as %+v", target, q, again)
			}
		}
	})
}
