package scenario

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"yurt/test/faults/fault"
	"yurt/test/faults/mutant"
	"yurt/test/faults/report"
	"yurt/test/faults/validate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// size says how much to do: in CI, by `make faults`, and as SOAK says.
func size(quick, full int) int {
	if os.Getenv("FAULTS") == "full" {
		return full
	}
	return quick
}

// soak is for how long to go on after that.
func soak(t *testing.T) time.Duration {
	text := os.Getenv("SOAK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("SOAK: %v", err)
	}
	return d
}

// seedOf is SEED, or else always the same, and printed.
func seedOf(t *testing.T) uint64 {
	seed := uint64(20261124)
	if text := os.Getenv("SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
	}
	t.Logf("SEED=%d", seed)
	return seed
}

func mayMount(t *testing.T) {
	t.Helper()
	err := os.ErrPermission
	if os.Geteuid() == 0 {
		_, err = os.Stat("/dev/fuse")
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("mount a disk that fails: %v", err)
	default:
		t.Skipf("mount a disk that fails: %v (it takes root, and /dev/fuse)", err)
	}
}

func build(t *testing.T, overlay string) string {
	t.Helper()
	program, err := Build(t.Context(), t.TempDir(), overlay)
	if err != nil {
		t.Fatal(err)
	}
	return program
}

func show(t *testing.T, name string, row report.Row) {
	t.Helper()
	table := report.New()
	table.Add(name, row)
	if err := table.Write(os.Stdout); err != nil {
		t.Error(err)
	}
}

// TestPowerCuts cuts the power of a hub under traffic, again and again, on a disk that keeps what was synced and, of the
// rest, what a draw says.
func TestPowerCuts(t *testing.T) {
	mayMount(t)
	seed := seedOf(t)
	runs := Campaign{Program: build(t, ""), Seed: seed, Cuts: size(300, 4500), AtLeast: soak(t), Slow: time.Millisecond}
	row, violations, err := runs.Run(t.Context(), t.TempDir())
	for _, v := range violations {
		t.Errorf("%v\n%s", v, v.Log)
	}
	if err != nil {
		t.Fatal(err)
	}
	show(t, "power cuts", row)
	for _, loss := range fault.Losses() {
		if row.Kinds[loss.String()] < runs.Cuts/10 {
			t.Errorf("%d cuts with %s, of %d", row.Kinds[loss.String()], loss, row.Faults)
		}
	}
	if row.Faults < runs.Cuts || row.Checked < 5*row.Faults {
		t.Errorf("%d cuts, %d answers checked: want %d cuts, and five answers for each", row.Faults, row.Checked, runs.Cuts)
	}
}

// TestMutants breaks each guarantee in the hub, and expects that the same run finds it.
func TestMutants(t *testing.T) {
	mayMount(t)
	seed := seedOf(t)
	overlay, err := mutant.Overlay("../../..", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	program := build(t, overlay)
	unproved := map[error]bool{}
	for _, g := range validate.Guarantees() {
		unproved[g] = true
	}
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(sites)
	for _, m := range append(mutant.All(), mutant.Mutant{Name: "none"}) {
		delete(unproved, m.Violates)
		dir := t.TempDir()
		group.Go(func() error {
			return findMutant(ctx, t, Cuts{Program: program, Env: m.Env(), Dir: dir, Seed: seed, Cuts: 2000, Until: m.Violates, Slow: 2 * time.Millisecond}, m)
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for g := range unproved {
		t.Errorf("no mutant violates: %v", g)
	}
}

func findMutant(ctx context.Context, t *testing.T, c Cuts, m mutant.Mutant) error {
	if m.Violates == nil {
		c.Cuts = 40 // the same program, as it should be
	}
	r, err := c.Run(ctx)
	if err != nil {
		return err
	}
	found := map[error]int{}
	for _, v := range r.Violations {
		found[v.Guarantee]++
		if m.Violates == nil {
			t.Errorf("no mutant: %v", v)
		}
	}
	if m.Violates != nil && found[m.Violates] == 0 {
		t.Errorf("mutant %q was not found in %d cuts: want %q violated, got %v", m.Name, r.Row.Faults, m.Violates, found)
	}
	t.Logf("mutant %q: after %d cuts %v", m.Name, r.Row.Faults, found)
	return nil
}

// TestSameSeedSameRun: what is drawn depends on the seed only.
func TestSameSeedSameRun(t *testing.T) {
	draw := func(seed uint64) []plan {
		s := &site{rand: newRand(seed, 1)}
		var plans []plan
		for life := range 50 {
			plans = append(plans, s.draw(life))
		}
		return plans
	}
	a, b, other := draw(1), draw(1), draw(2)
	same := true
	for i := range a {
		if a[i] != b[i] {
			t.Errorf("life %d: %v and %v", i, a[i], b[i])
		}
		same = same && a[i] == other[i]
	}
	if same {
		t.Error("another seed does the same")
	}
}

// TestHubThatDoesNotStart: what a program that ends by itself has said is in the violation.
func TestHubThatDoesNotStart(t *testing.T) {
	mayMount(t)
	r, err := Cuts{Program: "/bin/false", Dir: t.TempDir(), Seed: 1, Cuts: 2, Until: validate.ErrStart}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Violations) == 0 || !errors.Is(r.Violations[0].Guarantee, validate.ErrStart) {
		t.Errorf("got %v, want %v", r.Violations, validate.ErrStart)
	}
}
