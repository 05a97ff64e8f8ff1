package proc_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"yurt/internal/playground/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// supervise returns a client of a supervisor that has the services.
func supervise(t *testing.T, services ...proc.Service) (client *proc.Client, logs string) {
	t.Helper()
	logs = t.TempDir()
	s := proc.NewSupervisor(logs, slog.New(slog.NewTextHandler(t.Output(), nil)))
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		s.Close()
		srv.Close()
	})
	client = proc.NewClient(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", srv.Listener.Addr().String())
	})
	if err := client.Define(t.Context(), services); err != nil {
		t.Fatal(err)
	}
	return client, logs
}

func shell(name, script string) proc.Service {
	return proc.Service{Name: name, Argv: []string{"/bin/sh", "-c", script}}
}

func status(t *testing.T, c *proc.Client, name string) proc.Status {
	t.Helper()
	all, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no service %s in %v", name, all)
	return proc.Status{}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestServicesStartInOrderAndWaitForEachOther(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "ready.sock")
	late := shell("late", "sleep 0.3; echo late >>"+dir+"/order; exec sleep 60")
	late.Ready, late.Patience = proc.Probe{Unix: socket}, 5*time.Second
	c, _ := supervise(t, late, shell("after", "echo after >>"+dir+"/order; exec sleep 60"))

	booted := make(chan error)
	begun := time.Now()
	go func() { booted <- c.Boot(t.Context(), "") }()
	time.Sleep(600 * time.Millisecond)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("boot took %v: it did not wait for the first service", took)
	}
	eventually(t, "both services have run", func() bool {
		order, err := os.ReadFile(filepath.Join(dir, "order"))
		return err == nil && string(order) == "late\nafter\n"
	})
}

func TestBootGoesOnWithoutAServiceThatIsNeverReady(t *testing.T) {
	stuck := shell("stuck", "exec sleep 60")
	stuck.Ready, stuck.Patience = proc.Probe{HTTP: "http://127.0.0.1:1/"}, 200*time.Millisecond
	c, _ := supervise(t, stuck, shell("after", "exec sleep 60"))
	if err := c.Boot(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if s := status(t, c, "after"); s.State != proc.Running {
		t.Errorf("the service after the stuck one is %v", s.State)
	}
}

func TestBootUntil(t *testing.T) {
	c, _ := supervise(t, shell("a", "exec sleep 60"), shell("b", "exec sleep 60"), shell("c", "exec sleep 60"))
	if err := c.Boot(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	all, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range all {
		got[s.Name] = s.State.String()
	}
	if diff := cmp.Diff(map[string]string{"a": "running", "b": "running", "c": "stopped"}, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if err := c.Boot(t.Context(), "nobody"); !errors.Is(err, proc.ErrUnknown) {
		t.Errorf("boot until an unknown service: %v", err)
	}
}

func TestAServiceThatEndsIsStartedAgain(t *testing.T) {
	c, logs := supervise(t, shell("s", "echo hello; exec sleep 60"))
	if err := c.Boot(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	first := status(t, c, "s")
	lives := func(n int) func() bool {
		return func() bool {
			log, err := os.ReadFile(filepath.Join(logs, "s.log"))
			return err == nil && strings.Count(string(log), "hello") == n
		}
	}
	eventually(t, "the first life in the log", lives(1)) // a service is running from its exec on, before it has said a word
	killed := time.Now()
	if err := c.Signal(t.Context(), "s", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restart", func() bool { return status(t, c, "s").Restarts == 1 })
	second := status(t, c, "s")
	if second.PID == first.PID || second.State != proc.Running || second.Exit != "signal: killed" {
		t.Errorf("after the restart: %+v", second)
	}
	if waited := second.Started.Sub(killed); waited < 900*time.Millisecond {
		t.Errorf("it was started again after %v", waited)
	}
	eventually(t, "both lives in the log", lives(2))
}

func TestAStoppedServiceStaysStopped(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		signal       syscall.Signal // before it is stopped
	}{
		{name: "polite", script: "exec sleep 60"},
		{name: "frozen", script: "exec sleep 60", signal: syscall.SIGSTOP},
		{name: "waiting to be restarted", script: "exec sleep 60", signal: syscall.SIGKILL},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := supervise(t, shell("s", tc.script))
			if err := c.Start(t.Context(), "s"); err != nil {
				t.Fatal(err)
			}
			if tc.signal != 0 {
				if err := c.Signal(t.Context(), "s", tc.signal); err != nil {
					t.Fatal(err)
				}
			}
			if tc.signal == syscall.SIGKILL {
				eventually(t, "its end", func() bool { return status(t, c, "s").State == proc.Waiting })
			}
			if err := c.Stop(t.Context(), "s"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1200 * time.Millisecond) // longer than the delay before a restart
			if s := status(t, c, "s"); s.State != proc.Stopped || s.PID != 0 {
				t.Errorf("after stop: %+v", s)
			}
			if err := c.Start(t.Context(), "s"); err != nil {
				t.Fatal(err)
			}
			if s := status(t, c, "s"); s.State != proc.Running {
				t.Errorf("after start: %+v", s)
			}
		})
	}
}

func TestStartDuringTheDelayStartsOnce(t *testing.T) {
	dir := t.TempDir()
	c, _ := supervise(t, shell("s", "echo x >>"+dir+"/starts; exec sleep 60"))
	starts := func() int {
		data, _ := os.ReadFile(filepath.Join(dir, "starts"))
		return strings.Count(string(data), "x")
	}
	if err := c.Start(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its first start", func() bool { return starts() == 1 })
	if err := c.Signal(t.Context(), "s", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { return status(t, c, "s").State == proc.Waiting })
	if err := c.Start(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if s := status(t, c, "s"); s.State != proc.Running {
		t.Errorf("after start: %+v", s)
	}
	time.Sleep(1200 * time.Millisecond)
	if got := starts(); got != 2 {
		t.Errorf("it was started %d times, not 2", got)
	}
}

func TestDefineReplacesServices(t *testing.T) {
	c, _ := supervise(t, shell("gone", "exec sleep 60"), shell("kept", "exec sleep 60"))
	if err := c.Boot(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	kept := status(t, c, "kept").PID
	if err := c.Define(t.Context(), []proc.Service{shell("kept", "exec sleep 61"), shell("new", "exec sleep 60")}); err != nil {
		t.Fatal(err)
	}
	all, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name+" "+s.State.String())
	}
	if diff := cmp.Diff([]string{"kept running", "new stopped"}, names); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if now := status(t, c, "kept").PID; now != kept {
		t.Errorf("the kept service was restarted: %d, then %d", kept, now)
	}
}

func TestUnknownService(t *testing.T) {
	c, _ := supervise(t)
	for verb, do := range map[string]func() error{
		"start":  func() error { return c.Start(t.Context(), "nobody") },
		"stop":   func() error { return c.Stop(t.Context(), "nobody") },
		"signal": func() error { return c.Signal(t.Context(), "nobody", syscall.SIGTERM) },
	} {
		err := do()
		if !errors.Is(err, proc.ErrUnknown) {
			t.Errorf("%s: %v", verb, err)
		} else if diff := cmp.Diff(verb+" nobody: no such service", err.Error()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", verb, diff)
		}
	}
}

func TestCloseKillsServicesAndWaits(t *testing.T) {
	s := proc.NewSupervisor(t.TempDir(), slog.New(slog.DiscardHandler))
	if err := s.Define([]proc.Service{shell("s", "trap '' TERM; exec sleep 60")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("s"); err != nil {
		t.Fatal(err)
	}
	pid := s.Services()[0].PID
	if !s.Owns(pid) {
		t.Errorf("the supervisor does not own process %d", pid)
	}
	s.Close()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is still there: %v", pid, err)
	}
	if err := s.Start("s"); err == nil {
		t.Error("it can be started after the end")
	}
}
