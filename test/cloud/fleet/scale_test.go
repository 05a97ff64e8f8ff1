package fleet

import (
	"flag"
	"testing"
	"time"
)

const late = 200 // pods that are bound late, one by one

// TestScale measures the controllers: what 99 of 100 nodes lose that go dark in the same second, and what it takes to keep it. It takes
// the whole machine for many minutes, so it runs only when it is asked for.
func TestScale(t *testing.T) {
	if *nodes == 0 {
		t.Skip("takes many minutes: ask for it with -nodes 5000")
	}
	of := size{nodes: *nodes, pods: *podsPerNode, renewal: 40 * time.Second, grace: 160 * time.Second}
	t.Run("with the controllers", func(t *testing.T) {
		f := open(t, of)
		f.meter = f.startController(t)
		f.live(t)
		r := f.outage(t)
		f.meter.during(t, "heal", func() { f.heal(t) })
		t.Logf("\n%s", f.meter)
		f.judge(t, r)
	})
	t.Run("without them", func(t *testing.T) {
		f := open(t, of)
		f.live(t)
		f.outage(t)
	})
}

// live makes the fleet, and brings it to where it has something to lose.
func (s *site) live(t *testing.T) {
	t.Helper()
	begun := time.Now()
	since := func() time.Duration { return time.Since(begun).Round(time.Second) }
	s.meter.during(t, "the fleet is made", func() {
		must(t, s.create(t.Context()))
		t.Logf("%d nodes and %d pods made in %v", s.nodes, s.nodes*s.pods, since())
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

// outage takes the fleet away, and returns what is lost: all that nobody protects. Where nobody protects anything, it does not wait for
// the last eviction; the stock controllers take a quarter of an hour for so many.
func (s *site) outage(t *testing.T) (l losses) {
	t.Helper()
	s.meter.during(t, "darkness", func() {
		cut := time.Now()
		s.darken()
		if s.meter != nil {
			await(t, "the ordinary half is evicted", 20*time.Minute, s.lost)
		} else {
			await(t, "both halves are being evicted", 20*time.Minute, s.losing)
		}
		time.Sleep(30 * time.Second) // for what should not happen to happen
		var err error
		l, err = s.losses()
		must(t, err)
		t.Logf("%v after the cut:\n%s", time.Since(cut).Round(time.Second), l)
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

var (
	nodes       = flag.Int("nodes", 0, "nodes of the fleet; none: left out")
	podsPerNode = flag.Int("pods-per-node", 5, "pods on each")
)
