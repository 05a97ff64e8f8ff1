package gateway

import (
	"strings"
	"testing"
	"testing/synctest"

	"yurt/internal/upstream"
)

// TestStatusShowsWhereverThePodIs: what the kubelet writes in the dark shows in
// a remembered get, in a remembered list and in the replica, to whoever was
// granted the pod, and in nothing else of it.
func TestStatusShowsWhereverThePodIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		const pods = "/api/v1/namespaces/shop/pods"
		w.change("put "+pods+"/web 1", "put "+pods+"/db 1")
		reads := []string{
			"GET " + pods + "/web",
			"GET " + pods + "?labelSelector=a", // remembered as it is
			"GET " + pods + "/web as=alice-token",
			"GET " + pods + "?resourceVersion=0", // a replica
		}
		for _, read := range reads {
			if c := w.do(read); c.code != 200 {
				t.Fatalf("%s: %d %s", read, c.code, c.out.String())
			}
		}
		w.cloud.set(upstream.Down)
		c := w.do("PATCH " + pods + `/web/status content=application/strategic-merge-patch+json body={"status":{"podIP":"10.0.0.9"}}`)
		if c.code != 200 || !strings.Contains(c.out.String(), "10.0.0.9") {
			t.Fatalf("patch: %d %s", c.code, c.out.String())
		}
		for _, read := range reads {
			c := w.do(read)
			if n := strings.Count(c.out.String(), `"podIP":"10.0.0.9"`); c.code != 200 || n != 1 {
				t.Errorf("%s: %d, and the status shows in %d pods: %s", read, c.code, n, c.out.String())
			}
		}
		if c := w.do("GET " + pods + "/db"); strings.Contains(c.out.String(), "10.0.0.9") {
			t.Errorf("another pod: %s", c.out.String())
		}
		if c := w.do("GET " + pods + "/web as=bob-token"); c.code != 503 {
			t.Errorf("who has never read the pod: %d %s", c.code, c.out.String())
		}
	})
}
