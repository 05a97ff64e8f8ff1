package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"yurt/bench/gauge"
)

// measure does all rows that are wanted. The canned upstream comes first, while nothing else runs.
func (b *bench) measure(ctx context.Context) error {
	begun, before := time.Now(), ownCPU()
	if err := b.step(ctx, 15, "", b.sizes); err != nil {
		return err
	}
	if b.wants(1, 2, 3, 4, 5, 13, 16) {
		if err := b.measureCanned(ctx); err != nil {
			return err
		}
	}
	if b.wants(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14) {
		if err := b.measureReal(ctx); err != nil {
			return err
		}
	}
	b.result.Conditions["load generator"] = fmt.Sprintf("%.0f %% of a core on average", 100*(ownCPU()-before).Seconds()/time.Since(begun).Seconds())
	return nil
}

func ownCPU() time.Duration {
	used, err := gauge.CPU(os.Getpid())
	if err != nil {
		return 0
	}
	return used
}

func (b *bench) measureCanned(ctx context.Context) error {
	s, err := b.newCanned(ctx, "canned", podsInCrowd, sliceCount)
	if err != nil {
		return err
	}
	targets, err := b.openAll(ctx, s)
	if err != nil {
		return err
	}
	emit := cannedSource(s)
	err = errors.Join(
		b.step(ctx, 1, s.upstream, func(ctx context.Context) error { return b.gets(ctx, s, targets) }),
		b.step(ctx, 5, s.upstream, func(ctx context.Context) error { return b.latencies(ctx, s, targets, emit) }),
		b.step(ctx, 2, s.upstream, func(ctx context.Context) error { return b.lists(ctx, s, targets, "protobuf", "JSON") }),
		b.step(ctx, 3, s.upstream, func(ctx context.Context) error { return b.watchLists(ctx, s, targets) }),
		b.step(ctx, 4, s.upstream, func(ctx context.Context) error {
			return b.streams(ctx, s, targets, emit, map[int]int{1: 20000, 10: 5000})
		}),
	)
	if err := errors.Join(err, killAll(targets)); err != nil {
		return err
	}
	if err := b.step(ctx, 13, s.upstream, func(ctx context.Context) error { return b.amplification(ctx, s, emit) }); err != nil {
		return err
	}
	return b.step(ctx, 16, s.upstream, b.idleWatches)
}

// sizes is row 15.
func (b *bench) sizes(ctx context.Context) error {
	for name, env := range map[string][]string{"this machine's": nil, "linux/arm/v7": {"GOOS=linux", "GOARCH=arm", "GOARM=7"}} {
		file := filepath.Join(b.dir, "sized")
		if err := b.build(ctx, file, env...); err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		b.add(15, name, "", HubName, float64(info.Size())/1e6)
	}
	b.result.Conditions["platform"] = runtime.GOOS + "/" + runtime.GOARCH
	return nil
}
