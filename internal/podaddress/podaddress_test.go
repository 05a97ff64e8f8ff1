package podaddress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The test program runs itself again: as a node, in namespaces of its own, and as
// a client in yet another one.
const (
	asNode   = "PODADDRESS_TEST_NODE"
	asClient = "PODADDRESS_TEST_CLIENT"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asClient) != "":
		fmt.Print(greeting(os.Getenv(asClient)))
		os.Exit(0)
	case os.Getenv(asNode) != "":
		// The interfaces that are told in /sys are those of who mounts it.
		err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("sysfs", "/sys", "sysfs", 0, ""))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// greeting connects, and returns what the other side says: nothing, if it does not
// let this one in.
func greeting(address string) string {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	switch {
	case errors.Is(err, syscall.ECONNRESET):
		return ""
	case err != nil:
		return "no answer"
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	said, _ := io.ReadAll(conn)
	return string(said)
}

// onNode runs a test on a computer of its own.
func onNode(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if os.Getenv(asNode) != "" {
		command(t, "ip", "link", "set", "lo", "up")
		test(t)
		return
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("making namespaces needs root")
		}
		t.Skip("making namespaces needs root")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), asNode+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("on the node: %v", err)
	}
}

func command(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", argv, err, out)
	}
}

// peer is another computer, connected with the node by a cable.
func peer(t *testing.T, device, mine, theirs string, more ...string) (pid string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	pid = strconv.Itoa(cmd.Process.Pid)
	command(t, "ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", pid)
	command(t, "ip", "address", "add", mine, "dev", device, "nodad")
	command(t, "ip", "link", "set", device, "up")
	enter := func(args ...string) { command(t, append([]string{"nsenter", "-t", pid, "-n", "ip"}, args...)...) }
	enter("address", "add", theirs, "dev", "eth0", "nodad")
	enter("link", "set", "eth0", "up")
	for _, args := range more {
		enter(strings.Fields(args)...)
	}
	return pid
}

// from returns what a peer is told at an address. Neighbours of IPv6 may not find
// each other at once.
func from(t *testing.T, pid, address string) string {
	t.Helper()
	said := once(t, pid, address)
	for i := 0; i < 5 && said == "no answer"; i++ {
		said = once(t, pid, address)
	}
	return said
}

func once(t *testing.T, pid, address string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", "-t", pid, "-n", os.Args[0])
	cmd.Env = append(os.Environ(), asClient+"="+address)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var (
	ipv4 = netip.MustParseAddr("169.254.2.1")
	ipv6 = netip.MustParseAddr("fd00:a9fe::1")
)

const port = 10268

// up runs the address, and a server there that greets who gets in.
func up(t *testing.T) (*Address, func()) {
	t.Helper()
	a := &Address{Name: "yurthub-dummy0", IPs: []netip.Addr{ipv4, ipv6}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	ctx, cancel := context.WithCancel(t.Context())
	var listeners []net.Listener
	served := make(chan struct{})
	for _, ip := range a.IPs {
		l, err := a.Listen(ctx, ip, port) // before there is an interface
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		go func() {
			defer func() { served <- struct{}{} }()
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, "hello")
				_ = conn.Close()
			}
		}()
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return a, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, l := range listeners {
			_ = l.Close()
			<-served
		}
	}
}

func awaitGreeting(t *testing.T, what string, greets func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !greets(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: nobody answers", what)
		}
	}
}

func at(ip netip.Addr) string { return netip.AddrPortFrom(ip, port).String() }

// here tells whether both addresses answer on the node itself.
func here() bool { return greeting(at(ipv4)) == "hello" && greeting(at(ipv6)) == "hello" }

// TestPodAddressStays: the address is there while the hub runs, whatever others
// do to its interface, and no longer.
func TestPodAddressStays(t *testing.T) {
	onNode(t, func(t *testing.T) {
		a, stop := up(t)
		awaitGreeting(t, "at first", here)
		for _, harm := range []string{
			"link delete " + a.Name,
			"address delete " + ipv4.String() + "/32 dev " + a.Name,
			"address delete " + ipv6.String() + "/128 dev " + a.Name,
			"link set " + a.Name + " down",
		} {
			command(t, append([]string{"ip"}, strings.Fields(harm)...)...)
			awaitGreeting(t, "after ip "+harm, here)
		}
		stop()
		if _, err := net.InterfaceByName(a.Name); err == nil {
			t.Error("the interface is there after the end")
		}
	})
}

// TestPodAddressLeavesOthersAlone: an interface that somebody else has made is
// neither used nor removed, though it has the name and may be of the same kind.
func TestPodAddressLeavesOthersAlone(t *testing.T) {
	onNode(t, func(t *testing.T) {
		a := &Address{Name: "yurthub-dummy0", IPs: []netip.Addr{ipv4}, Logger: slog.New(slog.DiscardHandler)}
		for kind, more := range map[string]string{"veth": " peer name other", "bridge": ""} {
			ip := func(line string) { command(t, append([]string{"ip"}, strings.Fields(line)...)...) }
			ip("link add " + a.Name + " type " + kind + more)
			if _, err := a.ensure(); err == nil || !strings.Contains(err.Error(), "there is a "+kind+" of that name") {
				t.Errorf("ensure: %v", err)
			}
			if err := a.remove(); err != nil {
				t.Error(err)
			}
			if _, err := net.InterfaceByName(a.Name); err != nil {
				t.Errorf("a %s was removed: %v", kind, err)
			}
			ip("link delete " + a.Name)
		}
	})
}

// TestNeighboursGetNothing: the node's pods and its own processes are let in, and
// nobody who sends packets for the address to the node from outside.
func TestNeighboursGetNothing(t *testing.T) {
	onNode(t, func(t *testing.T) {
		_, stop := up(t)
		defer stop()
		pod := peer(t, "pod0", "10.244.1.1/24", "10.244.1.2/24", "route add default via 10.244.1.1", "-6 address add fd00:244::2/64 dev eth0 nodad")
		command(t, "ip", "-6", "address", "add", "fd00:244::1/64", "dev", "pod0", "nodad")
		command(t, "nsenter", "-t", pod, "-n", "ip", "-6", "route", "add", "default", "via", "fd00:244::1")
		lan := peer(t, "eth0", "10.99.1.1/16", "10.99.0.1/16",
			"route add 169.254.2.1 via 10.99.1.1", // to the node's hardware address
			"-6 address add fd00:99::2/64 dev eth0 nodad")
		command(t, "ip", "-6", "address", "add", "fd00:99::1/64", "dev", "eth0", "nodad")
		command(t, "nsenter", "-t", lan, "-n", "ip", "-6", "route", "add", ipv6.String(), "via", "fd00:99::1")
		command(t, "ip", "route", "add", "default", "via", "10.99.0.1")

		awaitGreeting(t, "on the node", here)
		for _, ip := range []netip.Addr{ipv4, ipv6} {
			if got := from(t, pod, at(ip)); got != "hello" {
				t.Errorf("a pod at %s: %q", ip, got)
			}
			if got := from(t, lan, at(ip)); got != "" {
				t.Errorf("a neighbour at %s: %q", ip, got)
			}
		}
		// Who takes a pod's address sends to the node, and the answers go to the pod.
		command(t, "nsenter", "-t", lan, "-n", "ip", "address", "add", "10.244.1.2/32", "dev", "lo")
		command(t, "nsenter", "-t", lan, "-n", "ip", "route", "replace", "169.254.2.1", "via", "10.99.1.1", "src", "10.244.1.2")
		if got := once(t, lan, at(ipv4)); got == "hello" {
			t.Error("a neighbour with a pod's address gets in")
		}
	})
}

// TestPodsBehindTheNodesOwnAddress: some networks route to the node's pods over an
// address of the node; others reach the pods of other nodes through a tunnel.
func TestPodsBehindTheNodesOwnAddress(t *testing.T) {
	onNode(t, func(t *testing.T) {
		_, stop := up(t)
		defer stop()
		pod := peer(t, "pods0", "10.0.9.1/32", "10.0.0.2/32", "route add 10.0.9.1 dev eth0", "route add default via 10.0.9.1")
		command(t, "ip", "route", "add", "10.0.0.1", "dev", "pods0")
		command(t, "ip", "route", "add", "10.0.0.0/24", "via", "10.0.0.1", "dev", "pods0")
		command(t, "ip", "address", "add", "10.0.0.1/32", "dev", "pods0") // not before: the kernel takes no gateway that is its own
		command(t, "ip", "neighbour", "replace", "10.0.0.1", "lladdr", hardware(t, pod), "dev", "pods0")
		awaitGreeting(t, "on the node", here)
		if got := from(t, pod, at(ipv4)); got != "hello" {
			t.Errorf("a pod: %q", got)
		}
		far := peer(t, "tunnel0", "10.0.3.1/32", "10.0.2.2/32", "route add 10.0.3.1 dev eth0", "route add default via 10.0.3.1")
		command(t, "ip", "neighbour", "add", "10.0.2.0", "lladdr", hardware(t, far), "dev", "tunnel0")
		command(t, "ip", "route", "add", "10.0.2.0/24", "via", "10.0.2.0", "dev", "tunnel0", "onlink")
		if got := from(t, far, at(ipv4)); got != "" {
			t.Errorf("a pod of another node: %q", got)
		}
	})
}

func hardware(t *testing.T, pid string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nsenter", "-t", pid, "-n", "ip", "-br", "link", "show", "eth0").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[2]
}

// TestWired: what has a device, or stands on one, leads out of the node though no
// route says so.
func TestWired(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"eth0/device", "bond0/lower_eth0", "br0/lower_bond0", "br0/lower_veth1", "cni0/lower_veth2", "veth1", "veth2"} {
		if err := os.MkdirAll(filepath.Join(dir, path), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"eth0": true, "bond0": true, "br0": true, "cni0": false, "veth2": false, "gone": false} {
		if got := wired(dir, name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
