package netns

import (
	"context"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// machine is a process with a network namespace of its own.
func machine(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "120")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// A megabyte over a link whose round trip takes a second longer arrives whole.
func TestDelay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making namespaces needs root")
	}
	const delay = time.Second
	cloud := Cloud{PID: machine(t), Addresses: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/16")}}
	link := Link{Cloud: cloud, Port: "port1", PID: machine(t), Node: netip.MustParsePrefix("10.99.1.1/16"), Pods: netip.MustParsePrefix("10.244.1.0/24")}
	if err := cloud.Create(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := link.Create(t.Context(), Condition{}); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), cloud.PID, "tcp", "10.99.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write(make([]byte, 1<<20))
			_ = conn.Close()
		}
	}()
	fetch := func() (connected time.Duration) {
		t.Helper()
		began := time.Now()
		conn, err := Dial(t.Context(), link.PID, "tcp", "10.99.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		connected = time.Since(began)
		if got, err := io.ReadAll(conn); err != nil || len(got) != 1<<20 {
			t.Fatalf("read %d bytes: %v", len(got), err)
		}
		return connected
	}
	// fastest of three: a connection whose first packet was lost takes a
	// second as well.
	fastest := func() time.Duration {
		t.Helper()
		return min(fetch(), fetch(), fetch())
	}
	if took := fastest(); took > delay/2 {
		t.Errorf("without delay a connection took %v", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- link.Delay(ctx, delay) }()
	deadline := time.Now().Add(30 * time.Second)
	for fastest() < delay { // until it is in place
		if time.Now().After(deadline) {
			t.Fatal("connections are not delayed")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if took := fastest(); took > delay/2 {
		t.Errorf("after the delay's end a connection took %v", took)
	}
}
