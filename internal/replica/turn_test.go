package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/credential"
	"yurt/internal/store"
	"yurt/internal/upstream"
)

// TestNext: who may ask beside those that do.
func TestNext(t *testing.T) {
	t.Parallel()
	short, long := errand{}, errand{long: true}
	kubelets, kubeletsLong := errand{node: true}, errand{node: true, long: true}
	full := slices.Repeat([]errand{short}, glances)
	for _, tc := range []struct {
		name             string
		running, waiting []errand
		want             int
	}{
		{"nobody", nil, nil, -1},
		{"the first who came", nil, []errand{long, long}, 0},
		{"the kubelet first", nil, []errand{short, long, kubelets}, 2},
		{"one long list at a time", []errand{long}, []errand{long}, -1},
		{"one of the kubelet's too", []errand{kubeletsLong}, []errand{kubeletsLong}, -1},
		{"the kubelet does not wait for others", []errand{long}, []errand{long, kubeletsLong}, 1},
		{"others wait for the kubelet", []errand{kubeletsLong}, []errand{long}, -1},
		{"others let the kubelet begin", []errand{kubeletsLong}, []errand{long, kubeletsLong}, -1},
		{"a glance beside lists", []errand{long, kubeletsLong}, []errand{long, short}, 1},
		{"so many glances", full, []errand{short, kubelets}, -1},
		{"a list beside glances", full, []errand{short, long}, 1},
	} {
		if got := next(tc.running, tc.waiting); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// TestReturnSpread: the longer the outage, the more the nodes' requests are spread.
func TestReturnSpread(t *testing.T) {
	t.Parallel()
	pods := shop
	pods.Resource.Resource = "pods"
	others := pods
	others.Identity.Name = "someone"
	for _, tc := range []struct {
		key    Key
		outage time.Duration
		want   time.Duration
	}{
		{shop, time.Second, time.Second},
		{shop, time.Minute, 7500 * time.Millisecond},
		{shop, time.Hour, 30 * time.Second},
		{pods, time.Minute, time.Second},
		{pods, time.Hour, 5 * time.Second},
		{others, time.Hour, 30 * time.Second},
	} {
		if got := returnSpread(tc.key, tc.outage); got != tc.want {
			t.Errorf("%s after %s: %s, want %s", tc.key, tc.outage, got, tc.want)
		}
	}
}

// TestTurns: many ask at the same time, some give up, some answers come to a
// stop; each gets its turn, and nothing is left behind.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		var all sync.WaitGroup
		var mu sync.Mutex
		long := map[bool]int{}
		for i := range 200 {
			e := errand{node: i%3 == 0, long: i%2 == 0}
			all.Go(func() {
				ctx := t.Context()
				if i%7 == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Duration(i)*10*time.Millisecond)
					defer cancel()
				}
				turn, err := turns.take(ctx, e)
				if i%7 == 0 && errors.Is(err, context.DeadlineExceeded) {
					return
				}
				if err != nil {
					t.Errorf("take: %v", err)
					return
				}
				defer turn.done()
				if !e.long {
					time.Sleep(50 * time.Millisecond)
					return
				}
				mu.Lock()
				if long[e.node]++; long[e.node] > 1 {
					t.Errorf("%d long lists at a time (the kubelet's: %t)", long[e.node], e.node)
				}
				mu.Unlock()
				for range 3 { // it takes long, and goes on
					time.Sleep(turnPatience - time.Second)
					turn.heard()
				}
				mu.Lock()
				long[e.node]--
				mu.Unlock()
			})
		}
		all.Wait()
		if len(turns.running) != 0 || len(turns.waiting) != 0 || len(turns.granted) != 0 {
			t.Errorf("left behind: %+v", turns.running)
		}
	})
}

// A list that hangs holds nobody up for long.
func TestHangingListGivesItsTurnUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		hanging, err := turns.take(t.Context(), errand{long: true})
		if err != nil {
			t.Fatal(err)
		}
		defer hanging.done()
		began := time.Now()
		second, err := turns.take(t.Context(), errand{long: true})
		if err != nil {
			t.Fatal(err)
		}
		defer second.done()
		if waited := time.Since(began); waited != turnPatience {
			t.Errorf("waited %s for a list that hangs, want %s", waited, turnPatience)
		}
	})
}

// slowCloud takes a second for each list, and notes who lists.
type slowCloud struct {
	*cloud
	mu    sync.Mutex
	now   int
	most  int
	order []string
}

func (s *slowCloud) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	if r.URL.Query().Has("watch") {
		return s.cloud.RoundTrip(r, cred)
	}
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.order = append(s.order, cred.Identity.String())
	s.mu.Unlock()
	time.Sleep(time.Second)
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return s.cloud.RoundTrip(r, cred)
}

// A node that comes up lists one long collection after the other, the kubelet's
// before those that still wait.
func TestBookmarksShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const collections, minutes = 8, 60
		st, err := store.Open(t.TempDir(), store.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		up := newCloud()
		up.change("ADDED", "a", "1", false)
		set, err := Open(st, up, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		stopSet, stopStore := run(set.Run), run(st.Run)
		minute := func(used int) {
			for i := range used {
				key := shop
				key.LabelSelector = fmt.Sprintf("n=%d", i)
				if _, err := set.Use(key, credential.Credential{Identity: key.Identity}, 0); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			up.mu.Lock()
			up.mood([]string{"bookmark"})
			up.mu.Unlock()
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		for i := range collections { // one after the other, so that each has a minute of its own
			minute(i + 1)
		}
		for range 10 {
			minute(collections)
		}
		before := st.Stats().Syncs
		for range minutes {
			minute(collections)
		}
		// Six times in the hour, and what comes during one sync goes with the next.
		if syncs := st.Stats().Syncs - before; syncs < 6 || syncs > 6*3 {
			t.Errorf("%d syncs in an hour of bookmarks for %d collections", syncs, collections)
		}
		for _, c := range set.All() {
			if got := c.State().Revision; got+12 < up.revision {
				t.Errorf("%s is at %d, the cloud at %d", c.Key, got, up.revision)
			}
		}
		stopSet()
		stopStore()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		up.mu.Lock()
		up.breakStreams(errors.New("the end"))
		up.mu.Unlock()
		synctest.Wait()
	})
}

func TestListsOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		st, err := store.Open(t.TempDir(), store.Options{Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		up := &slowCloud{cloud: newCloud()}
		up.change("ADDED", "a", "1", false)
		set, err := Open(st, up, log)
		if err != nil {
			t.Fatal(err)
		}
		stopSet, stopStore := run(set.Run), run(st.Run)
		use := func(identity string, n int) {
			key := shop
			key.Identity.Name, key.LabelSelector = identity, fmt.Sprintf("n=%d", n)
			if _, err := set.Use(key, credential.Credential{Identity: key.Identity}, 0); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for i := range 4 {
			use("someone", i)
		}
		for i := range 3 {
			use("", i)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		up.mu.Lock()
		got := strings.Join(up.order, " ")
		if up.most > 2 { // one list of the node's, one that somebody else had begun
			t.Errorf("%d lists at a time", up.most)
		}
		up.mu.Unlock()
		if want := "someone node node node someone someone someone"; got != want {
			t.Errorf("listed for %s, want %s", got, want)
		}
		stopSet()
		stopStore()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		up.cloud.mu.Lock()
		up.breakStreams(errors.New("the end"))
		up.cloud.mu.Unlock()
		synctest.Wait()
	})
}

// A client that waits for a collection ends its feed's wait after an outage.
func TestClientEndsTheWait(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.cloud.change("ADDED", "a", "1", false)
		c, err := w.use()
		if err != nil {
			t.Fatal(err)
		}
		rest()
		w.cloud.set(upstream.Down)
		time.Sleep(time.Hour)
		w.cloud.set(upstream.Up)
		time.Sleep(time.Second)
		if phase := c.State().Phase; phase != Waiting {
			t.Errorf("a second after the return the feed is %s, want it to wait", phase)
		}
		began := time.Now()
		if err := c.Live(t.Context()); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 100*time.Millisecond {
			t.Errorf("the client waited %s", waited)
		}
	})
}
