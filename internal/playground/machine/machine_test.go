package machine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"yurt/internal/playground/cgroup"
	"yurt/internal/playground/host"
	"yurt/internal/playground/machine"
	"yurt/internal/playground/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newMachine returns a machine that is off, and the program for its first process.
func newMachine(t *testing.T) (m *machine.Machine, pid1 string) {
	t.Helper()
	if err := host.Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	pid1 = filepath.Join(t.TempDir(), "pid1")
	if out, err := exec.Command("go", "build", "-o", pid1, "../pid1").CombinedOutput(); err != nil {
		t.Fatalf("build pid1: %v: %s", err, out)
	}
	dir := t.TempDir()
	m = machine.New(machine.Spec{
		ID:       fmt.Sprintf("yurt.machine-test-%d.box", os.Getpid()),
		Hostname: "box",
		Programs: []string{filepath.Dir(pid1)},
		Dir:      dir,
		Logs:     filepath.Join(dir, "logs"),
	})
	t.Cleanup(func() {
		if err := m.PowerOff(); err != nil {
			t.Error(err)
		}
		groups, err := cgroup.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := groups.Remove(m.ID); err != nil {
			t.Error(err)
		}
	})
	return m, pid1
}

func run(t *testing.T, m *machine.Machine, argv ...string) string {
	t.Helper()
	out, err := m.Exec(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func start(t *testing.T, m *machine.Machine, pid1 string) {
	t.Helper()
	if err := m.Start(t.Context(), pid1, nil); err != nil {
		t.Fatal(err)
	}
}

func TestAMachineIsOnItsOwn(t *testing.T) {
	before := mounts(t)
	m, pid1 := newMachine(t)
	start(t, m, pid1)
	bootID := run(t, m, "cat", "/proc/sys/kernel/random/boot_id")
	for _, tc := range []struct{ command, want string }{
		{"hostname", "box"},
		{"ls /sys/class/net", "lo"},
		{"ps -e -o args= | grep -c '^yurt-machine'", "1"},
		{"cat /proc/sys/vm/overcommit_memory", "1"},
		{"echo 7 >/proc/sys/vm/overcommit_memory && cat /proc/sys/vm/overcommit_memory", "7"},
		{"touch /usr/bin/x 2>/dev/null || echo read-only", "read-only"},
		{"touch /programs/*/x 2>/dev/null || echo read-only", "read-only"},
		{"command -v pid1 >/dev/null && echo found", "found"},
		{"getent passwd root | cut -d: -f1", "root"},
		{"echo hello >/var/lib/file; echo hello >/run/file; echo hello >/usr/local/bin/file; cat /var/lib/file", "hello"},
		{"ls /sys/fs/cgroup | wc -l | grep -c '^0$' || true", "0"},
	} {
		if diff := cmp.Diff(tc.want, run(t, m, "sh", "-c", tc.command)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.command, diff)
		}
	}
	if data, err := os.ReadFile("/proc/sys/vm/overcommit_memory"); err != nil || string(data) == "7\n" {
		t.Errorf("the computer's own setting is now %q, %v", data, err)
	}

	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Exec(t.Context(), "true"); !errors.Is(err, machine.ErrOff) {
		t.Errorf("a command on a machine that is off: %v", err)
	}
	if data, err := os.ReadFile(m.Path("/var/lib/file")); err != nil || string(data) != "hello\n" {
		t.Errorf("its disk has %q, %v", data, err)
	}
	start(t, m, pid1)
	for file, want := range map[string]string{"/var/lib/file": "hello", "/usr/local/bin/file": "hello", "/run/file": "gone"} {
		if got := run(t, m, "sh", "-c", "cat "+file+" 2>/dev/null || echo gone"); got != want {
			t.Errorf("after the reboot %s has %q, want %q", file, got, want)
		}
	}
	if again := run(t, m, "cat", "/proc/sys/kernel/random/boot_id"); again == bootID || len(again) != 36 {
		t.Errorf("boot id was %s, is %s", bootID, again)
	}
	if diff := cmp.Diff(before, mounts(t)); diff != "" {
		t.Errorf("the computer's mounts changed (-before +after):\n%s", diff)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestServicesEndWithThePower(t *testing.T) {
	m, pid1 := newMachine(t)
	start(t, m, pid1)
	// A service whose child leaves it, as containerd's do: it must be waited for by the first process, and end with the machine.
	err := m.Define(t.Context(), []proc.Service{{
		Name: "s", Argv: []string{"sh", "-c", "setsid sleep 4711 & setsid sleep 0.1 & exec sleep 4712"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Boot(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	children := func() string { return run(t, m, "sh", "-c", "pgrep -c -f '^sleep 4711' || true") }
	waitFor(t, "the first child", func() bool { return children() == "1" })
	if err := m.Kill(t.Context(), "s", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the restart", func() bool {
		s, err := m.Service(t.Context(), "s")
		return err == nil && s.Restarts == 1
	})
	waitFor(t, "orphans to be waited for", func() bool {
		return run(t, m, "sh", "-c", "ps -e -o stat=,ppid= | grep -c '^Z.* 1$' || true") == "0"
	})
	waitFor(t, "one child of each of the service's two lives", func() bool { return children() == "2" })
	if err := m.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("pgrep", "-f", "sleep 471[12]").Output(); err == nil {
		t.Errorf("processes outlive their machine: %s", out)
	}
}

func TestAMachineEndsWithItsOwner(t *testing.T) {
	m, pid1 := newMachine(t)
	given, owner, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	if err := m.Start(t.Context(), pid1, given); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := m.PID(); err != nil {
		t.Fatalf("it ended before its owner: %v", err)
	}
	owner.Close()
	waitFor(t, "its end", func() bool {
		_, err := m.PID()
		return errors.Is(err, machine.ErrOff)
	})
}

func TestStartThatFailsSaysWhy(t *testing.T) {
	m, pid1 := newMachine(t)
	m.Programs = append(m.Programs, "/nowhere")
	err := m.Start(t.Context(), pid1, nil)
	if err == nil || !strings.Contains(err.Error(), "/nowhere: no such file or directory") {
		t.Errorf("start with a directory that isn't there: %v", err)
	}
	if _, err := m.PID(); !errors.Is(err, machine.ErrOff) {
		t.Errorf("its first process: %v", err)
	}
}

func TestExecEndsWithItsContext(t *testing.T) {
	m, pid1 := newMachine(t)
	start(t, m, pid1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := m.Exec(ctx, "sleep", "60"); err == nil {
		t.Error("it succeeded")
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	waitFor(t, "the end of its process", func() bool { return !strings.Contains(run(t, m, "ps", "-e", "-o", "args="), "sleep 60") })
}

func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: not within 30 s", what)
		}
	}
}
