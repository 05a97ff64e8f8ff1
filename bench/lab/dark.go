package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"yurt/bench/gauge"
	"yurt/bench/load"
	"yurt/bench/result"
)

const (
	smallNode = nodeName // the hub's own, as its kubelet lists it
	smallPods = 30
)

// firstAnswers is row 9: a hub is started after a power cut, on a replica of 25,000 objects, and a kubelet asks for its pods until
// it gets them.
func (b *bench) firstAnswers(ctx context.Context, s *site, dir string) error {
	program, err := b.programCopy()
	if err != nil {
		return err
	}
	for range b.cfg.Rounds {
		for _, name := range []string{"cold", "warm"} {
			if name == "cold" {
				if err := gauge.Evict(dir, program.Program); err != nil {
					return err
				}
			}
			took, err := b.firstAnswer(ctx, s, program, dir)
			if err != nil {
				return err
			}
			b.add(9, name, s.upstream, HubName, millis(took, 1))
		}
	}
	return nil
}

func (b *bench) firstAnswer(ctx context.Context, s *site, g Gateway, dir string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	t, err := s.launch(ctx, g, start{dir: dir, upstream: nowhere})
	if err != nil {
		return 0, err
	}
	client := load.New(t.server)
	defer client.Close()
	_, err = load.Await(ctx, time.Millisecond, func() error {
		_, err := client.Get(ctx, fromReplica(ofNode(smallNode)), load.Protobuf)
		return err
	})
	took := time.Since(begin)
	if err == nil {
		var n int
		if n, err = client.Items(); err == nil && n != smallPods {
			err = fmt.Errorf("the first answer has %d pods, want %d", n, smallPods)
		}
	}
	return took, errors.Join(err, t.kill())
}

// darkLists is row 10: a hub without a cloud beside the API server.
func (b *bench) darkLists(ctx context.Context, s *site, dir string) error {
	t, err := s.launch(ctx, b.hub(), start{dir: dir, upstream: nowhere})
	if err != nil {
		return err
	}
	defer func() { _ = t.kill() }()
	path := fromReplica(ofNode(crowd))
	clients := map[string]*load.Client{result.Direct: load.New(s.server(s.url)), HubName: load.New(t.server)}
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var opened closers
	defer opened.close()
	for _, c := range clients {
		opened.add(c.Close)
		if _, err := load.Await(waiting, 20*time.Millisecond, func() error {
			_, err := c.Get(waiting, path, load.Protobuf)
			return err
		}); err != nil {
			return err
		}
	}
	for range 3 * b.cfg.Rounds {
		for _, name := range []string{result.Direct, HubName} {
			begin := time.Now()
			if _, err := clients[name].Get(ctx, path, load.Protobuf); err != nil {
				return err
			}
			took := time.Since(begin)
			if n, err := clients[name].Items(); err != nil || n != podsInCrowd {
				return fmt.Errorf("%s lists %d pods, want %d: %w", name, n, podsInCrowd, err)
			}
			b.add(10, "protobuf", s.upstream, name, millis(took, 1))
		}
	}
	return nil
}
