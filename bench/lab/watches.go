package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/bench/canned"
	"yurt/bench/gauge"
	"yurt/bench/load"
	"yurt/bench/result"
)

// A source makes events of the pods of a node: n of them, so many a second, as fast as it can if rate is 0.
type source func(ctx context.Context, node string, n, rate int) error

// cannedSource lets a canned API server make the events.
func cannedSource(s *site) source {
	return func(ctx context.Context, node string, n, rate int) error {
		client := load.New(s.server(s.url))
		defer client.Close()
		return client.Emit(ctx, canned.EmitPath, podsPath+"?"+ofNode(node), n, rate)
	}
}

// follow lists the pods of a node and watches from there, as a reflector does.
func follow(ctx context.Context, client *load.Client, node string) (*load.Stream, error) {
	if _, err := client.Get(ctx, fromReplica(ofNode(node)), load.Protobuf); err != nil {
		return nil, err
	}
	version, err := client.Version()
	if err != nil {
		return nil, err
	}
	return client.Watch(ctx, podsPath, url.Values{"resourceVersion": {version}, "fieldSelector": {ofNode(node)}})
}

// streams is row 4. Each target has events of its own, so that nobody works on another's account.
func (b *bench) streams(ctx context.Context, s *site, targets []*target, emit source, events map[int]int) error {
	for _, watchers := range []int{1, 10} {
		n := events[watchers]
		if n == 0 {
			continue
		}
		name := countOf(watchers, "watcher")
		err := b.sideBySide(targets, func(t *target) error {
			var took time.Duration
			used, err := cost(t.pid, func() (err error) {
				took, err = b.stream(ctx, t, watchers, n, emit)
				return err
			})
			if err != nil {
				return err
			}
			b.add(4, name, s.upstream, t.name, float64(n*watchers)/took.Seconds())
			b.add(4, name+", CPU per event", s.upstream, t.name, micros(used, n*watchers))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stream returns how long it takes until each watcher has had n events.
func (b *bench) stream(ctx context.Context, t *target, watchers, n int, emit source) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	node := "stream-" + t.name
	var opened closers
	defer opened.close()
	var all []*load.Stream
	for range watchers {
		client := load.New(t.server)
		opened.add(client.Close)
		stream, err := follow(ctx, client, node)
		if err != nil {
			return 0, err
		}
		opened.add(stream.Close)
		all = append(all, stream)
	}
	time.Sleep(200 * time.Millisecond) // what the list has cost is over
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return emit(ctx, node, n, 0) })
	for _, stream := range all {
		group.Go(func() error {
			for got := 0; got < n; {
				typ, _, err := stream.Next()
				if err != nil {
					return fmt.Errorf("after %d events: %w", got, err)
				}
				if typ != "BOOKMARK" {
					got++
				}
			}
			return nil
		})
	}
	err := group.Wait()
	return time.Since(begin), err
}

// arrivals is when each event came, by its number.
type arrivals struct {
	mu   sync.Mutex
	when map[string]time.Time
}

func (a *arrivals) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.when)
}

// latencies is row 5: all watch the same events at the same time, and what is measured is how much later they come than directly.
func (b *bench) latencies(ctx context.Context, s *site, targets []*target, emit source) (err error) {
	const node, events, rate = "latency", 300, 100
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	var opened closers
	defer opened.close()
	came := map[string]*arrivals{}
	for _, t := range targets {
		client := load.New(t.server)
		opened.add(client.Close)
		stream, err := follow(ctx, client, node)
		if err != nil {
			return err
		}
		opened.add(stream.Close)
		a := &arrivals{when: map[string]time.Time{}}
		came[t.name] = a
		reading.Go(func() { a.read(stream) })
	}
	for round := range b.cfg.Rounds {
		want := events * (round + 1)
		used := map[string]time.Duration{}
		before := map[string]time.Duration{}
		for _, t := range targets {
			if before[t.name], err = gauge.CPU(t.pid); err != nil {
				return err
			}
		}
		if err := emit(ctx, node, events, rate); err != nil {
			return err
		}
		if err := awaitAll(ctx, came, want); err != nil {
			return err
		}
		for _, t := range targets {
			after, err := gauge.CPU(t.pid)
			if err != nil {
				return err
			}
			used[t.name] = after - before[t.name]
			b.add(5, "CPU per event", s.upstream, t.name, micros(used[t.name], events))
		}
		if err := b.addLatencies(s, targets, came); err != nil {
			return err
		}
	}
	return nil
}

func (a *arrivals) read(stream *load.Stream) {
	for {
		_, object, err := stream.Next()
		now := time.Now()
		if err != nil {
			return // the measurement is over, or awaitAll will say that events are missing
		}
		if number, ok := load.Mark(object, canned.Mark, canned.Digits); ok {
			a.mu.Lock()
			a.when[number] = now
			a.mu.Unlock()
		}
	}
}

func awaitAll(ctx context.Context, came map[string]*arrivals, want int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("events are missing"))
	defer cancel()
	_, err := load.Await(ctx, 5*time.Millisecond, func() error {
		for name, a := range came {
			if got := a.len(); got < want {
				return fmt.Errorf("%s has brought %d events of %d", name, got, want)
			}
		}
		return nil
	})
	return err
}

// addLatencies records what the newest events gained, and forgets them.
func (b *bench) addLatencies(s *site, targets []*target, came map[string]*arrivals) error {
	sync50, _, err := gauge.Fdatasync(b.dir)
	if err != nil {
		return err
	}
	direct := came[result.Direct]
	for _, t := range targets[1:] {
		var gained []float64
		a := came[t.name]
		a.mu.Lock()
		direct.mu.Lock()
		for number, at := range a.when {
			if first, ok := direct.when[number]; ok && !at.IsZero() && !first.IsZero() {
				gained = append(gained, millis(at.Sub(first), 1))
				a.when[number] = time.Time{} // counted
			}
		}
		direct.mu.Unlock()
		a.mu.Unlock()
		p50, p99 := result.Median(gained), result.Percentile(gained, 0.99)
		b.add(5, "p50", s.upstream, t.name, p50)
		b.add(5, "p50 less 2 fdatasyncs", s.upstream, t.name, p50-2*millis(sync50, 1))
		b.add(5, "p99", s.upstream, t.name, p99)
		b.add(5, "p99 less 4 fdatasyncs", s.upstream, t.name, p99-4*millis(sync50, 1))
	}
	b.result.Conditions["fdatasync of 4 KiB"] = strconv.FormatInt(sync50.Microseconds(), 10) + " µs"
	return nil
}
