package lab

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/bench/gauge"
	"yurt/bench/load"
	"yurt/bench/result"
)

const (
	// The 5,000 pods are not the node's own, of which no kubelet has so many: an agent of the node lists them.
	crowd       = "crowd"
	podsInCrowd = 5000
	sliceCount  = 10000
	podsPath    = "/api/v1/pods"
	slicesPath  = "/apis/discovery.k8s.io/v1/endpointslices"
	servicePath = "/api/v1/services"
)

// ofNode is the selector of a kubelet.
func ofNode(node string) string { return "spec.nodeName=" + node }

// fromReplica is a list of pods that any state will do for.
func fromReplica(fieldSelector string) string {
	return podsPath + "?" + url.Values{"resourceVersion": {"0"}, "fieldSelector": {fieldSelector}}.Encode()
}

// together runs f by n clients at the same time and returns what the longest took.
func together(ctx context.Context, n int, s load.Server, f func(ctx context.Context, c *load.Client) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for range n {
		group.Go(func() error {
			client := load.New(s)
			defer client.Close()
			return f(ctx, client)
		})
	}
	return group.Wait()
}

// gets is row 1.
func (b *bench) gets(ctx context.Context, s *site, targets []*target) error {
	const path = "/api/v1/namespaces/bench/pods/checkout-6d5f7c9b8-00001"
	requests := map[int]int{1: 400, 8: 150} // of each client
	for _, clients := range []int{1, 8} {
		who := countOf(clients, "client")
		err := b.sideBySide(targets, func(t *target) error {
			samples := make(chan float64, clients*requests[clients])
			used, err := cost(t.pid, func() error {
				return together(ctx, clients, t.server, func(ctx context.Context, c *load.Client) error {
					for i := range requests[clients] + 5 {
						begin := time.Now()
						if _, err := c.Get(ctx, path, load.Protobuf); err != nil {
							return err
						}
						if i >= 5 { // the connection is made
							samples <- micros(time.Since(begin), 1)
						}
					}
					return nil
				})
			})
			if err != nil {
				return err
			}
			close(samples)
			var all []float64
			for sample := range samples {
				all = append(all, sample)
			}
			b.add(1, who+", p50", s.upstream, t.name, result.Median(all))
			b.add(1, who+", p99", s.upstream, t.name, result.Percentile(all, 0.99))
			b.add(1, who+", CPU per request", s.upstream, t.name, micros(used, clients*(requests[clients]+5)))
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// lists is row 2.
func (b *bench) lists(ctx context.Context, s *site, targets []*target, encodings ...string) error {
	path := fromReplica(ofNode(crowd))
	accept := map[string]string{"protobuf": load.Protobuf, "JSON": load.JSON}
	grown := map[string]float64{}
	for _, encoding := range encodings {
		if err := b.firstList(ctx, targets, path, accept[encoding]); err != nil {
			return err
		}
		for _, clients := range []int{1, 8} {
			name := encoding + ", " + countOf(clients, "client")
			each := map[int]int{1: 3, 8: 1}[clients]
			err := b.sideBySide(targets, func(t *target) error {
				before, err := gauge.MemoryOf(t.pid)
				if err != nil {
					return err
				}
				var took, used time.Duration
				peak, err := gauge.Peak(ctx, t.pid, func() (err error) {
					took, used, err = b.listPhase(ctx, t, clients, each, path, accept[encoding])
					return err
				})
				if err != nil {
					return err
				}
				grown[t.name] = max(grown[t.name], peak-before.Anon)
				b.add(2, name, s.upstream, t.name, float64(clients*each)/took.Seconds())
				b.add(2, name+", CPU per list", s.upstream, t.name, millis(used, clients*each))
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	for _, t := range targets[1:] {
		b.add(2, "memory growth", s.upstream, t.name, grown[t.name])
	}
	return nil
}

// firstList lets all gateways take the list into their replicas.
func (b *bench) firstList(ctx context.Context, targets []*target, path, accept string) error {
	for _, t := range targets {
		err := together(ctx, 1, t.server, func(ctx context.Context, c *load.Client) error {
			_, err := c.Get(ctx, path, accept)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// listPhase lists by several clients, whose connections are made and whose buffers are large enough before the clock starts.
func (b *bench) listPhase(ctx context.Context, t *target, clients, each int, path, accept string) (took, used time.Duration, err error) {
	var opened closers
	defer opened.close()
	all := make([]*load.Client, clients)
	for i := range all {
		all[i] = load.New(t.server)
		opened.add(all[i].Close)
		if _, err := all[i].Get(ctx, "/version", load.JSON); err != nil {
			return 0, 0, err
		}
	}
	begin := time.Now()
	used, err = cost(t.pid, func() error {
		group, ctx := errgroup.WithContext(ctx)
		for _, c := range all {
			group.Go(func() error {
				for range each {
					n, err := c.Get(ctx, path, accept)
					if err != nil {
						return err
					}
					if n < podsInCrowd*2000 {
						return fmt.Errorf("a list of %d pods has %d bytes", podsInCrowd, n)
					}
				}
				return nil
			})
		}
		return group.Wait()
	})
	return time.Since(begin), used, err
}

// watchLists is row 3.
func (b *bench) watchLists(ctx context.Context, s *site, targets []*target) error {
	sync := func(t *target) (took time.Duration, err error) {
		client := load.New(t.server)
		defer client.Close()
		if _, err := client.Get(ctx, "/version", load.JSON); err != nil {
			return 0, err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		begin := time.Now()
		stream, err := client.Watch(ctx, slicesPath, load.WatchList(""))
		if err != nil {
			return 0, err
		}
		defer stream.Close()
		n, err := stream.Sync()
		if err == nil && n < sliceCount {
			err = fmt.Errorf("%d objects, want %d", n, sliceCount)
		}
		return time.Since(begin), err
	}
	for _, t := range targets {
		if _, err := sync(t); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	return b.sideBySide(targets, func(t *target) error {
		var took time.Duration
		used, err := cost(t.pid, func() (err error) {
			took, err = sync(t)
			return err
		})
		b.add(3, "time to bookmark", s.upstream, t.name, millis(took, 1))
		b.add(3, "CPU per object", s.upstream, t.name, micros(used, sliceCount))
		return err
	})
}
