package scenario

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"yurt/test/faults/fault"
	"yurt/test/faults/report"
)

// TestDiskThatFails: whatever the disk does, traffic with the cloud goes on, what is stored can be read in the dark, the
// hub says how it stands, and all heals without a restart.
func TestDiskThatFails(t *testing.T) {
	mayMount(t)
	seed := seedOf(t)
	program := build(t, "")
	var mu sync.Mutex
	table := report.New()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(sites)
	for _, p := range fault.Policies(3 * time.Second) { // later than a consistent read may be
		dir := t.TempDir()
		group.Go(func() error {
			began := time.Now()
			// Where files can't be made those that are there still take commits; where syncs are late they come.
			silent := p.Name == "no inodes" || p.Name == "slow syncs"
			problems, r, err := Full{Program: program, Dir: dir, Seed: seed, Policy: p, Silent: silent}.Run(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, problem := range problems {
				t.Errorf("%s: %s", p.Name, problem)
			}
			for _, v := range r.Violations {
				t.Errorf("%s: %v\n%s", p.Name, v, v.Log)
			}
			r.Row.Took = time.Since(began)
			table.Add("a disk that fails", r.Row)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	show(t, "a disk that fails", table.Total())
}
