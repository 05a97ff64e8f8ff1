// Package scale measures the cloud's controllers on a fleet: nodes and pods that are objects and heartbeats only, next to a real API
// server and the stock controllers. Half of the nodes are autonomous; 99 of 100 go dark in the same second. What happens to the other
// half, and to both in a second run without the controllers, shows that there was something to lose.
//
// It takes minutes and the whole machine, so it runs only when it is asked for:
//
//	go test -v -timeout 60m ./test/cloud/scale -nodes 5000
package scale

import (
	"context"
	"flag"
	"log/slog"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
)

const (
	renewal = 40 * time.Second
	grace   = 160 * time.Second
	seconds = 20 // that pods tolerate an outage by themselves

	late = 200 // pods that are bound late, one by one
)

// TestFleet is the whole measurement.
func TestFleet(t *testing.T) {
	if *nodes == 0 {
		t.Skip("takes minutes: ask for it with -nodes 5000")
	}
	t.Run("with the controllers", func(t *testing.T) {
		f := open(t)
		f.meter = startController(t, f.cluster, f.client)
		f.live(t)
		r := f.outage(t)
		f.meter.during(t, "heal", func() { f.heal(t) })
		t.Logf("\n%s", f.meter)
		f.judge(t, r)
	})
	t.Run("without them", func(t *testing.T) {
		f := open(t)
		f.live(t)
		if r := f.outage(t); r.autonomous != r.ordinary && *nodes%200 == 0 {
			t.Errorf("the halves differ without anybody who treats them differently: %+v", r)
		}
	})
}

// site is a fleet and the cloud that it belongs to.
type site struct {
	*fleet
	*view
	cluster *cluster.Cluster
	meter   *meter // nil: there are no controllers
}

// open boots a cloud, for a fleet that there is not yet.
//
// It has stock controllers with what the size of the fleet asks for, and without those of which only the load would be seen: addresses
// for nodes, and the older form of endpoints, one object of all addresses, written anew for each.
func open(t *testing.T) *site {
	t.Helper()
	c := clustertest.Up(t, cluster.Config{
		MonitorPeriod: 5 * time.Second, MonitorGrace: grace, TolerationSeconds: seconds,
		APIServerArgs: []string{"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--audit-log-path="},
		ControllerManagerArgs: []string{
			"--node-eviction-rate=1000", "--kube-api-qps=2000", "--kube-api-burst=3000",
			"--controllers=*,-node-ipam-controller,-endpoints-controller",
		},
		Log: slog.New(slog.DiscardHandler),
	})
	cfg := c.RESTConfig()
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	f := newFleet(client, *nodes, *podsPerNode)
	ctx, stop := context.WithCancel(t.Context())
	v, err := watch(ctx, f)
	must(t, err)
	beats := f.heartbeats(ctx)
	t.Cleanup(func() {
		stop()
		v.close()
		if err := beats.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &site{fleet: f, view: v, cluster: c}
}

// live makes the fleet, and brings it to where it has something to lose.
func (s *site) live(t *testing.T) {
	t.Helper()
	begun := time.Now()
	since := func() time.Duration { return time.Since(begun).Round(time.Second) }
	s.meter.during(t, "the fleet is made", func() {
		must(t, s.create(t.Context()))
		t.Logf("%d nodes and %d pods made in %v", *nodes, *nodes**podsPerNode, since())
		await(t, "all pods are served, and protected", 15*time.Minute, func() error {
			if unready, err := s.unready(); len(unready) > 0 {
				t.Fatalf("%d nodes were lost while the fleet was made: it is too large for this machine (%v)", len(unready), err)
			}
			return s.complete(s.meter != nil)
		})
		t.Logf("all served, and protected if there is who does, after %v", since())
	})
	if s.meter == nil {
		return
	}
	s.meter.during(t, "late pods", func() {
		must(t, s.bind(t.Context(), late))
		var delays []time.Duration
		await(t, "late pods are protected", time.Minute, func() (err error) {
			delays, err = s.delays(late)
			return err
		})
		t.Logf("protection of a late pod, %d of them: first %v, p50 %v, p99 %v, last %v", late,
			percentile(delays, 0), percentile(delays, 50), percentile(delays, 99), percentile(delays, 100))
		if p99 := percentile(delays, 99); p99 > time.Second {
			t.Errorf("protection of a late pod takes %v (p99), want 1 s at most", p99)
		}
	})
}

// outage takes the fleet away, and returns what is lost once all is that nobody protects.
func (s *site) outage(t *testing.T) (l losses) {
	t.Helper()
	s.meter.during(t, "darkness", func() {
		cut := time.Now()
		s.darken()
		await(t, "unprotected pods are evicted", 15*time.Minute, func() error { return s.lost(s.meter != nil) })
		after := time.Since(cut)
		time.Sleep(30 * time.Second) // for what should not happen to happen
		var err error
		l, err = s.losses()
		must(t, err)
		t.Logf("all is lost that is not protected %v after the cut; half a minute later:\n%s", after.Round(time.Second), l)
	})
	return l
}

// heal gives the fleet back.
func (s *site) heal(t *testing.T) {
	t.Helper()
	begun := time.Now()
	s.lighten()
	await(t, "all nodes are ready", 10*time.Minute, func() error { return s.whole(t.Context()) })
	t.Logf("all nodes are ready again after %v", time.Since(begun).Round(time.Second))
	time.Sleep(30 * time.Second) // for a storm
}

// judge holds what was measured against what is promised.
func (s *site) judge(t *testing.T, l losses) {
	t.Helper()
	if h := l.autonomous; h.evicted+h.unready+h.unserved > 0 {
		t.Errorf("the autonomous half has lost something: %+v", h)
	}
	for _, p := range s.meter.phases {
		if p.resident > 250 {
			t.Errorf("%s: the controller takes %.0f MB, want 250 MB at most", p.phase, p.resident)
		}
		if p.peak > 250 {
			t.Errorf("%s: the controller makes %.0f requests a second, want 250 at most", p.phase, p.peak)
		}
	}
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(time.Millisecond)
}

func await(t *testing.T, what string, within time.Duration, done func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(2 * time.Second) {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait until %s: %v", what, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var (
	nodes       = flag.Int("nodes", 0, "nodes of the fleet; none: left out")
	podsPerNode = flag.Int("pods-per-node", 5, "pods on each")
)
