package link

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"yurt/internal/adminapi"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/netns"
)

const (
	// deadline is how long a read that the replica can answer waits for the
	// cloud, and what a busy machine may add to it.
	deadline = 2*time.Second + 500*time.Millisecond
	// known is how soon the hub knows of a silent link: 3 s after the last byte.
	known = 3*time.Second + 500*time.Millisecond
	// atOnce is the answer to a read while the link is known to be bad.
	atOnce = 50 * time.Millisecond

	darkTime = 5 * time.Second
	maxCPU   = 0.05 // of a core, while dark and nobody asks
)

const configMaps = "/api/v1/namespaces/" + namespace + "/configmaps"

// fault is a grey link.
type fault struct {
	strike func(context.Context) error
	mend   func(context.Context) error
	dark   bool          // the link is known to be down, soon
	up     time.Duration // or it is up again by itself within this
	during func(*outage) // then
}

// outage is one fault from its beginning to its end, and the clients that live
// through it.
type outage struct {
	*site
	*hub
	t     *testing.T
	watch *watcher
	n     int
}

func (s *site) outage(t *testing.T) *outage {
	t.Helper()
	h := s.hub(t, s.edge)
	h.settle(t)
	o := &outage{site: s, hub: h, t: t, watch: h.watch(t, configMaps)}
	o.checkKnown(o.round(), time.Minute)
	h.settle(t)
	return o
}

// round is one request of each kind at the same time.
type round struct {
	replica, get, list answered // what the replica can answer
	unknown, write     answered
}

func (o *outage) round() (r round) {
	o.n++
	name := fmt.Sprintf("%s-%d", lower(o.t.Name()), o.n)
	var all sync.WaitGroup
	ctx := o.t.Context()
	all.Go(func() { r.replica = o.ask(ctx, http.MethodGet, configMaps+"?resourceVersion=0", "") })
	all.Go(func() { r.get = o.ask(ctx, http.MethodGet, configMaps+"/known-1", "") })
	all.Go(func() { r.list = o.ask(ctx, http.MethodGet, configMaps, "") })
	all.Go(func() { r.unknown = o.ask(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/services/"+name, "") })
	all.Go(func() {
		r.write = o.ask(ctx, http.MethodPost, "/api/v1/namespaces/"+namespace+"/secrets", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"`+name+`"}}`)
	})
	all.Wait()
	return r
}

// lower makes a test's name one of an object.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// checkKnown asserts that what is known here is answered in time, and all else
// before a client gives up.
func (o *outage) checkKnown(r round, within time.Duration) {
	o.t.Helper()
	for what, a := range map[string]answered{"list from the replica": r.replica, "get": r.get, "consistent list": r.list} {
		if a.err != nil || a.code != http.StatusOK {
			o.t.Errorf("%s: %d, %v: %.200s", what, a.code, a.err, a.body)
		}
		if a.took > within {
			o.t.Errorf("%s took %v, want at most %v", what, a.took, within)
		}
	}
	for what, a := range map[string]answered{"get of something unknown": r.unknown, "write": r.write} {
		if a.err != nil {
			o.t.Errorf("%s was not answered within %v: %v", what, o.patience, a.err)
		}
	}
}

// live goes through a fault: strike, the first requests, what the hub knows, the
// dark time, mend, the return.
func (o *outage) live(f fault) {
	t, ctx := o.t, o.t.Context()
	before, err := o.metrics(ctx)
	must(t, err)
	struck := time.Now()
	must(t, f.strike(ctx))
	t.Cleanup(func() { _ = f.mend(context.WithoutCancel(ctx)) })
	first := make(chan round, 1)
	go func() { first <- o.round() }() // under way while the link dies
	if f.dark {
		o.awaitDown(struck)
	}
	r := <-first
	t.Logf("under way when it struck: get %v, consistent list %v, unknown %v, write %v", r.get.took, r.list.took, r.unknown.took, r.write.took)
	o.checkKnown(r, deadline)
	if f.dark {
		o.darkness()
	} else {
		o.greyness()
	}
	change := lower(t.Name()) + "-change"
	must(t, o.site.change(ctx, change))
	if f.up > 0 {
		o.awaitLink(t, "up", f.up)
		o.watch.sees(t, change, f.up)
	}
	if f.during != nil {
		f.during(o)
	}
	must(t, f.mend(ctx))
	mended := time.Now()
	o.awaitLink(t, "up", 30*time.Second)
	t.Logf("up %v after the end", time.Since(mended).Round(10*time.Millisecond))
	if f.up == 0 {
		o.watch.sees(t, change, 30*time.Second)
	}
	o.settle(t)
	o.checkLeaks(before)
}

func (o *outage) awaitDown(struck time.Time) {
	o.t.Helper()
	for {
		status, err := adminapi.Get(o.t.Context(), o.admin, adminPort)
		must(o.t, err)
		took := time.Since(struck)
		if status.Link.State == "down" {
			o.t.Logf("known after %v: %s", took.Round(10*time.Millisecond), status.Link.Reason)
			if took > known {
				o.t.Errorf("the hub knew after %v, want at most %v", took, known)
			}
			return
		}
		if took > 20*time.Second {
			o.t.Fatalf("the link is %s after %v", status.Link.State, took)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// darkness: the link is known to be bad.
func (o *outage) darkness() {
	o.t.Helper()
	began, cpu := time.Now(), o.cpu()
	time.Sleep(darkTime)
	used := (o.cpu() - cpu) / time.Since(began).Seconds()
	o.t.Logf("%.2f %% of a core while dark", 100*used)
	if used > maxCPU {
		o.t.Errorf("the hub used %.1f %% of a core while dark, want at most %.0f %%", 100*used, 100*maxCPU)
	}
	var took []time.Duration
	for range 20 {
		r := o.round()
		o.checkKnown(r, deadline)
		took = append(took, r.replica.took, r.get.took, r.list.took)
		if !r.get.stale || !r.list.stale || !r.replica.stale {
			o.t.Errorf("an answer does not say that it is stale")
		}
	}
	slices.Sort(took)
	o.t.Logf("reads in the dark: median %v, 90 %% within %v", took[len(took)/2], took[len(took)*9/10])
	if p90 := took[len(took)*9/10]; p90 > atOnce {
		o.t.Errorf("90 %% of reads in the dark took up to %v, want %v", p90, atOnce)
	}
}

// greyness: the link is neither good nor gone.
func (o *outage) greyness() {
	o.t.Helper()
	began, rounds := time.Now(), 0
	var slowest time.Duration
	for ; time.Since(began) < darkTime || rounds < 3; rounds++ {
		r := o.round()
		o.checkKnown(r, deadline)
		slowest = max(slowest, r.replica.took, r.get.took, r.list.took)
		time.Sleep(300 * time.Millisecond)
	}
	o.t.Logf("%d rounds, slowest read %v", rounds, slowest)
}

func (o *outage) cpu() float64 {
	o.t.Helper()
	m, err := o.metrics(o.t.Context())
	must(o.t, err)
	return m["process_cpu_seconds_total"]
}

// checkLeaks: what the hub has open is what it had, but for what one more round
// trip or two takes.
func (o *outage) checkLeaks(before map[string]float64) {
	o.t.Helper()
	for name, slack := range map[string]float64{"go_goroutines": 12, "process_open_fds": 4, "process_resident_memory_bytes": 12 << 20} {
		if before[name] == 0 {
			o.t.Errorf("there is no metric %s", name)
		}
		await(o.t, name+" is as before", time.Minute, func(ctx context.Context) error {
			after, err := o.metrics(ctx)
			if err != nil {
				return err
			}
			if after[name] > before[name]+slack {
				return fmt.Errorf("it is %.0f, was %.0f", after[name], before[name])
			}
			return nil
		})
	}
}

// onLink is a fault of the node's link.
func onLink(n *cluster.Node, c netns.Condition) fault {
	return fault{
		strike: func(ctx context.Context) error { return n.SetLink(ctx, c) },
		mend:   n.Heal,
	}
}

// inFront is a fault of what stands before the API server.
func inFront(s *site, m mood) fault {
	return fault{
		strike: func(context.Context) error { s.front.become(m); return nil },
		mend:   func(context.Context) error { s.front.become((*front).pass); return nil },
		dark:   true,
	}
}

func TestBlackHole(t *testing.T) {
	f := onLink(shared.edge, netns.Condition{Blackhole: true})
	f.dark = true
	shared.outage(t).live(f)
}

// Something on the way has forgotten the hub's connections: nobody closes them,
// nothing comes, and new ones are fine.
func TestHalfOpen(t *testing.T) {
	shared.outage(t).live(fault{strike: shared.edge.Forget, mend: shared.edge.Heal, up: 15 * time.Second})
}

// TestLossOf30Percent: the link works, with pauses that double with each packet
// that is lost twice. Reads are answered in time all the same. A write that may
// have arrived must wait for its answer, for as long as TCP takes to bring it.
func TestLossOf30Percent(t *testing.T) {
	o := shared.outage(t)
	o.patience = time.Minute
	o.live(onLink(shared.edge, netns.Condition{Loss: 30}))
}

// TestLongRoundTrip: the link is slow to answer and otherwise well. The hub gets
// used to it, and follows the cloud.
func TestLongRoundTrip(t *testing.T) {
	var delayed chan error
	var stop context.CancelFunc
	mend := func(context.Context) error {
		if stop == nil {
			return nil
		}
		stop()
		stop = nil
		return <-delayed
	}
	shared.outage(t).live(fault{
		strike: func(ctx context.Context) error {
			ctx, stop = context.WithCancel(ctx)
			delayed = make(chan error, 1)
			go func() { delayed <- shared.edge.Delay(ctx, 2*time.Second) }()
			time.Sleep(time.Second) // it is in place
			return nil
		},
		mend:   mend,
		up:     30 * time.Second,
		during: (*outage).staysUp,
	})
}

// staysUp asserts that the link is taken for what it is.
func (o *outage) staysUp() {
	o.t.Helper()
	status, err := adminapi.Get(o.t.Context(), o.admin, adminPort)
	must(o.t, err)
	since := status.Link.Since
	o.greyness()
	status, err = adminapi.Get(o.t.Context(), o.admin, adminPort)
	must(o.t, err)
	if status.Link.State != "up" || !status.Link.Since.Equal(since) {
		o.t.Errorf("the link is %s since %v (%s), was up since %v", status.Link.State, status.Link.Since, status.Link.Reason, since)
	}
}

func Test64KilobitPerSecond(t *testing.T) {
	f := onLink(shared.edge, netns.Condition{Rate: 64})
	f.up = 30 * time.Second
	shared.outage(t).live(f)
}

func TestProxyAnswers502(t *testing.T) {
	shared.outage(t).live(inFront(shared, answer(t, http.StatusBadGateway, "text/html", "<html>Bad Gateway</html>")))
}

func TestProxyAnswers503(t *testing.T) {
	shared.outage(t).live(inFront(shared, answer(t, http.StatusServiceUnavailable, "text/plain", "no backend")))
}

// A portal that wants to be paid says that all is well.
func TestProxyAnswersHTML(t *testing.T) {
	shared.outage(t).live(inFront(shared, answer(t, http.StatusOK, "text/html; charset=utf-8", "<html>Welcome</html>")))
}

func TestHandshakeHangs(t *testing.T) { shared.outage(t).live(inFront(shared, (*front).hang)) }

// The name of the API server can't be looked up any more, and all connections
// break: the hub finds it where it was. After a restart it does not know that,
// and the node lives on what it has.
func TestDNSGone(t *testing.T) {
	o := shared.outage(t)
	o.live(fault{
		strike: func(context.Context) error {
			err := shared.name(false)
			shared.front.become((*front).pass)
			return err
		},
		mend: func(context.Context) error { return shared.name(true) },
		up:   20 * time.Second,
	})
	must(t, shared.name(false))
	must(t, shared.edge.RestartService(t.Context(), cluster.YurtHub))
	await(t, "the hub runs again", time.Minute, func(ctx context.Context) error {
		_, err := adminapi.Get(ctx, o.admin, adminPort)
		return err
	})
	o.checkKnown(o.round(), deadline)
	must(t, shared.name(true))
	o.awaitLink(t, "up", 30*time.Second)
}

// The link comes and goes every 700 ms, shorter than anybody needs to find out.
func TestFlapping(t *testing.T) {
	o := shared.outage(t)
	before, err := o.metrics(t.Context())
	must(t, err)
	ctx, stop := context.WithTimeout(t.Context(), *flapping)
	defer stop()
	flapped := make(chan error, 1)
	go func() { flapped <- shared.edge.Flap(ctx, 700*time.Millisecond) }()
	rounds := 0
	var slowest time.Duration
	for ; ctx.Err() == nil; rounds++ {
		r := o.round()
		o.checkKnown(r, deadline)
		slowest = max(slowest, r.replica.took, r.get.took, r.list.took)
		time.Sleep(200 * time.Millisecond)
	}
	must(t, <-flapped)
	t.Logf("%d rounds, slowest read %v", rounds, slowest)
	must(t, o.site.change(t.Context(), "after-flapping"))
	o.watch.sees(t, "after-flapping", 30*time.Second)
	o.settle(t)
	o.checkLeaks(before)
}
