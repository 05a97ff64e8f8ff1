package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHitDoesWhatIsArmed(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		spec string
		want []error // of consecutive hits
	}{
		{"error", []error{ErrInjected, ErrInjected}},
		{"error(ENOSPC)", []error{syscall.ENOSPC, syscall.ENOSPC}},
		{"error(EIO)", []error{syscall.EIO}},
		{"1*error", []error{ErrInjected, nil, nil}},
		{"after 2 error", []error{nil, nil, ErrInjected, ErrInjected}},
		{"after 1 2*error(EIO)", []error{nil, syscall.EIO, syscall.EIO, nil}},
		{"sleep(1ms)", []error{nil, nil}},
	} {
		t.Run(tc.spec, func(t *testing.T) {
			disable, err := Enable(StoreRead, tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tc.want {
				if got := Hit(StoreRead); !errors.Is(got, want) {
					t.Errorf("hit %d: got %v, want %v", i, got, want)
				}
				if got := Hit(StoreBeforeSync); got != nil {
					t.Errorf("another point acted too: %v", got)
				}
			}
			disable()
			if got := Hit(StoreRead); got != nil {
				t.Errorf("after disable: got %v", got)
			}
			if armed.Load() != 0 {
				t.Errorf("%d points still armed", armed.Load())
			}
		})
	}
	defer EnableFunc(StoreRead, func() error { return boom })()
	if got := Hit(StoreRead); !errors.Is(got, boom) {
		t.Errorf("function: got %v", got)
	}
}

func TestSleepTakesItsTime(t *testing.T) {
	disable, err := Enable(StoreRead, "sleep(30ms)")
	if err != nil {
		t.Fatal(err)
	}
	defer disable()
	start := time.Now()
	if err := Hit(StoreRead); err != nil || time.Since(start) < 30*time.Millisecond {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
}

func TestEnableRefusesNonsense(t *testing.T) {
	for _, spec := range []string{"", "boom", "error(EPERM)", "sleep(soon)", "exit(x)", "after x error", "0*error", "x*kill"} {
		if _, err := Enable(StoreRead, spec); err == nil {
			t.Errorf("%q was accepted", spec)
		}
	}
	if _, err := Enable("store/no-such", "error"); err == nil {
		t.Error("an unknown point was accepted")
	}
}

func TestCountSeesEveryHit(t *testing.T) {
	stop := Count()
	_ = Hit(StoreRead)
	_ = Hit(StoreRead)
	got := stop()
	_ = Hit(StoreRead)
	if got[StoreRead] != 2 || len(got) != 1 || armed.Load() != 0 {
		t.Errorf("got %v, %d armed", got, armed.Load())
	}
}

func TestNamesAreListedOnce(t *testing.T) {
	source, err := os.ReadFile("names.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[Name]bool{}
	for _, n := range All() {
		if seen[n] {
			t.Errorf("%s is listed twice", n)
		}
		seen[n] = true
	}
	if want := strings.Count(string(source), ` Name = "`); len(seen) != want {
		t.Errorf("All lists %d names, names.go declares %d", len(seen), want)
	}
}

// The process-ending actions, in a child that is this test again.
func TestProcessEnds(t *testing.T) {
	if os.Getenv(Env) != "" {
		if err := FromEnv(); err != nil {
			t.Fatal(err)
		}
		_ = Hit(StoreRead)
		return
	}
	for spec, want := range map[string]string{"store/read=kill": "signal: killed", "store/read=exit(7)": "exit status 7"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestProcessEnds$")
		cmd.Env = append(os.Environ(), Env+"="+spec)
		if err := cmd.Run(); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", spec, err, want)
		}
	}
}

func TestFromEnvRefusesNonsense(t *testing.T) {
	for _, value := range []string{"store/read", "store/read=boom", "nothing=kill"} {
		t.Setenv(Env, value)
		if err := FromEnv(); err == nil {
			t.Errorf("%q was accepted", value)
		}
	}
}

func BenchmarkHitUnarmed(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if Hit(StoreRead) != nil {
			b.Fatal("acted")
		}
	}
}
