package replica

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/credential"
)

// used makes a collection of an identity that somebody has used once.
func used(t *testing.T, w *world, identity, selector string) *Collection {
	t.Helper()
	key := shop
	key.Identity.Name, key.FieldSelector = identity, selector
	c, err := w.set.Use(key, credential.Credential{Identity: key.Identity}, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestChurningNames: names come and go, each read once, for a month. What is kept
// does not grow, in the store neither.
func TestChurningNames(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		most, records := 0, 0
		for hour := range 24 * 30 {
			used(t, w, "", fmt.Sprintf("metadata.name=job-%d", hour)) // and it is deleted soon
			time.Sleep(time.Hour)
			synctest.Wait()
			most = max(most, len(w.set.All()))
			records = max(records, w.store.Stats().Tables)
		}
		if most > 3 || records > 3 {
			t.Errorf("up to %d collections in %d tables are kept of names that are gone", most, records)
		}
	})
}

// TestBudget: if the store holds more than it may, what has not been used for
// longest goes first, and never what kubelet and kube-proxy have, nor what is in
// use.
func TestBudget(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.cloud.change("ADDED", "large", strings.Repeat("x", 100<<10), false)
		for _, identity := range []string{"", kubeProxies()[0], "oldest", "older", "newer"} {
			used(t, w, identity, "")
			time.Sleep(20 * time.Minute)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inUse := used(t, w, "in-use", "")
		defer inUse.await()()
		time.Sleep(20 * time.Minute)
		has := func() (names []string) {
			for _, c := range w.set.All() {
				names = append(names, c.Identity.String())
			}
			slices.Sort(names)
			return names
		}
		for _, tc := range []struct {
			most int64
			want []string
		}{
			{0, []string{"in-use", "newer", "node", "older", "oldest", kubeProxies()[0]}},
			{550 << 10, []string{"in-use", "newer", "node", "older", kubeProxies()[0]}},
			{450 << 10, []string{"in-use", "newer", "node", kubeProxies()[0]}},
			{1, []string{"in-use", "node", kubeProxies()[0]}},
		} {
			w.set.forgetAbove(ctx, tc.most)
			if got := has(); !slices.Equal(got, tc.want) {
				t.Errorf("with room for %d bytes: %v, want %v", tc.most, got, tc.want)
			}
		}
	})
}
