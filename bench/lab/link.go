package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/bench/canned"
	"yurt/bench/load"
)

const (
	hourWindow = 45 * time.Second // stands for an hour
	cutFor     = 10 * time.Second // stands for ten minutes
)

// bytes is row 11: the life of three clients, once directly and once through the hub, and what it costs the link. An hour is
// scaled; what it brings is the API server's bookmarks and what keeps connections alive.
func (b *bench) bytes(ctx context.Context, k *cloud, s *site) error {
	t, err := s.open(ctx, b.hub(), start{})
	if err != nil {
		return err
	}
	defer func() { _ = t.kill() }()
	// The hub waits while the API server's own clients are measured: its feeds have not begun.
	var list float64
	for _, side := range []*target{s.direct(), t} {
		life := &life{k: k, t: side, direct: side.admin == ""}
		used, err := life.live(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", side.name, err)
		}
		if list == 0 {
			list = used["first sync"] / 3 // what one client takes
		}
		total := 0.0
		for _, phase := range used {
			total += phase
		}
		b.add(11, "all", s.upstream, side.name, total/1000)
		b.add(11, "first sync", s.upstream, side.name, used["first sync"]/1000)
		b.add(11, "an hour idle", s.upstream, side.name, used["idle"]/1000)
		b.add(11, "after a cut with 1 % changed", s.upstream, side.name, 100*used["cut"]/list)
		b.add(11, "reboot of all clients", s.upstream, side.name, used["reboot"]/list)
	}
	return nil
}

// life is three clients of one server: they sync, are idle, are cut off and come back, and are rebooted.
type life struct {
	k      *cloud
	t      *target
	direct bool
}

func (l *life) live(ctx context.Context) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	used := map[string]float64{}
	var clients *session
	defer func() { clients.close() }()
	phase := func(name string, scale float64, f func() error) error {
		before, err := l.k.linkBytes(ctx)
		if err != nil {
			return err
		}
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		after, err := l.k.linkBytes(ctx)
		used[name] = scale * (after - before)
		return err
	}
	clients = &session{}
	sync := func() (err error) {
		clients, err = watchBig(ctx, three(l.t.server)...)
		return err
	}
	return used, errors.Join(
		phase("first sync", 1, sync),
		phase("idle", time.Hour.Seconds()/hourWindow.Seconds(), func() error {
			time.Sleep(hourWindow)
			return nil
		}),
		phase("cut", 1, func() (err error) {
			clients, err = l.cut(ctx, clients)
			return err
		}),
		phase("reboot", 1, func() error {
			clients.close()
			if err := sync(); err != nil {
				return err
			}
			time.Sleep(2 * time.Second)
			return nil
		}),
	)
}

// cut takes the link away, changes one in a hundred objects, and returns when all clients have had the changes. Clients of the API
// server watch anew from where they were, as reflectors do.
func (l *life) cut(ctx context.Context, clients *session) (*session, error) {
	version, err := l.k.version(ctx)
	if err != nil {
		return clients, err
	}
	if err := l.k.lab.Cut(ctx); err != nil {
		return clients, err
	}
	if l.direct {
		clients.close()
	}
	time.Sleep(cutFor)
	if err := l.k.changeSome(ctx); err != nil {
		return clients, err
	}
	if err := l.k.lab.Heal(ctx); err != nil {
		return clients, err
	}
	if l.direct {
		clients = &session{}
		for range 3 {
			client := load.New(l.t.server)
			clients.clients = append(clients.clients, client)
			for _, path := range []string{servicePath, slicesPath} {
				stream, err := client.Watch(ctx, path, url.Values{"resourceVersion": {version}})
				if err != nil {
					return clients, err
				}
				clients.streams = append(clients.streams, stream)
			}
		}
	}
	var group errgroup.Group
	for _, stream := range clients.streams {
		group.Go(func() error {
			_, err := readEvents(stream, sliceCount/100)
			return err
		})
	}
	return clients, group.Wait()
}

// version is the cluster's newest, as all clients have seen it: nothing else is written.
func (k *cloud) version(ctx context.Context) (string, error) {
	list, err := k.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return "", fmt.Errorf("find the newest version: %w", err)
	}
	return list.ResourceVersion, nil
}

// changeSome changes one in a hundred Services and EndpointSlices.
func (k *cloud) changeSome(ctx context.Context) error {
	var next atomic.Int64
	return each(ctx, func() (bool, error) {
		i := int(next.Add(1)) - 1
		if i >= sliceCount/100 {
			return false, nil
		}
		body := patch(k.seq.Add(1))
		slice := canned.EndpointSlice(namespace, i*100).Name
		_, err := k.client.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, slice, types.MergePatchType, body, metav1.PatchOptions{})
		if err != nil {
			return false, fmt.Errorf("change EndpointSlice: %w", err)
		}
		service := canned.Service(namespace, i*100).Name
		_, err = k.client.CoreV1().Services(namespace).Patch(ctx, service, types.MergePatchType, body, metav1.PatchOptions{})
		if err != nil {
			return false, fmt.Errorf("change Service: %w", err)
		}
		return true, nil
	})
}
