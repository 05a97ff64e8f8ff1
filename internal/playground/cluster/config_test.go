package cluster

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidate(t *testing.T) {
	nodes := func(names ...string) []NodeConfig {
		var all []NodeConfig
		for _, n := range names {
			all = append(all, NodeConfig{Name: n})
		}
		return all
	}
	for _, tc := range []struct {
		name string
		cfg  Config
		want string // in the error
	}{
		{"good", Config{Name: "demo-1", Nodes: nodes("edge", "bare")}, ""},
		{"no nodes", Config{Name: "demo"}, ""},
		{"no name", Config{}, `cluster name ""`},
		{"dot in a name", Config{Name: "a.b"}, `cluster name "a.b"`},
		{"path in a name", Config{Name: "../x"}, `cluster name "../x"`},
		{"two nodes of one name", Config{Name: "demo", Nodes: nodes("edge", "edge")}, `node name "edge": is taken`},
		{"a node called cloud", Config{Name: "demo", Nodes: nodes("cloud")}, `node name "cloud": is taken`},
		{"capitals", Config{Name: "demo", Nodes: nodes("Edge")}, `node name "Edge"`},
		{"too many API servers", Config{Name: "demo", APIServers: 10}, "10 API servers"},
		{"too many nodes", Config{Name: "demo", Nodes: make([]NodeConfig, 201)}, "201 nodes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.cfg.withDefaults().validate()
			if tc.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAddressesDontOverlap(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for i := range maxAPIServers {
		seen[cloudAddress(i)] = true
	}
	subnets := map[netip.Prefix]bool{}
	for i := range maxNodes {
		if a := nodeAddress(i); seen[a] || !onLink(cloudAddress(0)).Contains(a) {
			t.Errorf("node %d has the address %v", i, a)
		}
		seen[nodeAddress(i)] = true
		subnets[podSubnet(i)] = true
	}
	if len(subnets) != maxNodes {
		t.Errorf("%d nodes have %d pod subnets", maxNodes, len(subnets))
	}
}

func TestMachineIDsOfDifferentClustersDiffer(t *testing.T) {
	if machineID("a-b", "c") == machineID("a", "b-c") {
		t.Error("two machines have one ID")
	}
	if strings.HasPrefix(machineID("demo-2", "edge"), machinePrefix("demo")) {
		t.Error("one cluster's machines count as another's")
	}
}

func TestLockDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "demo")
	first, err := lockDir(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir, 0); !errors.Is(err, ErrInUse) {
		t.Errorf("the second lock: %v", err)
	}
	// Its holder removes the cluster, and the lock with it: the next one makes both anew.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	second, err := lockDir(dir, 0)
	if err != nil {
		t.Fatalf("after the first one's directory is gone: %v", err)
	}
	first.Close()
	if _, err := lockDir(dir, 0); !errors.Is(err, ErrInUse) {
		t.Errorf("while the second lock is held: %v", err)
	}
	second.Close()
	third, err := lockDir(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	third.Close()
}

func TestOpenFindsCompleteClustersOnly(t *testing.T) {
	root := t.TempDir()
	if _, err := Open(root, "demo"); !errors.Is(err, ErrNoCluster) {
		t.Errorf("open nothing: %v", err)
	}
	c := assemble(Config{Name: "demo", Root: root, Nodes: []NodeConfig{{Name: "edge", Hub: true}}}.withDefaults(), nil)
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := c.makeKeys(); err != nil {
		t.Fatal(err)
	}
	for _, complete := range []bool{false, true} {
		if err := c.writeRecord(complete); err != nil {
			t.Fatal(err)
		}
		opened, err := Open(root, "demo")
		if !complete {
			if !errors.Is(err, ErrNoCluster) {
				t.Errorf("open half a cluster: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(describe(c.Config), describe(opened.Config)); diff != "" {
			t.Errorf("config (-written +read):\n%s", diff)
		}
		if _, err := opened.Node("edge"); err != nil {
			t.Error(err)
		}
		if _, err := opened.Node("nobody"); !errors.Is(err, ErrNoNode) {
			t.Errorf("find a node that isn't there: %v", err)
		}
	}
}

func TestReadAudit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	if all, err := readAudit(file, 0); err != nil || all != nil {
		t.Errorf("no log: %v, %v", all, err)
	}
	first := `{"stage":"ResponseComplete","verb":"get","user":{"username":"me"},"responseStatus":{"code":200}}` + "\n"
	rest := `{"stage":"ResponseStarted","verb":"watch","objectRef":{"resource":"pods","namespace":"a"}}` + "\n" + `{"stage":"Resp`
	if err := os.WriteFile(file, []byte(first+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		from int64
		want []string
	}{
		{0, []string{"get", "watch"}},
		{3, []string{"watch"}}, // the mark was set while the first line was being written
		{int64(len(first)), []string{"watch"}},
		{int64(len(first + rest)), nil},
	} {
		all, err := readAudit(file, tc.from)
		if err != nil {
			t.Fatal(err)
		}
		var verbs []string
		for _, r := range all {
			verbs = append(verbs, r.Verb)
		}
		if diff := cmp.Diff(tc.want, verbs); diff != "" {
			t.Errorf("from %d (-want +got):\n%s", tc.from, diff)
		}
	}
}

// TestLocalPorts: of the kernel's table, the established connections of the node's own address.
func TestLocalPorts(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue
   0: 0101630A:9C40 0100630A:192B 01 00000000:00000000
   1: 0100007F:281C 00000000:0000 0A 00000000:00000000
   2: 0101630A:9C42 0100630A:192B 01 00000000:00000000
   3: 0101630A:9C44 0100630A:192B 06 00000000:00000000
   4: 0100007F:281C 0100007F:9C46 01 00000000:00000000
`
	if diff := cmp.Diff([]int{40000, 40002}, localPorts(table, "10.99.1.1")); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}
