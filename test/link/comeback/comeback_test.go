// Package comeback measures what an API server is asked when thousands of nodes
// get their link back in the same second: by the hubs' feeds, which are the real
// ones, and by the reflectors of client-go, as if there were no hub. The API
// server is one that only counts, and the time is synctest's, so that a figure is
// of the requests' spread and never of this machine's speed.
package comeback

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var nodes = flag.String("nodes", "20", "how many nodes come back, like 100,1000,5000")

const (
	outage  = 10 * time.Minute
	settled = 3 * time.Minute // after which everything follows again
)

// collections are what the components of a node read.
func collections() []collection {
	return []collection{
		{"node", "v1", "pods", "spec.nodeName=%s"},
		{"node", "v1", "nodes", "metadata.name=%s"},
		{"node", "v1", "services", ""},
		{"node", "storage.k8s.io/v1", "csidrivers", ""},
		{"node", "node.k8s.io/v1", "runtimeclasses", ""},
		{"node", "v1", "configmaps", "metadata.name=a"},
		{"node", "v1", "configmaps", "metadata.name=b"},
		{"node", "v1", "secrets", "metadata.name=c"},
		{"kube-proxy", "v1", "services", ""},
		{"kube-proxy", "discovery.k8s.io/v1", "endpointslices", ""},
		{"kube-proxy", "networking.k8s.io/v1", "servicecidrs", ""},
		{"cni", "v1", "nodes", ""},
	}
}

type collection struct{ client, version, resource, selector string }

// tally is what the API server has been asked since the link came back.
type tally struct {
	mu       sync.Mutex
	since    time.Time
	requests []request
}

type request struct {
	after time.Duration
	whole bool // the answer is a whole collection: a list, or a watch with initial events
}

func (t *tally) note(whole bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.since.IsZero() {
		t.requests = append(t.requests, request{time.Since(t.since), whole})
	}
}

func (t *tally) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since, t.requests = time.Now(), nil
}

// result is a row of the table.
type result struct {
	total, whole, peak int // peak: in one second
	half, last         time.Duration
	curve              []int // per second
}

func (t *tally) result() (r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortFunc(t.requests, func(a, b request) int { return cmp.Compare(a.after, b.after) })
	r.total = len(t.requests)
	r.curve = make([]int, int(settled.Seconds())+1)
	for _, q := range t.requests {
		if q.whole {
			r.whole++
		}
		r.curve[int(q.after.Seconds())]++
	}
	r.peak = slices.Max(r.curve)
	if r.total > 0 {
		r.half, r.last = t.requests[r.total/2].after, t.requests[r.total-1].after
	}
	return r
}

func (r result) String() string {
	return fmt.Sprintf("%7d | %7d | %7d | %6.1f s | %6.1f s", r.total, r.whole, r.peak, r.half.Seconds(), r.last.Seconds())
}

// draw shows the requests per second over the first minute and a half.
func (r result) draw() string {
	var b strings.Builder
	for i := 0; i < 90; i += 5 {
		sum := 0
		for _, n := range r.curve[i : i+5] {
			sum += n
		}
		fmt.Fprintf(&b, "%6d", sum/5)
	}
	return b.String()
}

// crowd is all clients of so many nodes.
type crowd interface {
	begin(ctx context.Context, running *sync.WaitGroup)
	cut(historyLost bool)
	heal()
}

// TestComeback prints the table, and asserts of it what holds at any size.
func TestComeback(t *testing.T) {
	var table strings.Builder
	for word := range strings.SplitSeq(*nodes, ",") {
		var n int
		if _, err := fmt.Sscan(word, &n); err != nil || n < 1 {
			t.Fatalf("-nodes %q: %v", *nodes, err)
		}
		wanted := n * len(collections())
		hubs := live(t, &table, n, "hubs", false, func(t *testing.T, seen *tally) crowd { return newHubs(t, n, seen) })
		if hubs.whole != 0 || hubs.total < wanted || hubs.total > wanted*11/10 {
			t.Errorf("%d hubs asked %d times, %d times for a whole collection; want %d watches", n, hubs.total, hubs.whole, wanted)
		}
		lost := live(t, &table, n, "hubs, history lost", true, func(t *testing.T, seen *tally) crowd { return newHubs(t, n, seen) })
		if lost.whole < wanted || lost.whole > wanted*11/10 {
			t.Errorf("%d hubs listed %d times, want %d", n, lost.whole, wanted)
		}
		direct := live(t, &table, n, "clients alone", false, func(_ *testing.T, seen *tally) crowd { return newReflectors(n, seen) })
		if direct.total < wanted*9/10 {
			t.Errorf("%d nodes without hub asked %d times: not all came back", n, direct.total)
		}
		live(t, &table, n, "clients alone, history lost", true, func(_ *testing.T, seen *tally) crowd { return newReflectors(n, seen) })
	}
	t.Logf("\nrequests | of them whole collections | most in one second | half after | last after; then requests per second, mean of each 5 s\n%s", table.String())
}

// live lets a crowd begin, cuts it off, heals, and counts.
func live(t *testing.T, table *strings.Builder, n int, what string, historyLost bool, start func(*testing.T, *tally) crowd) (r result) {
	t.Helper()
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		seen := &tally{}
		c := start(t, seen)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		c.begin(ctx, &running)
		time.Sleep(settled)
		c.cut(historyLost)
		time.Sleep(outage)
		seen.start()
		c.heal()
		time.Sleep(settled)
		r = seen.result()
		cancel()
		running.Wait()
	})
	fmt.Fprintf(table, "%5d nodes, %-28s | %s\n      %s\n", n, what, r, r.draw())
	t.Logf("%d nodes, %s: took %v", n, what, time.Since(began).Round(100*time.Millisecond))
	return r
}
