package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"yurt/internal/playground/cgroup"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/machine"
)

const ownerVar = "CLUSTER_TEST_OWNER" // makes this program the owner of a cluster of that name

func TestMain(m *testing.M) {
	if name := os.Getenv(ownerVar); name != "" {
		ownUntilKilled(name)
	}
	goleak.VerifyTestMain(m)
}

func ownUntilKilled(name string) {
	if _, err := cluster.Up(context.Background(), cluster.Config{Name: name, Owned: true}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("up")
	select {}
}

// TestLifecycle is about the clusters that outlive who brings them up.
func TestLifecycle(t *testing.T) {
	clustertest.Require(t, "")
	cfg := cluster.Config{Name: fmt.Sprintf("life-%d", os.Getpid())}
	t.Cleanup(func() {
		if err := cluster.Down("", cfg.Name); err != nil {
			t.Error(err)
		}
	})
	first, err := cluster.Up(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	pid, err := first.Cloud().PID()
	if err != nil {
		t.Fatal(err)
	}
	second, err := cluster.Up(t.Context(), cfg)
	if err != nil {
		t.Fatalf("up when it is up: %v", err)
	}
	defer second.Close()
	if again, err := second.Cloud().PID(); err != nil || again != pid {
		t.Errorf("the second up made another cluster: first process %d, then %d, %v", pid, again, err)
	}
	different := cfg
	different.Nodes = []cluster.NodeConfig{{Name: "a"}}
	if _, err := cluster.Up(t.Context(), different); !errors.Is(err, cluster.ErrDifferent) {
		t.Errorf("up with other nodes: %v", err)
	}
	if err := first.Cloud().PowerOff(); err != nil { // as after a crash of the computer
		t.Fatal(err)
	}
	third, err := cluster.Up(t.Context(), cfg)
	if err != nil {
		t.Fatalf("up after a crash: %v", err)
	}
	defer third.Close()
	for range 2 {
		if err := cluster.Down("", cfg.Name); err != nil {
			t.Errorf("down: %v", err)
		}
		nothingLeft(t, cfg.Name)
	}
}

// TestDeadOwner kills a process that owns a cluster: its machines end with it, and the next cluster removes what else is left.
func TestDeadOwner(t *testing.T) {
	clustertest.Require(t, "")
	name := fmt.Sprintf("dead-%d", os.Getpid())
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerVar+"="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(out).ReadString('\n'); err != nil || said != "up\n" {
		t.Fatalf("the owner says %q, %v", said, err)
	}
	if err := cluster.Down("", name); !errors.Is(err, cluster.ErrInUse) {
		t.Errorf("down of another's cluster: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	waitFor(t, 30*time.Second, "the end of its machines", func() error {
		if ids := machine.Running("yurt." + name + "."); len(ids) > 0 {
			return fmt.Errorf("%v run", ids)
		}
		return nil
	})
	clustertest.Up(t, cluster.Config{})
	nothingLeft(t, name)
}

// nothingLeft looks for whatever a cluster could have left on the computer.
func nothingLeft(t *testing.T, name string) {
	t.Helper()
	prefix := "yurt." + name + "."
	if ids := machine.Running(prefix); len(ids) > 0 {
		t.Errorf("machines run: %v", ids)
	}
	groups, err := cgroup.Open()
	if err != nil {
		t.Fatal(err)
	}
	if names, err := groups.Names(prefix); err != nil || len(names) > 0 {
		t.Errorf("control groups are left: %v, %v", names, err)
	}
	dir := filepath.Join(cluster.DefaultRoot, name)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	for _, table := range []string{"/proc/self/mounts", "/proc/net/dev"} {
		data, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), name) || strings.Contains(string(data), "port1") {
			t.Errorf("%s has traces of the cluster:\n%s", table, data)
		}
	}
	if out, err := exec.Command("pgrep", "-a", "-f", dir).Output(); err == nil {
		t.Errorf("processes are left:\n%s", out)
	}
}
