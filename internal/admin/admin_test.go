package admin

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"yurt/internal/adminapi"
)

func dark(now time.Time) adminapi.Status {
	return adminapi.Status{
		Version: "v1", Node: "edge", StartedAt: now.Add(-50 * time.Hour),
		Link: adminapi.Link{State: "down", Since: now.Add(-12 * time.Minute), Reason: "no route to host", BytesRead: 3 << 20, BytesWritten: 2048, Servers: []adminapi.Server{
			{Address: "https://10.0.0.1:6443", Health: "down", Faults: 0.5, LatencyMilliseconds: 12.4}, {Address: "https://10.0.0.2:6443", Health: "not tried yet"},
		}},
		Process: adminapi.Process{ResidentBytes: 28 << 20, Goroutines: 33},
		Store: adminapi.Store{DiskBytes: 5 << 20, BytesWritten: 9 << 20, Error: "no space left on device",
			Sealing: adminapi.Sealing{Key: "made here, beside the data", KeyID: "0a1b", Pending: 2, Unopened: 1, Reason: "sealed by a key that is not known: 2c3d"}},
		Journal: adminapi.Journal{Pending: 1, Bytes: 900, Replayed: 17},
		Collections: []adminapi.Collection{
			{Path: "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge", Identity: "node", Phase: "waiting", Populated: true, Objects: 30, Watchers: 1, FreshAt: now.Add(-12 * time.Minute)},
			{Path: "/api/v1/services", Identity: "system:serviceaccount:kube-system:kube-proxy", Phase: "waiting", Populated: true, Objects: 4, Watchers: 1},
			{Path: "/apis/example.com/v1/things", Identity: "node", Phase: "waiting"},
		},
		Upstream: []adminapi.Traffic{{Client: "node", Resource: "configmaps", Received: 100}, {Client: "node", Resource: "pods", Received: 4000, Sent: 512}},
	}
}

// TestTextInTheDark: a person reads what is wrong, since when, and how old what
// the node goes by is.
func TestTextInTheDark(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var got strings.Builder
	if err := writeText(&got, dark(now), now); err != nil {
		t.Fatal(err)
	}
	const want = `yurthub v1 on edge, running for 2d2h

link     down for 12m0s: no route to host; 3.0 MiB read, 2.0 KiB written, TLS included
         https://10.0.0.1:6443 is down, answers in 12 ms, fails 50 % of the time
         https://10.0.0.2:6443 is not tried yet
replica  3 collections, 34 objects; 2 not followed now, as they were up to 12m0s ago; 1 NOT COMPLETE YET
journal  1 event wait for the link (900 B), 17 replayed, 0 lost
store    5.0 MiB on disk, 9.0 MiB written
         sealed; key: made here, beside the data (0a1b)
         2 files in clear or sealed by an older key, being sealed anew
         1 record CAN'T BE OPENED: sealed by a key that is not known: 2c3d
         THE DISK FAILS: no space left on device
process  28.0 MiB of memory, 33 goroutines

COLLECTION                                       CLIENT                                        OBJECTS  WATCHERS  STATE                      AGE
/api/v1/pods?fieldSelector=spec.nodeName%3Dedge  node                                          30       1         waiting                    12m0s
/api/v1/services                                 system:serviceaccount:kube-system:kube-proxy  4        1         waiting                    of before the start
/apis/example.com/v1/things                      node                                          0        0         waiting, not complete yet  of before the start

OVER THE LINK FOR  RESOURCE    FROM THE CLOUD  TO THE CLOUD
node               pods        3.9 KiB         512 B
node               configmaps  100 B           0 B
`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// TestHandler: who asks for JSON gets it, and a person text.
func TestHandler(t *testing.T) {
	now := time.Now()
	var notReady error
	handler := Handler(func() adminapi.Status { return dark(now) }, func() error { return notReady }, prometheus.NewRegistry())
	get := func(path, accept string) (int, string, string) {
		r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
		r.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code, w.Header().Get("Content-Type"), w.Body.String()
	}
	for accept, want := range map[string][2]string{
		"*/*":              {"text/plain; charset=utf-8", "down for 12m"},
		"text/html":        {"text/plain; charset=utf-8", "down for 12m"},
		"application/json": {"application/json", `"state": "down"`},
	} {
		if code, contentType, body := get("/status", accept); code != http.StatusOK || contentType != want[0] || !strings.Contains(body, want[1]) {
			t.Errorf("Accept %s: %d %s %.200s", accept, code, contentType, body)
		}
	}
	notReady = errors.New("the disk is full")
	if code, _, body := get("/readyz", ""); code != http.StatusServiceUnavailable || !strings.Contains(body, "the disk is full") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, _, _ := get("/livez", ""); code != http.StatusOK {
		t.Errorf("/livez: %d", code)
	}
}
