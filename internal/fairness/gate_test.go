package fairness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	node  = Client{Node: true}
	alice = Client{Name: "alice"}
	bob   = Client{Name: "bob"}
)

// unpaced are limits under which only seats count.
func unpaced(seats int) Limits {
	l := DefaultLimits(seats)
	l.Rate, l.Burst = 1e9, 1e9
	return l
}

func enter(t *testing.T, g *Gate, r Request) *Turn {
	t.Helper()
	turn, err := g.Enter(t.Context(), r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	return turn
}

// known is what the gate knows of a client now.
func known(g *Gate, id Client) client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return *g.clients[id]
}

// crowd sends requests at the same time, and tells how each fared.
type crowd struct {
	sync.WaitGroup
	mu      sync.Mutex
	turns   []*Turn
	refused map[Reason]int
}

func (c *crowd) send(ctx context.Context, g *Gate, r Request, n int) {
	for range n {
		c.Go(func() {
			turn, err := g.Enter(ctx, r)
			c.mu.Lock()
			defer c.mu.Unlock()
			var refusal *RefusalError
			switch {
			case err == nil:
				c.turns = append(c.turns, turn)
			case errors.As(err, &refusal):
				if c.refused == nil {
					c.refused = map[Reason]int{}
				}
				c.refused[refusal.Reason]++
			}
		})
	}
}

func (c *crowd) in() int {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.turns)
}

func (c *crowd) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, turn := range c.turns {
		turn.End()
	}
	c.turns = nil
}

func TestNodeIsNeverSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(DefaultLimits(50))
		var pods crowd
		for i := range 20 {
			pods.send(t.Context(), g, Request{Client: Client{Name: fmt.Sprint("pod", i)}}, 300)
			pods.send(t.Context(), g, Request{Client: Client{Name: fmt.Sprint("pod", i)}, Stream: true}, 300)
		}
		synctest.Wait()
		began := time.Now()
		for range 10 { // what others may not have
			enter(t, g, Request{Client: node, Body: seatBytes - 1})
		}
		for range 3000 {
			enter(t, g, Request{Client: node, Stream: true})
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("the node waited for %s", waited)
		}
		pods.Wait()
	})
}

func TestNodeHasTheNextSeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(Limits{Seats: 1, Others: 1, Share: 1, Rate: 1e9, Burst: 1e9, Queue: 10, Patience: time.Hour})
		first := enter(t, g, Request{Client: alice})
		var others, kubelet crowd
		others.send(t.Context(), g, Request{Client: bob}, 3)
		synctest.Wait()
		kubelet.send(t.Context(), g, Request{Client: node}, 1)
		synctest.Wait()
		first.End()
		if kubelet.in() != 1 || others.in() != 0 {
			t.Errorf("%d of the node and %d of others were let in, want the node", kubelet.in(), others.in())
		}
		kubelet.end()
		for range 3 {
			if others.in() != 1 {
				t.Fatalf("%d of others were let in, want one after the other", others.in())
			}
			others.end()
		}
	})
}

func TestShareOfSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(unpaced(100))
		var greedy, large, modest crowd
		greedy.send(t.Context(), g, Request{Client: alice}, 60)
		if in := greedy.in(); in != 10 {
			t.Errorf("%d requests of one client at a time, want its share of 10", in)
		}
		large.send(t.Context(), g, Request{Client: Client{Name: "large"}, Body: 3*seatBytes + 1}, 10)
		if in := large.in(); in != 2 {
			t.Errorf("%d requests of 4 seats each, want 2", in)
		}
		modest.send(t.Context(), g, Request{Client: bob}, 3)
		if in := modest.in(); in != 3 {
			t.Errorf("%d requests of another client were let in, want all 3", in)
		}
		greedy.end()
		if in := greedy.in(); in != 10 {
			t.Errorf("%d requests took the place of those that ended, want 10", in)
		}
		large.Wait()
		greedy.Wait()
	})
}

// TestQueueIsBounded: in number, and in time.
func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := unpaced(20)
		g := NewGate(l)
		began := time.Now()
		var pod crowd
		pod.send(t.Context(), g, Request{Client: alice}, 1000)
		synctest.Wait()
		if c := known(g, alice); c.waiting != l.Queue || c.held != l.Queue {
			t.Errorf("%d wait and %d are held back, want %d each", c.waiting, c.held, l.Queue)
		}
		pod.Wait()
		if took := time.Since(began); took != l.Patience {
			t.Errorf("the last answer came after %s, want %s", took, l.Patience)
		}
		if pod.in() != l.Share || pod.refused[NoSeat] != l.Queue || pod.refused[QueueFull] != 1000-l.Queue-l.Share {
			t.Errorf("%d let in, refused: %v", pod.in(), pod.refused)
		}
		pod.end()
		enter(t, g, Request{Client: alice}).End()
	})
}

// TestPace: a client that asks again at once, whatever it is told, gets its rate
// and costs little more.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := DefaultLimits(250)
		g := NewGate(l)
		const workers = 150
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		var mu sync.Mutex
		var answered, refused int
		var all sync.WaitGroup
		for range workers {
			all.Go(func() {
				for ctx.Err() == nil {
					turn, err := g.Enter(ctx, Request{Client: alice})
					mu.Lock()
					if err == nil {
						answered++
						turn.End()
					} else {
						refused++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		if want := l.Burst + 100*l.Rate; float64(answered) < want-2 || float64(answered) > want+2 {
			t.Errorf("%d answers in 100 s, want %g", answered, want)
		}
		if refused > 100*workers {
			t.Errorf("%d refusals to %d workers in 100 s", refused, workers)
		}
		enter(t, g, Request{Client: bob}).End()
	})
}

// TestRefusalIsFree: who is turned away because too many wait has not paid for it.
func TestRefusalIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := DefaultLimits(20)
		l.Rate, l.Burst, l.Queue = 0.001, 10, 3
		g := NewGate(l)
		var pod crowd
		pod.send(t.Context(), g, Request{Client: alice}, l.Share+l.Queue)
		synctest.Wait()
		var more crowd
		more.send(t.Context(), g, Request{Client: alice}, 2)
		synctest.Wait()
		if left, want := known(g, alice).purse.credit, l.Burst-float64(l.Share+l.Queue); left < want || left > want+0.1 {
			t.Errorf("%g requests are left to the client, want %g", left, want)
		}
		more.Wait()
		if more.refused[QueueFull] != 2 {
			t.Errorf("refused: %v", more.refused)
		}
		pod.end()
		pod.Wait()
	})
}

func TestStreamsTakeNoSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := unpaced(20)
		g := NewGate(l)
		var watches crowd
		watches.send(t.Context(), g, Request{Client: alice, Stream: true}, l.Streams+10)
		watches.Wait()
		if watches.in() != l.Streams || watches.refused[TooManyStreams] != 10 {
			t.Errorf("%d streams, refused: %v", watches.in(), watches.refused)
		}
		began := time.Now()
		for range l.Share {
			turn := enter(t, g, Request{Client: alice})
			t.Cleanup(turn.End)
		}
		if time.Since(began) > 0 {
			t.Error("streams hold up other requests")
		}
		watches.end()
		enter(t, g, Request{Client: alice, Stream: true}).End()
	})
}

// TestLongAnswersCost: who reads megabytes reads them more rarely.
func TestLongAnswersCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := DefaultLimits(250)
		g := NewGate(l)
		began := time.Now()
		const each, answers = 40, 100
		for range answers {
			turn := enter(t, g, Request{Client: alice})
			for range each * 4 {
				turn.Sent(creditBytes / 4)
			}
			turn.End()
		}
		want := (answers*(each+1) - l.Burst - each) / l.Rate // the last one is not waited for
		if took := time.Since(began).Seconds(); took < want-1 || took > want+1 {
			t.Errorf("took %.1f s, want %.1f", took, want)
		}
		for range 100 {
			turn := enter(t, g, Request{Client: node})
			turn.Sent(100 << 20)
			turn.End()
		}
	})
}

// TestWhoGoesFreesItsPlace: a client that hangs up while it waits leaves nothing
// behind.
func TestWhoGoesFreesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(DefaultLimits(20))
		ctx, cancel := context.WithCancel(t.Context())
		var pod crowd
		pod.send(ctx, g, Request{Client: alice}, 500)
		pod.send(ctx, g, Request{Client: alice, Stream: true}, 500)
		synctest.Wait()
		cancel()
		pod.Wait()
		pod.end()
		nobody(t, g)
	})
}

func nobody(t *testing.T, g *Gate) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seats != 0 || g.others != 0 || g.streams != 0 || len(g.line) != 0 {
		t.Errorf("left behind: %d seats, %d of others, %d streams, %d in line", g.seats, g.others, g.streams, len(g.line))
	}
	for id, c := range g.clients {
		if !c.idle() {
			t.Errorf("%+v is still there: %+v", id, c)
		}
	}
}

// TestRandomCrowd: whatever comes and goes, no limit is passed and nothing is
// left behind.
func TestRandomCrowd(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		l := Limits{Seats: 12, Others: 9, Share: 4, Streams: 3, NodeStreams: 5, AllStreams: 7, Rate: 50, Burst: 20, Queue: 6, Patience: time.Second, Hold: 100 * time.Millisecond}
		g := NewGate(l)
		clients := []Client{node, alice, bob, {Name: "carol"}, {Name: "dave"}}
		var all sync.WaitGroup
		for range 3000 {
			r := Request{Client: clients[random.IntN(len(clients))], Stream: random.IntN(4) == 0, Body: random.Int64N(6 * seatBytes)}
			stay, patience := time.Duration(random.IntN(300))*time.Millisecond, time.Duration(1+random.IntN(2000))*time.Millisecond
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if turn, err := g.Enter(ctx, r); err == nil {
					turn.Sent(int(r.Body))
					time.Sleep(stay)
					turn.End()
				}
			})
			time.Sleep(time.Duration(random.IntN(8)) * time.Millisecond)
			synctest.Wait()
			g.mu.Lock()
			if g.seats > l.Seats || g.others > l.Others || g.streams > l.AllStreams {
				t.Fatalf("%d seats, %d of others, %d streams", g.seats, g.others, g.streams)
			}
			for id, c := range g.clients {
				if !c.Node && (c.seats > l.Share || c.streams > l.Streams) || c.waiting > l.Queue || c.held > l.Queue {
					t.Fatalf("%+v: %+v", id, c)
				}
			}
			g.mu.Unlock()
		}
		all.Wait()
		nobody(t, g)
	})
}

// TestClientsAreForgotten: what is remembered of clients is bounded.
func TestClientsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(DefaultLimits(20))
		busy := enter(t, g, Request{Client: alice})
		for i := range 10 * maxClients {
			enter(t, g, Request{Client: Client{Name: fmt.Sprint(i)}}).End()
		}
		if len(g.clients) > maxClients {
			t.Errorf("%d clients are remembered", len(g.clients))
		}
		busy.End()
		nobody(t, g)
	})
}

func TestMetrics(t *testing.T) {
	l := unpaced(10)
	l.Streams = 1
	g := NewGate(l)
	for _, r := range []Request{{Client: node}, {Client: Client{Name: "node"}}, {Client: alice, Stream: true}, {Client: Client{Name: "\xff"}}} {
		turn := enter(t, g, r)
		t.Cleanup(turn.End)
	}
	if _, err := g.Enter(t.Context(), Request{Client: alice, Stream: true}); err == nil {
		t.Error("a stream too many was let in")
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(g)
	want := `
# HELP yurthub_client_requests_in_flight Requests of a client being answered: streams (watch, exec, logs), seats (all others; a large body takes several), and those that wait.
# TYPE yurthub_client_requests_in_flight gauge
yurthub_client_requests_in_flight{client="?",kind="seats"} 1
yurthub_client_requests_in_flight{client="?",kind="streams"} 0
yurthub_client_requests_in_flight{client="?",kind="waiting"} 0
yurthub_client_requests_in_flight{client="alice",kind="seats"} 0
yurthub_client_requests_in_flight{client="alice",kind="streams"} 1
yurthub_client_requests_in_flight{client="alice",kind="waiting"} 0
yurthub_client_requests_in_flight{client="node",kind="seats"} 1
yurthub_client_requests_in_flight{client="node",kind="streams"} 0
yurthub_client_requests_in_flight{client="node",kind="waiting"} 0
yurthub_client_requests_in_flight{client="user \"node\"",kind="seats"} 1
yurthub_client_requests_in_flight{client="user \"node\"",kind="streams"} 0
yurthub_client_requests_in_flight{client="user \"node\"",kind="waiting"} 0
# HELP yurthub_requests_refused_total Requests answered 429, by the limit that they were beyond.
# TYPE yurthub_requests_refused_total counter
yurthub_requests_refused_total{reason="queue"} 0
yurthub_requests_refused_total{reason="rate"} 0
yurthub_requests_refused_total{reason="seats"} 0
yurthub_requests_refused_total{reason="streams"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// TestSetLimits: new limits hold for who comes, and seat who waits.
func TestSetLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(unpaced(20))
		client := Request{Client: Client{Name: "greedy"}}
		var in int
		for ; ; in++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := g.Enter(ctx, client)
			cancel()
			if err != nil {
				break
			}
		}
		seated := make(chan error)
		go func() {
			_, err := g.Enter(t.Context(), client)
			seated <- err
		}()
		synctest.Wait()
		g.SetLimits(unpaced(200))
		if err := <-seated; err != nil {
			t.Errorf("who waited: %v", err)
		}
		if share := unpaced(200).Share; in >= share {
			t.Fatalf("%d seats of %d: the limits were not lower before", in, share)
		}
		g.SetLimits(unpaced(20))
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := g.Enter(ctx, client); err == nil {
			t.Error("seated beyond the new limits")
		}
	})
}
