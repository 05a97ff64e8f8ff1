package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/bench/gauge"
	"yurt/bench/load"
)

// session is clients that watch all Services and EndpointSlices, each on a connection of its own.
type session struct {
	streams []*load.Stream
	clients []*load.Client
}

func (s *session) close() {
	for _, stream := range s.streams {
		stream.Close()
	}
	for _, c := range s.clients {
		c.Close()
	}
}

// watchBig opens a session of as many clients as there are servers, and returns when all have synced.
func watchBig(ctx context.Context, servers ...load.Server) (*session, error) {
	s := &session{}
	group, syncing := errgroup.WithContext(ctx)
	for _, server := range servers {
		client := load.New(server)
		s.clients = append(s.clients, client)
		for _, want := range big() {
			stream, err := client.Watch(ctx, want.path, want.query)
			if err != nil {
				return s, errors.Join(err, group.Wait())
			}
			s.streams = append(s.streams, stream)
			group.Go(func() error {
				n, err := stream.Sync()
				if err == nil && n < want.count {
					err = fmt.Errorf("%d objects of %s, want %d", n, want.path, want.count)
				}
				return errors.Join(err, syncing.Err())
			})
		}
	}
	return s, group.Wait()
}

func three(s load.Server) []load.Server { return []load.Server{s, s, s} }

// large is rows 7 to 10, on one replica. tokens are those of three service accounts.
func (b *bench) large(ctx context.Context, s *site, tokens []string) error {
	t, err := s.open(ctx, b.hub(), start{})
	if err != nil {
		return err
	}
	err = b.memoryOfLarge(ctx, s, t)
	if err := errors.Join(err, t.kill()); err != nil {
		return err
	}
	if err := b.step(ctx, 9, s.upstream, func(ctx context.Context) error { return b.firstAnswers(ctx, s, t.dir) }); err != nil {
		return err
	}
	if err := b.step(ctx, 10, s.upstream, func(ctx context.Context) error { return b.darkLists(ctx, s, t.dir) }); err != nil {
		return err
	}
	if !b.wants(7) {
		return nil
	}
	return errors.Join(b.memoryByTokens(ctx, s, tokens), b.memoryInBox(ctx, s))
}

// memoryOfLarge is row 7's steady state, and row 8 on top of it.
func (b *bench) memoryOfLarge(ctx context.Context, s *site, t *target) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	clients, err := watchBig(ctx, three(t.server)...)
	defer clients.close()
	if err != nil {
		return err
	}
	var steady gauge.Memory
	for range 3 {
		if steady, err = settled(ctx, t.pid); err != nil {
			return err
		}
		b.add(7, "RssAnon", s.upstream, t.name, steady.Anon)
		b.add(7, "VmRSS", s.upstream, t.name, steady.RSS)
	}
	b.cfg.Log.Info("measured", "row", 7, "RssAnon", steady.Anon)
	client := load.New(t.server)
	defer client.Close()
	if _, err := client.Get(ctx, fromReplica(ofNode(smallNode)), load.Protobuf); err != nil {
		return err
	}
	for i := range 1 + b.cfg.Rounds {
		// A consistent list of what the replica has is a list of the API server's.
		name, path := "relist", podsPath+"?fieldSelector="+ofNode(crowd)
		if i == 0 {
			name, path = "first list", fromReplica(ofNode(crowd))
		}
		peak, err := gauge.Peak(ctx, t.pid, func() error {
			_, err := client.Get(ctx, path, load.Protobuf)
			return err
		})
		if err != nil {
			return err
		}
		if n, err := client.Items(); err != nil || n != podsInCrowd {
			return fmt.Errorf("a list of %d pods, want %d: %w", n, podsInCrowd, err)
		}
		b.add(8, name, s.upstream, t.name, peak-steady.Anon)
		time.Sleep(time.Second)
	}
	_, err = settled(ctx, t.pid) // what was listed is durable
	return err
}

// memoryByTokens is row 7 with three clients who are not the same.
func (b *bench) memoryByTokens(ctx context.Context, s *site, tokens []string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	t, err := s.open(ctx, b.hub(), start{})
	if err != nil {
		return err
	}
	defer func() { _ = t.kill() }()
	var servers []load.Server
	for _, token := range tokens {
		server := t.server
		server.Token = token
		servers = append(servers, server)
	}
	clients, err := watchBig(ctx, servers...)
	defer clients.close()
	if err != nil {
		return err
	}
	m, err := settled(ctx, t.pid)
	b.add(7, "three identities, RssAnon", s.upstream, t.name, m.Anon)
	return err
}

// memoryInBox is row 7 where there are 64 MiB, page cache included.
func (b *bench) memoryInBox(ctx context.Context, s *site) error {
	box, err := gauge.NewBox("yurt-bench-"+filepath.Base(b.dir), 64<<20)
	if err != nil {
		return err
	}
	t, err := s.open(ctx, b.hub(), start{box: box})
	if err != nil {
		return errors.Join(err, box.Close())
	}
	syncing, cancel := context.WithTimeout(ctx, 2*time.Minute)
	clients, err := watchBig(syncing, three(t.server)...)
	works := 1.0
	if err != nil {
		works = 0
		b.result.Note("row 7 in 64 MiB: %v", err)
	}
	clients.close()
	cancel()
	b.add(7, "works in 64 MiB", s.upstream, t.name, works)
	if err := t.kill(); err != nil {
		b.cfg.Log.Info("the hub in the box", "ended", err)
	}
	return box.Close()
}
