package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/scenario"
)

// How long a soak is that nobody has given a length: in CI, and with FAULTS=full.
const (
	short = 3 * time.Minute
	full  = 10 * time.Minute
)

// backInTheDark is how long the pods may take to run again after a boot in the
// dark. The guarantee says 30 s; here two nodes, and what the last fault left,
// share two processors.
const backInTheDark = 90 * time.Second

// agreeAfter is how long both sides may take to agree after a fault: a container
// that a fault made fail is started again after a delay of the kubelet's own.
const agreeAfter = 4 * time.Minute

func TestSoak(t *testing.T) {
	ordinary := short
	if os.Getenv("FAULTS") == "full" {
		ordinary = full
	}
	length, seed := setting(t, "SOAK", ordinary, time.ParseDuration), setting(t, "SEED", 1, parseSeed)
	t.Logf("SOAK=%v SEED=%d", length, seed)
	c := clustertest.Up(t, cluster.Config{
		Nodes:    []cluster.NodeConfig{{Name: "one", Hub: true}, {Name: "two", Hub: true}},
		Progress: &binaries.Progress{Out: os.Stderr},
	})
	s := begin(t, c, rand.New(rand.NewPCG(uint64(seed), 0))) //nolint:gosec // it is to be replayed
	s.agree(t, "at first")

	faults := s.faults()
	done := map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		f, n := pick(s.random, faults), s.Nodes()[s.random.IntN(2)]
		if len(done) == 0 {
			f = faults[0] // however short it is
		}
		t.Logf("%s: %s", n.Config.Name, f.name)
		s.churn(t, func() { f.inject(t, n) })
		must(t, n.Heal(t.Context()))
		must(t, n.Boot(t.Context()))
		s.agree(t, "after "+f.name)
		s.sample(t)
		done[f.name]++
	}
	s.stop()
	s.report(t, done)
}

func setting[V any](t *testing.T, name string, otherwise V, parse func(string) (V, error)) V {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	v, err := parse(text)
	if err != nil {
		t.Fatalf("%s=%s: %v", name, text, err)
	}
	return v
}

func parseSeed(text string) (int, error) { return strconv.Atoi(text) }

// fault is one thing that happens to a node. What it leaves broken is mended
// after it.
type fault struct {
	name   string
	weight int
	inject func(*testing.T, *cluster.Node)
}

func pick(random *rand.Rand, faults []fault) fault {
	total := 0
	for _, f := range faults {
		total += f.weight
	}
	at := random.IntN(total)
	i := slices.IndexFunc(faults, func(f fault) bool { at -= f.weight; return at < 0 })
	return faults[i]
}

// faults are about a minute each, and about every tenth takes the power.
func (s *site) faults() []fault {
	link := func(set func(*cluster.Node, context.Context) error) func(*testing.T, *cluster.Node) {
		return func(t *testing.T, n *cluster.Node) {
			t.Helper()
			must(t, set(n, t.Context()))
			s.forAWhile()
		}
	}
	kill := func(service string) func(*testing.T, *cluster.Node) {
		return func(t *testing.T, n *cluster.Node) {
			t.Helper()
			must(t, n.Cut(t.Context()))
			s.forAWhile()
			must(t, n.Kill(t.Context(), service, syscall.SIGKILL))
			s.forAWhile()
		}
	}
	return []fault{
		{"power cut, boot in the dark", 1, s.bootInTheDark},
		{"link cut", 4, link((*cluster.Node).Cut)},
		{"link silent", 3, link((*cluster.Node).Blackhole)},
		{"connections forgotten", 2, link((*cluster.Node).Forget)},
		{"link loses 20 %", 2, link(func(n *cluster.Node, ctx context.Context) error { return n.Lossy(ctx, 20) })},
		{"link of 256 kbit/s", 2, link(func(n *cluster.Node, ctx context.Context) error { return n.Slow(ctx, 256) })},
		{"hub killed in the dark", 2, kill(cluster.YurtHub)},
		{"kubelet killed in the dark", 1, kill(cluster.Kubelet)},
		{"hub killed", 2, func(t *testing.T, n *cluster.Node) {
			t.Helper()
			must(t, n.Kill(t.Context(), cluster.YurtHub, syscall.SIGKILL))
			s.forAWhile()
		}},
		{"power cut", 1, func(t *testing.T, n *cluster.Node) {
			t.Helper()
			must(t, n.PowerCut())
			s.forAWhile()
		}},
	}
}

// forAWhile lets a fault last, for 5 to 25 seconds.
func (s *site) forAWhile() {
	time.Sleep(5*time.Second + time.Duration(s.random.IntN(20000))*time.Millisecond)
}

func (s *site) bootInTheDark(t *testing.T, n *cluster.Node) {
	t.Helper()
	ctx := t.Context()
	must(t, n.Cut(ctx))
	await(t, "the link is down", 30*time.Second, func(ctx context.Context) error { return scenario.AwaitLink(ctx, n, "down") })
	time.Sleep(3 * time.Second) // what began before the cut ends
	known := s.knownOn(t, n)
	s.forAWhile()
	must(t, n.PowerCut())
	must(t, n.Boot(ctx))
	booted := time.Now()
	await(t, "all pods of "+n.Config.Name+" run again in the dark", backInTheDark, func(ctx context.Context) error {
		now, err := scenario.Running(ctx, n)
		if err != nil {
			return err
		}
		for name := range known {
			if now[name].UID == "" {
				return fmt.Errorf("%s does not run; there are %s", name, strings.Join(scenario.Names(now), ", "))
			}
		}
		return nil
	})
	t.Logf("%s: %d pods run again %v after the boot in the dark", n.Config.Name, len(known), time.Since(booted).Round(100*time.Millisecond))
}
