package lab

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"yurt/bench/canned"
	"yurt/bench/gauge"
	"yurt/bench/load"
)

// amplification is row 13: what reaches the block device for each byte of objects that events bring.
func (b *bench) amplification(ctx context.Context, s *site, emit source) (err error) {
	if os.Geteuid() != 0 {
		b.result.Note("row 13 needs root, for a disk of its own")
		return nil
	}
	disk, err := gauge.NewDisk(ctx, s.dir, 512)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close(context.WithoutCancel(ctx))) }()
	t, err := s.open(ctx, b.hub(), start{dir: filepath.Join(disk.Dir, "hub")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.kill()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const node = "amplified"
	client := load.New(t.server)
	defer client.Close()
	stream, err := follow(ctx, client, node)
	if err != nil {
		return err
	}
	defer stream.Close()
	for _, phase := range []struct {
		name      string
		n, rate   int
		afterward time.Duration
	}{{"1 event/s", 60, 1, 0}, {"1,000 events/s", 20000, 1000, 0}} {
		time.Sleep(time.Second)
		before, err := disk.Written()
		if err != nil {
			return err
		}
		done := make(chan error, 1)
		go func() { done <- emit(ctx, node, phase.n, phase.rate) }()
		bytes, err := readEvents(stream, phase.n)
		if err := errors.Join(err, <-done); err != nil {
			return err
		}
		time.Sleep(time.Second)
		after, err := disk.Written()
		if err != nil {
			return err
		}
		b.add(13, phase.name, s.upstream, t.name, float64(after-before)/float64(bytes))
	}
	return nil
}

// readEvents reads so many events and returns how large their objects were.
func readEvents(stream *load.Stream, n int) (bytes int64, err error) {
	for got := 0; got < n; {
		typ, object, err := stream.Next()
		if err != nil {
			return bytes, fmt.Errorf("after %d events: %w", got, err)
		}
		if typ != "BOOKMARK" {
			bytes += int64(len(object))
			got++
		}
	}
	return bytes, nil
}

// idleWatches is row 16: a thousand watches of one object each, as a kubelet has them for Secrets and ConfigMaps.
func (b *bench) idleWatches(ctx context.Context) (err error) {
	s, err := b.newCanned(ctx, "small", 1, 1)
	if err != nil {
		return err
	}
	const watches = 1000
	for range min(b.cfg.Rounds, 3) {
		t, err := s.open(ctx, b.hub(), start{})
		if err != nil {
			return err
		}
		err = b.watchMany(ctx, s, t, watches)
		if err := errors.Join(err, t.kill()); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) watchMany(ctx context.Context, s *site, t *target, watches int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client := load.New(t.server)
	defer client.Close()
	before, err := settled(ctx, t.pid)
	if err != nil {
		return err
	}
	path := "/api/v1/namespaces/bench/pods"
	var opened closers
	defer opened.close()
	for i := range watches {
		stream, err := client.Watch(ctx, path, load.WatchList(fmt.Sprintf("metadata.name=checkout-%d", i)))
		if err != nil {
			return err
		}
		opened.add(stream.Close)
		if n, err := stream.Sync(); err != nil || n != 1 {
			return fmt.Errorf("watch %d: %d objects: %w", i, n, err)
		}
	}
	after, err := settled(ctx, t.pid)
	if err != nil {
		return err
	}
	b.add(16, "one watch", s.upstream, t.name, (after.Anon-before.Anon)*1024/float64(watches))
	return nil
}

// settled returns what a process takes when it has had some seconds of rest: garbage has been collected and given back.
func settled(ctx context.Context, pid int) (gauge.Memory, error) {
	select {
	case <-time.After(6 * time.Second):
		return gauge.MemoryOf(pid)
	case <-ctx.Done():
		return gauge.Memory{}, context.Cause(ctx)
	}
}

// patch is the body that marks an object with the number of an event.
func patch(number int64) []byte {
	return fmt.Appendf(nil, `{"metadata":{"annotations":{"bench/event":"%s%0*d"}}}`, canned.Mark, canned.Digits, number)
}

// sized is what a client asks to watch everything of a path.
type sized struct {
	path  string
	query url.Values
	count int
}

// big is row 7's collections.
func big() []sized {
	return []sized{{servicePath, load.WatchList(""), sliceCount}, {slicesPath, load.WatchList(""), sliceCount}}
}
