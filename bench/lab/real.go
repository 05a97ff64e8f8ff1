package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"yurt/internal/playground/machine"
)

// measureReal does the rows that need a real API server: first the node that is left alone, then load.
func (b *bench) measureReal(ctx context.Context) error {
	if os.Geteuid() != 0 {
		b.result.Note("the rows against a real API server need root")
		return nil
	}
	k, s, err := b.newCloud(ctx)
	if err != nil {
		return err
	}
	if b.wants(6, 12, 14) {
		if err := b.node(ctx, k); err != nil {
			return fmt.Errorf("rows 6, 12 and 14: %w", err)
		}
	}
	if !b.wants(1, 2, 3, 4, 5, 7, 8, 9, 10, 11) {
		return nil
	}
	tokens, err := k.tokens(ctx, "one", "two", "three")
	if err != nil {
		return err
	}
	if err := k.edge.PowerCut(); err != nil { // its kubelet and kube-proxy have work with what comes now
		return err
	}
	if err := k.fill(ctx, b.streamNames()); err != nil {
		return err
	}
	targets, err := b.openAll(ctx, s)
	if err != nil {
		return err
	}
	emit := k.source(b.streamNames())
	err = errors.Join(
		b.step(ctx, 5, s.upstream, func(ctx context.Context) error { return b.latencies(ctx, s, targets, emit) }),
		b.step(ctx, 1, s.upstream, func(ctx context.Context) error { return b.gets(ctx, s, targets) }),
		b.step(ctx, 2, s.upstream, func(ctx context.Context) error { return b.lists(ctx, s, targets, "protobuf", "JSON") }),
		b.step(ctx, 3, s.upstream, func(ctx context.Context) error { return b.watchLists(ctx, s, targets) }),
		b.step(ctx, 4, s.upstream, func(ctx context.Context) error {
			return b.streams(ctx, s, targets, emit, map[int]int{1: 800, 10: 400})
		}),
	)
	if err := errors.Join(err, killAll(targets)); err != nil {
		return err
	}
	if b.wants(7, 8, 9, 10) {
		if err := b.large(ctx, s, tokens); err != nil {
			return fmt.Errorf("rows 7 to 10: %w", err)
		}
	}
	return b.step(ctx, 11, s.upstream, func(ctx context.Context) error { return b.bytes(ctx, k, s) })
}

// processOn returns the number that this computer gives to the process of a machine's service.
func processOn(ctx context.Context, m *machine.Machine, service string) (int, error) {
	status, err := m.Service(ctx, service)
	if err != nil {
		return 0, err
	}
	first, err := m.PID()
	if err != nil {
		return 0, err
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", first))
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", service, err)
	}
	statuses, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, file := range statuses {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid)); err != nil || ns != namespace {
			continue
		}
		if innermost(file) == status.PID {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("find %s: no process %d on machine %s", service, status.PID, m.ID)
}
