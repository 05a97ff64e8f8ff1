package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/host"
	"yurt/internal/playground/machine"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"playground": main})
}

// TestScripts tells the command line without a cluster.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %s", cond)
		},
	})
}

// TestClusterScripts tells what the commands do to a cluster.
func TestClusterScripts(t *testing.T) {
	clustertest.Require(t, "")
	checkout, err := cluster.FindCheckout()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("cli-%d", os.Getpid())
	t.Cleanup(func() {
		if err := cluster.Down("", name); err != nil {
			t.Error(err)
		}
	})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cluster",
		Setup: func(env *testscript.Env) error {
			env.Cd = checkout
			for _, v := range []string{"HOME", "XDG_CACHE_HOME", "GOMODCACHE", "GOCACHE", "GOPROXY"} {
				if value, ok := os.LookupEnv(v); ok {
					env.Setenv(v, value)
				}
			}
			env.Setenv("CLUSTER", name)
			return nil
		},
	})
}

func TestParseNodes(t *testing.T) {
	for _, tc := range []struct {
		list string
		want []cluster.NodeConfig
		err  string
	}{
		{"edge:hub,bare", []cluster.NodeConfig{{Name: "edge", Hub: true}, {Name: "bare"}}, ""},
		{"a", []cluster.NodeConfig{{Name: "a"}}, ""},
		{"a:proxy", nil, `read nodes: "a:proxy" is neither NAME nor NAME:hub`},
		{"a,,b", nil, `read nodes: "" is neither NAME nor NAME:hub`},
		{"", nil, `read nodes: "" is neither NAME nor NAME:hub`},
	} {
		got, err := parseNodes(tc.list)
		if diff := cmp.Diff(tc.want, got); diff != "" && tc.err == "" {
			t.Errorf("%q (-want +got):\n%s", tc.list, diff)
		}
		if text := fmt.Sprint(err); tc.err != "" && text != tc.err {
			t.Errorf("%q: error %v", tc.list, err)
		}
	}
}

func TestEveryKnownErrorComesWithWhatToDo(t *testing.T) {
	for _, err := range []error{
		host.ErrNotRoot, &host.MissingError{Packages: []string{"runc"}}, cluster.ErrNoCluster, cluster.ErrNoNode, cluster.ErrInUse,
		cluster.ErrDifferent, machine.ErrOff,
	} {
		got := message(fmt.Errorf("do something: %w", err))
		if !strings.Contains(got, "; ") || strings.Contains(got, "\n") {
			t.Errorf("%v is told as %q", err, got)
		}
	}
	if got := message(errors.New("unheard of")); got != "unheard of" {
		t.Errorf("another error is told as %q", got)
	}
}

// Flags of the playground stand before kubectl's; from the first word that isn't one, all is kubectl's.
func TestTakeOwnFlags(t *testing.T) {
	for _, tc := range []struct {
		args []string
		name string
		rest []string
	}{
		{[]string{"get", "pods", "--name", "x"}, "demo", []string{"get", "pods", "--name", "x"}},
		{[]string{"--name", "x", "get", "pods"}, "x", []string{"get", "pods"}},
		{[]string{"--name=x", "--namespace=y", "get"}, "x", []string{"--namespace=y", "get"}},
		{nil, "demo", nil},
	} {
		cmd := newCommand()
		kubectl, _, err := cmd.Find([]string{"kubectl"})
		if err != nil {
			t.Fatal(err)
		}
		kubectl.InheritedFlags() // as cobra does before it runs a command
		a := &app{}
		rest, err := a.takeOwnFlags(kubectl, tc.args)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.rest, rest); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.args, diff)
		}
		if name := kubectl.InheritedFlags().Lookup("name").Value.String(); name != tc.name {
			t.Errorf("%v: name %q", tc.args, name)
		}
	}
}

// TestWithoutRoot runs the program as nobody: one line says what needs root and how to get it.
func TestWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become nobody")
	}
	dir, err := os.MkdirTemp("", "playground-test-") //nolint:usetesting // t.TempDir can't be opened to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "playground")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, verb := range []string{"up", "down", "status"} {
		cmd := exec.Command(program, verb)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("%s: %v", verb, err)
		}
		if said := string(out); strings.Count(said, "\n") != 1 || !strings.Contains(said, "only root can make") || !strings.Contains(said, "sudo") {
			t.Errorf("%s says %q", verb, said)
		}
	}
}
