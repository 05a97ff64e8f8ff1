package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yurt/bench/gauge"
	"yurt/bench/result"
)

// Config says what is measured.
type Config struct {
	Self     string    // this program, which can be the canned API server too
	Hub      string    // file of yurthub; built from the checkout if empty
	Gateways []Gateway // besides the hub
	Rows     []int     // all if empty
	Rounds   int
	Idle     time.Duration // how long an idle node is looked at
	Checkout string
	Dir      string // where the gateways keep their replicas: the disk that is measured; a temporary one if empty
	Log      *slog.Logger
}

// bench is one run.
type bench struct {
	cfg      Config
	dir      string
	result   *result.Result
	gateways []Gateway
	end      []func() error
}

// Run measures. What could be measured before an error is returned with it.
func Run(ctx context.Context, cfg Config) (*result.Result, error) {
	b, err := begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	err = b.measure(ctx)
	return b.result, errors.Join(err, b.close())
}

func begin(ctx context.Context, cfg Config) (*bench, error) {
	dir, err := os.MkdirTemp(cfg.Dir, "bench-")
	if err != nil {
		return nil, fmt.Errorf("begin: %w", err)
	}
	b := &bench{cfg: cfg, dir: dir, result: &result.Result{Begun: time.Now().UTC(), Conditions: conditions()}}
	b.atEnd(func() error { return os.RemoveAll(dir) })
	program := cfg.Hub
	if program == "" {
		program = filepath.Join(dir, "yurthub")
		if err := b.build(ctx, program); err != nil {
			return nil, errors.Join(err, b.close())
		}
	}
	b.gateways = append([]Gateway{{Name: HubName, Program: program}}, cfg.Gateways...)
	return b, nil
}

// build builds yurthub as it is released, for a platform given as environment variables.
func (b *bench) build(ctx context.Context, file string, env ...string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "./cmd/yurthub")
	cmd.Dir = b.cfg.Checkout
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build yurthub: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (b *bench) atEnd(f func() error) { b.end = append(b.end, f) }

func (b *bench) close() error {
	b.result.Seconds = time.Since(b.result.Begun).Seconds()
	b.result.Conditions["load at the end"] = loadAverage()
	var errs []error
	for _, f := range slices.Backward(b.end) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (b *bench) wants(rows ...int) bool {
	return len(b.cfg.Rows) == 0 || slices.ContainsFunc(rows, func(r int) bool { return slices.Contains(b.cfg.Rows, r) })
}

func (b *bench) hub() Gateway { return b.gateways[0] }

func (b *bench) add(row int, name, upstream, gateway string, sample float64) {
	b.result.Add(result.Key{Row: row, Name: name, Upstream: upstream}, gateway, sample)
}

// step does a row, if it is wanted.
func (b *bench) step(ctx context.Context, row int, upstream string, f func(context.Context) error) error {
	if !b.wants(row) || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	begun := time.Now()
	if err := f(ctx); err != nil {
		return fmt.Errorf("row %d: %w", row, err)
	}
	b.cfg.Log.Info("measured", "row", row, "what", result.Rows()[row], "against", upstream, "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

// sideBySide lets f measure each target once a round, in alternating order.
func (b *bench) sideBySide(targets []*target, f func(*target) error) error {
	for round := range b.cfg.Rounds {
		for i := range targets {
			if round%2 == 1 {
				i = len(targets) - 1 - i
			}
			if err := f(targets[i]); err != nil {
				return fmt.Errorf("%s: %w", targets[i].name, err)
			}
		}
	}
	return nil
}

// openAll starts every gateway at a site, and returns them with the API server itself as the first.
func (b *bench) openAll(ctx context.Context, s *site) (targets []*target, err error) {
	targets = []*target{s.direct()}
	for _, g := range b.gateways {
		t, err := s.open(ctx, g, start{})
		if err != nil {
			return targets, errors.Join(err, killAll(targets))
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func killAll(targets []*target) error {
	var errs []error
	for _, t := range targets {
		errs = append(errs, t.kill())
	}
	return errors.Join(errs...)
}

// cost returns the processor time that a process uses while f runs.
func cost(pid int, f func() error) (time.Duration, error) {
	before, err := gauge.CPU(pid)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := gauge.CPU(pid)
	return after - before, err
}

// closers closes what was opened in a loop, the last first.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c *closers) close() {
	for _, f := range slices.Backward(*c) {
		f()
	}
}

func micros(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Microsecond) / float64(n)
}
func millis(d time.Duration, n int) float64 {
	return float64(d) / float64(time.Millisecond) / float64(n)
}

func conditions() map[string]string {
	var name unix.Utsname
	kernel := "unknown"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return map[string]string{
		"processors":        fmt.Sprintf("%d × %s", runtime.NumCPU(), processor()),
		"kernel":            kernel,
		"Go":                runtime.Version(),
		"load at the start": loadAverage(),
	}
}

func processor() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(data))
	if err != nil || len(f) == 0 {
		return "unknown"
	}
	return f[0]
}
