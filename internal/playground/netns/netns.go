// Package netns connects the network namespaces of machines with each other and lets the links between them fail.
//
// A namespace is named by a process that lives in it, so nothing has to be cleaned up: namespace, link and everything set on the
// link go with the last process. The host's own namespace is never touched.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dial connects to an address as a process of the namespace would. The address is an IP address with port or the name of a
// Unix socket; names of hosts are not looked up.
func Dial(ctx context.Context, pid int, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := within(pid, func() (err error) {
		// A socket belongs to the namespace of the thread that creates it, which is this one: for a literal address
		// the dialer starts no goroutine.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on an address of the namespace that a process is in.
func Listen(ctx context.Context, pid int, network, address string) (net.Listener, error) {
	var l net.Listener
	err := within(pid, func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// within runs f on a thread that is in the namespace of a process.
func within(pid int, f func() error) error {
	there, err := os.Open(path(pid))
	if err != nil {
		return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
	}
	defer there.Close()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("find own network namespace: %w", err)
	}
	defer here.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace of process %d: %w", pid, err)
			return
		}
		err := f()
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		} // else the thread is lost to us: it ends with this goroutine
		done <- err
	}()
	return <-done
}

func path(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/ns/net" }

// run runs a command within the namespace of a process.
func run(ctx context.Context, pid int, input string, argv ...string) error {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + path(pid), "--"}, argv...)...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // a namespace is not changed on behalf of the dead
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
