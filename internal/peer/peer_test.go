package peer

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

const dialTo = "YURT_PEER_DIAL"

// TestMain is also the client: a process of its own, wherever the test puts it.
func TestMain(m *testing.M) {
	address := os.Getenv(dialTo)
	if address == "" {
		os.Exit(m.Run())
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		os.Exit(1)
	}
	_, _ = bufio.NewReader(conn).ReadByte() // until the test ends it
}

// TestRootOfHost: root on the host is the node; root in a container with the
// host's network, and anybody else, is not.
func TestRootOfHost(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can be root, and somebody else")
		}
		t.Skip("only root can be root, and somebody else")
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		for name, tc := range map[string]struct {
			as   *syscall.SysProcAttr
			want bool
		}{
			"root of the host":                     {&syscall.SysProcAttr{}, true},
			"root with a view of files of its own": {&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, false},
			"root of a user namespace":             {&syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: []syscall.SysProcIDMap{{HostID: 1234, Size: 1}}}, false},
			"somebody else, with the host's files": {&syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 1234}}, false},
		} {
			t.Run(name+" "+address, func(t *testing.T) {
				l, err := net.Listen("tcp", address)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				client := exec.Command("/proc/self/exe")
				client.Env = append(os.Environ(), dialTo+"="+l.Addr().String())
				client.SysProcAttr = tc.as
				if err := client.Start(); err != nil {
					t.Fatal(err)
				}
				conn, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				if got := (Host{Proc: "/proc", First: "self"}).RootOfHost(conn.RemoteAddr().String(), conn.LocalAddr().String()); got != tc.want {
					t.Errorf("got %t, want %t", got, tc.want)
				}
				conn.Close()
				if err := client.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// What can't be told is a no.
func TestNobody(t *testing.T) {
	for _, remote := range []string{"127.0.0.1:1", "10.9.8.7:4711", "nonsense", ""} {
		if (Host{Proc: "/proc", First: "self"}).RootOfHost(remote, "127.0.0.1:10268") {
			t.Errorf("a connection from %q that is not there counts as root's", remote)
		}
	}
	if (Host{Proc: t.TempDir()}).RootOfHost("127.0.0.1:1", "127.0.0.1:2") {
		t.Error("without a list of connections somebody counts as root")
	}
}
