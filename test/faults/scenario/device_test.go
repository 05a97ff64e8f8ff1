package scenario

import (
	"os"
	"os/exec"
	"testing"

	"yurt/test/faults/fault"
)

// TestPowerCutsOfRealFileSystems does what TestPowerCuts does on ext4 and xfs, which decide themselves what is lost.
func TestPowerCutsOfRealFileSystems(t *testing.T) {
	mayMount(t)
	seed := seedOf(t)
	program := build(t, "")
	for _, kind := range fault.Kinds() {
		t.Run(kind, func(t *testing.T) {
			if _, err := exec.LookPath("mkfs." + kind); err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("make a file system: %v", err)
				}
				t.Skipf("make a file system: %v (make prepare installs it)", err)
			}
			open := func(dir string) (Disk, error) { return fault.NewDevice(kind, dir) }
			runs := Campaign{Program: program, Seed: seed, Cuts: size(30, 200), Lives: 15, Open: open}
			row, violations, err := runs.Run(t.Context(), t.TempDir())
			for _, v := range violations {
				t.Errorf("%v\n%s", v, v.Log)
			}
			if err != nil {
				t.Fatal(err)
			}
			show(t, "power cuts", row)
			if row.Faults < runs.Cuts || row.Checked < 3*row.Faults {
				t.Errorf("%d cuts, %d answers checked: want %d cuts, and three answers for each", row.Faults, row.Checked, runs.Cuts)
			}
		})
	}
}
