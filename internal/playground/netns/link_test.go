package netns

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Dial reaches what listens in the namespace of a process, for which this test's own will do if it is root's.
func TestDial(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("entering a namespace needs root")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other := exec.Command("sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	for range 20 { // threads that came back from another namespace are used again
		conn, err := Dial(t.Context(), os.Getpid(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if conn, err := Dial(t.Context(), other.Process.Pid, "tcp", l.Addr().String()); err == nil {
			conn.Close()
			t.Fatal("another namespace has this one's listener")
		}
	}
	if _, err := Dial(t.Context(), 1<<30, "tcp", l.Addr().String()); err == nil {
		t.Error("the namespace of no process was entered")
	}
}

// TestScripts holds what is told to ip and nft against testdata/scripts: one command for each, with the condition of the link as
// arguments.
func TestScripts(t *testing.T) {
	link := Link{
		Cloud: Cloud{PID: 1, Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.99.0.1/16"), netip.MustParsePrefix("10.99.0.2/16"),
		}},
		Port: "port1",
		PID:  2,
		Node: netip.MustParsePrefix("10.99.1.1/16"),
		Pods: netip.MustParsePrefix("10.244.1.0/24"),
	}
	datadriven.RunTest(t, "testdata/scripts", func(t *testing.T, d *datadriven.TestData) string {
		var c Condition
		c.Cut = d.HasArg("cut")
		c.Blackhole = d.HasArg("blackhole")
		c.CloudOnly = d.HasArg("cloud-only")
		d.MaybeScanArgs(t, "loss", &c.Loss)
		if d.HasArg("forgotten") {
			c.Forgotten = []int{40000, 40002}
		}
		d.MaybeScanArgs(t, "rate", &c.Rate)
		switch d.Cmd {
		case "cloud":
			return link.Cloud.script()
		case "node":
			return link.nodeScript()
		case "port":
			return link.cloudScript()
		case "rules":
			return link.rules(c)
		case "say":
			if err := c.Validate(); err != nil {
				return err.Error() + "\n"
			}
			return c.String() + "\n"
		default:
			t.Fatalf("unknown command %s", d.Cmd)
			return ""
		}
	})
}
