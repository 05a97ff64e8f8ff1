package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/test/faults/fault"
	"yurt/test/faults/history"
	"yurt/test/faults/report"
	"yurt/test/faults/validate"
)

const (
	// livesOfASite is how many cuts one disk goes through: after that its history says nothing new.
	livesOfASite = 75
	// sites at a time: what one waits for, the other uses.
	sites = 2
)

// Cuts is a run of power cuts of one hub. What it does is drawn from Seed.
type Cuts struct {
	Program string // the hub
	Env     []string
	Dir     string // for what the run needs
	Seed    uint64
	Cuts    int
	Until   error                          // the run ends early when this guarantee is violated; nil: any
	Slow    time.Duration                  // of syncs
	Open    func(dir string) (Disk, error) // nil: a disk of the fault package
}

// Result is what came of a run.
type Result struct {
	History    history.History
	Violations []*validate.Violation
	Row        report.Row
}

func newRand(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// judgeEvery is after how many lives the history is looked at, so that a run ends early.
const judgeEvery = 15

// Run lives and cuts.
func (c Cuts) Run(ctx context.Context) (*Result, error) {
	s, err := c.open()
	if err != nil {
		return nil, err
	}
	r := &Result{Row: report.Row{Kinds: map[string]int{}}}
	began := time.Now()
	err = c.run(ctx, s, r)
	err = errors.Join(err, s.close())
	r.judge(s)
	r.Row.Took = time.Since(began)
	return r, err
}

func (c Cuts) open() (*site, error) {
	mount, err := tempDir(c.Dir, "disk")
	if err != nil {
		return nil, err
	}
	open := c.Open
	if open == nil {
		open = func(dir string) (Disk, error) { return fault.New(dir) }
	}
	d, err := open(mount)
	if err != nil {
		return nil, err
	}
	d.Fail(fault.Policy{Name: "slow syncs", Ops: []fault.Op{fault.Sync}, Delay: c.Slow})
	s, err := newSite(c.Program, c.Dir, d, c.Seed, c.Env...)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return s, nil
}

func (c Cuts) run(ctx context.Context, s *site, r *Result) error {
	survival := newRand(c.Seed, 9)
	for life := range c.Cuts {
		if err := s.live(ctx, s.draw(life)); err != nil {
			return err
		}
		loss := fault.Losses()[survival.IntN(len(fault.Losses()))]
		r.Row.Faults++
		r.Row.Kinds[s.disk.Kind(loss)]++
		if err := s.disk.Boot(fault.Survival{Loss: loss, Rand: survival}); err != nil {
			return err
		}
		if life%judgeEvery == judgeEvery-1 && r.judge(s) && r.violates(c.Until) {
			return ctx.Err()
		}
	}
	return s.finish(ctx)
}

func (r *Result) judge(s *site) (violated bool) {
	r.History = s.rec.History()
	r.Violations, r.Row.Checked = validate.All(r.History)
	r.Row.Lives, r.Row.Violations = len(r.History.Lives), len(r.Violations)
	for _, v := range r.Violations {
		v.Log = s.logs[v.Life]
	}
	return len(r.Violations) > 0
}

func (r *Result) violates(guarantee error) bool {
	for _, v := range r.Violations {
		if guarantee == nil || errors.Is(v.Guarantee, guarantee) {
			return true
		}
	}
	return false
}

// finish looks at what the last cut has left, in the dark, and lets the hub tell what it has to.
func (s *site) finish(ctx context.Context) error {
	if err := s.live(ctx, plan{dark: true}); err != nil {
		return err
	}
	if err := s.disk.Boot(fault.Survival{Loss: fault.LoseAll, Rand: s.rand}); err != nil {
		return err
	}
	return s.live(ctx, plan{drain: true})
}

// Campaign is many runs, side by side.
type Campaign struct {
	Program string
	Seed    uint64 // of the first run; the next one has the next
	Cuts    int
	Lives   int           // of a site; 0: livesOfASite
	AtLeast time.Duration // to go on for
	Slow    time.Duration
	Open    func(dir string) (Disk, error)
}

// Run ends when all is done, or when a guarantee is violated.
func (c Campaign) Run(ctx context.Context, dir string) (report.Row, []*validate.Violation, error) {
	table, began := report.New(), time.Now()
	var mu sync.Mutex
	var violations []*validate.Violation
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sites)
	lives := cmp.Or(c.Lives, livesOfASite)
	for i := 0; i*lives < c.Cuts || time.Since(began) < c.AtLeast; i++ {
		mu.Lock()
		stop := len(violations) > 0 || ctx.Err() != nil
		mu.Unlock()
		if stop {
			break
		}
		group.Go(func() error {
			siteDir, err := tempDir(dir, fmt.Sprintf("site%d", i))
			if err != nil {
				return err
			}
			run := Cuts{Program: c.Program, Dir: siteDir, Seed: c.Seed + uint64(i), Cuts: lives, Open: c.Open}
			if c.Open == nil && run.Seed%2 == 1 { // and not i: a run that is repeated by its seed is the first one
				run.Slow = c.Slow
			}
			r, err := run.Run(ctx)
			if err != nil {
				return fmt.Errorf("SEED=%d: %w", run.Seed, err)
			}
			for _, v := range r.Violations {
				v.Log = fmt.Sprintf("SEED=%d\n%s", run.Seed, v.Log)
			}
			table.Add("", r.Row)
			mu.Lock()
			defer mu.Unlock()
			violations = append(violations, r.Violations...)
			return nil
		})
	}
	err := group.Wait()
	row := table.Total()
	row.Took = time.Since(began)
	return row, violations, err
}

// Build compiles the hub into dir, with an overlay of sources if one is given.
func Build(ctx context.Context, dir, overlay string) (string, error) {
	program := filepath.Join(dir, "yurthub")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-overlay", overlay, "-o", program, "yurt/cmd/yurthub")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build hub: %w: %s", err, out)
	}
	return program, nil
}
