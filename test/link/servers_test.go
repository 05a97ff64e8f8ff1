package link

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"yurt/internal/playground/cluster"
)

// Two API servers: one dies, stops without a word, and returns; then both are
// dead. Clients notice nothing but that.
func TestSeveralAPIServers(t *testing.T) {
	h := shared.hub(t, shared.twin)
	h.settle(t)
	watch := h.watch(t, configMaps)
	cloud := shared.Cloud()
	first, second := cluster.APIServer(0), cluster.APIServer(1)
	t.Cleanup(func() {
		_ = cloud.Kill(context.Background(), first, syscall.SIGCONT)
		for _, name := range []string{first, second} {
			if err := cloud.StartService(context.Background(), name); err != nil {
				t.Errorf("start %s: %v", name, err)
			}
		}
	})
	ctx := t.Context()
	h.reads(t, "both live", 0)

	must(t, cloud.StopService(ctx, first))
	h.reads(t, "the first is stopped", 0)
	must(t, shared.changeThrough(ctx, 1, "while-stopped"))
	watch.sees(t, "while-stopped", 30*time.Second)

	must(t, cloud.StartService(ctx, first))
	must(t, cloud.StopService(ctx, second))
	await(t, "the first answers again", time.Minute, func(ctx context.Context) error {
		if a := h.ask(ctx, http.MethodGet, configMaps+"/known-2", ""); a.err != nil || a.code != http.StatusOK || a.stale {
			return fmt.Errorf("answer %d, stale %t: %w", a.code, a.stale, a.err)
		}
		return nil
	})
	must(t, shared.changeThrough(ctx, 0, "while-second-stopped"))
	watch.sees(t, "while-second-stopped", 30*time.Second)

	// It stops in the middle of everything: its connections stand, and are silent.
	must(t, cloud.StartService(ctx, second))
	await(t, "the second is up", time.Minute, func(ctx context.Context) error {
		return shared.changeThrough(ctx, 1, fmt.Sprintf("second-%d", time.Now().UnixNano()))
	})
	time.Sleep(2 * time.Second) // as long as it takes to be probed
	must(t, cloud.Kill(ctx, first, syscall.SIGSTOP))
	h.reads(t, "the first hangs", 2)
	must(t, cloud.Kill(ctx, first, syscall.SIGCONT))

	must(t, cloud.StopService(ctx, first))
	must(t, cloud.StopService(ctx, second))
	h.awaitLink(t, "down", 20*time.Second)
	a := h.ask(ctx, http.MethodGet, configMaps+"/known-2", "")
	if a.err != nil || a.code != http.StatusOK || !a.stale {
		t.Errorf("with all dead: %d, stale %t, %v", a.code, a.stale, a.err)
	}
	must(t, cloud.StartService(ctx, second))
	h.awaitLink(t, "up", time.Minute)
	must(t, shared.changeThrough(ctx, 1, "second-alone"))
	watch.sees(t, "second-alone", 30*time.Second)
}

// changeThrough makes a ConfigMap by way of one of the API servers.
func (s *site) changeThrough(ctx context.Context, server int, name string) error {
	cmd, err := s.Kubectl(ctx, "--server="+s.APIServerURLs()[server], "--namespace="+namespace, "create", "configmap", name)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("create %s: %w: %s", name, err, out)
	}
	return nil
}

// reads sends reads for a few seconds; all are answered, and no more than some of
// them from here.
func (h *hub) reads(t *testing.T, when string, stale int) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	got := 0
	var slowest time.Duration
	for range 30 {
		all.Go(func() {
			a := h.ask(t.Context(), http.MethodGet, configMaps+"/known-2", "")
			mu.Lock()
			defer mu.Unlock()
			if a.err != nil || a.code != http.StatusOK {
				t.Errorf("%s: %d, %v: %.200s", when, a.code, a.err, a.body)
			}
			if a.stale {
				got++
			}
			slowest = max(slowest, a.took)
		})
		time.Sleep(100 * time.Millisecond)
	}
	all.Wait()
	t.Logf("%s: %d of 30 reads answered from here, the slowest took %v", when, got, slowest)
	if stale == 0 && got > 0 {
		t.Errorf("%s: %d reads were answered from here, though an API server was there", when, got)
	}
	if slowest > deadline {
		t.Errorf("%s: a read took %v", when, slowest)
	}
}
