package gateway

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"yurt/internal/filter"
	"yurt/internal/upstream"
)

const (
	shopMaps = "/api/v1/namespaces/shop/configmaps"
	rootMap  = shopMaps + "/kube-root-ca.crt"
	asAgent  = " User-Agent=kubelet/v1.37.2"
)

// TestFiltersApplyEverywhere: a component sees the same of an object however it
// asks and wherever the answer comes from, and others see it as it is.
func TestFiltersApplyEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.gateway.Filters = &filter.Site{Node: "edge", Port: 1, Hub: []netip.Addr{netip.MustParseAddr("169.254.2.1")}, CA: func() []byte { return []byte("of-the-hub") }}
		w.change("put "+rootMap+" of-the-cloud", "put "+shopMaps+"/other of-the-cloud")
		reads := []string{
			"GET " + rootMap,
			"GET " + shopMaps + "?fieldSelector=metadata.name%3Dkube-root-ca.crt", // remembered as it is
			"GET " + shopMaps + "?limit=10",                                       // in pieces
			"GET " + shopMaps + "?resourceVersion=0",                              // a replica
			"GET " + shopMaps,                                                     // the same, listed anew
		}
		check := func(when string) {
			t.Helper()
			for _, accept := range []string{"", " accept=protobuf"} {
				for _, read := range reads {
					for agent, want := range map[string]int{asAgent: 1, " User-Agent=kubectl/v1.37.2": 0} {
						c := w.do(read + accept + agent)
						got := strings.Count(c.out.String(), "of-the-hub")
						if c.code != http.StatusOK || got != want || !strings.Contains(c.out.String(), "of-the-cloud") {
							t.Errorf("%s, %s%s%s: %d, the hub's authority is in it %d times: %q", when, read, accept, agent, c.code, got, c.out.String())
						}
					}
				}
			}
		}
		check("with the cloud")
		w.cloud.set(upstream.Down)
		check("in the dark")
	})
}

// TestFiltersDoNotComeBack: what a filter has changed is not written to the cloud
// by the client that has read it.
func TestFiltersDoNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		w.gateway.Filters = &filter.Site{Node: "edge", Port: 1, Hub: []netip.Addr{netip.MustParseAddr("169.254.2.1")}, CA: func() []byte { return []byte("of-the-hub") }}
		w.change("put "+rootMap+" of-the-cloud", "put "+shopMaps+"/other of-the-cloud", "put /api/v1/namespaces/shop/pods/web 1")
		for _, tc := range []struct {
			write string
			code  int
		}{
			{"PUT " + rootMap + asAgent, http.StatusForbidden},
			{"PATCH " + rootMap + asAgent, http.StatusForbidden},
			{"PATCH /api/v1/namespaces/shop/pods/web" + asAgent, http.StatusForbidden},
			{"PATCH /api/v1/namespaces/shop/pods/web/status" + asAgent, http.StatusOK},
			{"PUT " + shopMaps + "/other" + asAgent, http.StatusOK},
			{"PUT " + rootMap + " User-Agent=kubectl/v1.37.2", http.StatusOK},
			{"DELETE " + rootMap + asAgent, http.StatusOK},
		} {
			before := len(w.cloud.seen)
			c := w.do(tc.write + ` body={"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`)
			if c.code != tc.code {
				t.Errorf("%s: %d %s", tc.write, c.code, c.out.String())
			}
			method, _, _ := strings.Cut(tc.write, " ")
			sent := slices.ContainsFunc(w.cloud.seen[before:], func(line string) bool { return strings.HasPrefix(line, method+" ") })
			if sent != (tc.code == http.StatusOK) {
				t.Errorf("%s: the cloud got %q", tc.write, w.cloud.seen[before:])
			}
			if tc.code == http.StatusForbidden && !strings.Contains(c.out.String(), "--disabled-resource-filters=") {
				t.Errorf("%s: it is not said why: %s", tc.write, c.out.String())
			}
		}
	})
}
