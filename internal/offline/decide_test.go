package offline

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"yurt/internal/request"
)

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		method, url string
		want        kind
	}{
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge", lease},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/other", refuse},
		{"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/edge", refuse},
		{"POST", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", refuse},
		{"POST", "/api/v1/nodes", nodeCreate},
		{"PATCH", "/api/v1/nodes/edge/status", nodeStatus},
		{"PATCH", "/api/v1/nodes/other/status", refuse},
		{"PATCH", "/api/v1/nodes/edge", refuse},
		{"POST", "/api/v1/namespaces/a/events", eventCreate},
		{"PATCH", "/api/v1/namespaces/a/events/e", eventPatch},
		{"POST", "/apis/events.k8s.io/v1/namespaces/a/events", eventCreate},
		{"DELETE", "/api/v1/namespaces/a/events/e", refuse},
		{"POST", "/api/v1/namespaces/a/serviceaccounts/s/token", token},
		{"POST", "/apis/authentication.k8s.io/v1/tokenreviews", review},
		{"POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", refuse},
		{"POST", "/apis/example.com/v1/subjectaccessreviews", refuse},
		{"POST", "/api/v1/namespaces/a/pods", podCreate},
		{"PATCH", "/api/v1/namespaces/a/pods/p/status", podStatus},
		{"PUT", "/api/v1/namespaces/a/pods/p/status", podStatus},
		{"PATCH", "/api/v1/namespaces/a/pods/p", refuse},
		{"PATCH", "/api/v1/namespaces/a/pods/p/ephemeralcontainers", refuse},
		{"DELETE", "/api/v1/namespaces/a/pods/p", refuse},
		{"POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", refuse},
		{"POST", "/api/v1/namespaces/a/pods/p/eviction", refuse},
	} {
		if got := decide(request.Parse(httptest.NewRequest(tc.method, tc.url, http.NoBody)), "edge"); got != tc.want {
			t.Errorf("%s %s is %d, want %d", tc.method, tc.url, got, tc.want)
		}
	}
}
