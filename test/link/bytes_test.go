package link

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"yurt/internal/adminapi"
	"yurt/internal/playground/cluster"
)

const (
	changes = 10
	// eventBytes is the most that the event of one of these objects takes.
	eventBytes = 1500
	cutFor     = time.Minute
)

// Three clients that read the same cost the cloud one stream; when they start
// anew it costs nothing; and a cut with ten changes costs ten events.
func TestBytesFollowChanges(t *testing.T) {
	h := shared.hub(t, shared.edge)
	h.settle(t)
	const path = "/api/v1/namespaces/" + namespace + "/services"
	mark, err := shared.AuditNow()
	must(t, err)
	three := func() (watches []*watcher, stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			client := shared.hub(t, shared.edge)
			watches = append(watches, client.watchFor(ctx, t, path))
		}
		return watches, cancel
	}
	_, stop := three()
	h.settle(t)
	checkAsked(t, mark, map[string]int{"list": 1, "watch": 1})

	mark, err = shared.AuditNow()
	must(t, err)
	stop()
	watches, stop := three()
	defer stop()
	time.Sleep(2 * time.Second) // whatever it costs would be asked by now
	checkAsked(t, mark, map[string]int{})

	before := h.received(t, "services")
	must(t, shared.edge.Cut(t.Context()))
	h.awaitLink(t, "down", 20*time.Second)
	cut := time.Now()
	for n := range changes {
		must(t, shared.service(t.Context(), fmt.Sprintf("changed-%d", n)))
	}
	time.Sleep(time.Until(cut.Add(cutFor)))
	must(t, shared.edge.Heal(t.Context()))
	for _, w := range watches {
		for n := range changes {
			w.sees(t, fmt.Sprintf("changed-%d", n), time.Minute)
		}
	}
	h.settle(t)
	checkAsked(t, mark, map[string]int{"watch": 1})
	cost := h.received(t, "services") - before
	t.Logf("%d changes during a cut cost %d bytes for 3 clients", changes, cost)
	if cost > changes*eventBytes || cost < changes*100 {
		t.Errorf("%d changes cost %d bytes", changes, cost)
	}
}

func (s *site) service(ctx context.Context, name string) error {
	cmd, err := s.Kubectl(ctx, "--namespace="+namespace, "create", "service", "clusterip", name, "--tcp=80")
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("create service %s: %w: %s", name, err, out)
	}
	return nil
}

// checkAsked counts what the feed of the services has asked since a mark. A watch
// is written down when it begins, a list when it has ended.
func checkAsked(t *testing.T, mark cluster.AuditMark, want map[string]int) {
	t.Helper()
	requests, err := shared.AuditSince(mark)
	must(t, err)
	got := map[string]int{}
	for _, r := range requests {
		// A list of one object asks whether the cloud's history goes on, once for all feeds.
		begun := r.Verb == "watch" && r.Stage == "ResponseStarted" || r.Verb == "list" && !strings.Contains(r.RequestURI, "limit=1")
		if r.UserAgent == "yurthub" && r.ObjectRef.Resource == "services" && r.ObjectRef.Namespace == namespace && begun {
			got[r.Verb]++
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the hub asked the cloud: %v, want %v", got, want)
	}
}

// received is how much the link has brought of a resource.
func (h *hub) received(t *testing.T, resource string) (n int64) {
	t.Helper()
	status, err := adminapi.Get(t.Context(), h.admin, adminPort)
	must(t, err)
	for _, row := range status.Upstream {
		if row.Resource == resource {
			n += row.Received
		}
	}
	return n
}

// TestIdleLink: what a link costs over which nothing happens but that the hub
// makes sure of it.
func TestIdleLink(t *testing.T) {
	const (
		quiet = time.Minute // with what comes once in a minute, such as bookmarks
		limit = 16 << 20    // a day
	)
	h := shared.hub(t, shared.edge)
	h.settle(t)
	if a := h.ask(t.Context(), http.MethodGet, configMaps+"?resourceVersion=0", ""); a.code != http.StatusOK { // as somebody with a token
		t.Fatalf("list: %d, %v", a.code, a.err)
	}
	h.settle(t)
	time.Sleep(5 * time.Second) // the answers to what came before
	before := wireBytes(t, shared.edge)
	time.Sleep(quiet)
	day := float64(wireBytes(t, shared.edge)-before) * float64(24*time.Hour/quiet)
	t.Logf("an idle link carries %.1f MB a day, both directions, with all headers", day/1e6)
	if day > limit {
		t.Errorf("want at most %.1f MB", float64(limit)/1e6)
	}
}

// wireBytes is what the node's network device has received and sent.
func wireBytes(t *testing.T, n *cluster.Node) (total int64) {
	t.Helper()
	pid, err := n.PID()
	must(t, err)
	devices, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	must(t, err)
	for line := range strings.Lines(string(devices)) {
		name, counters, _ := strings.Cut(line, ":")
		if fields := strings.Fields(counters); strings.TrimSpace(name) == "eth0" && len(fields) > 8 {
			var in, out int64
			_, err := fmt.Sscan(fields[0]+" "+fields[8], &in, &out)
			must(t, err)
			return in + out
		}
	}
	t.Fatal("the node has no eth0")
	return 0
}
