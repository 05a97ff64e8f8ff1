package architecture

import (
	"fmt"
	"strings"
	"testing"
)

// A side is a part of the product that is built, run and changed on its own.
// A package imports from its own side and from the ground, never from another side.
type side string

const (
	ground     side = "ground"     // under all the others
	hub        side = "hub"        // the node agent
	cloud      side = "cloud"      // the controllers beside the stock ones
	playground side = "playground" // a Kubernetes cluster on one machine
	proof      side = "proof"      // tests, fakes and benchmarks: imports any side, and is imported by test files only
	command    side = "command"    // mains: import any side, imported by nobody
)

// A place says where a package stands.
type place struct {
	pkg    string // directory below the module's root; "dir/..." covers what is below dir
	side   side
	floor  int // a package imports lower floors only
	reason string
}

// floors is the table of all packages. A new package gets a row on the lowest floor that its imports allow.
// If that floor is taken by a package that it wants to import, one of the two does not have one task.
func floors() []place {
	return []place{
		{"internal/architecture", proof, 0, "reads sources as text and needs nothing of them"},

		// Floor 0 knows bytes, files and time.
		{"internal/atomicfile", ground, 0, "replaces a file so that a power cut leaves the old or the new one"},
		{"internal/backoff", ground, 0, "delays with full jitter; knows nothing of what is tried again"},
		{"internal/splice", ground, 0, "sets single fields of messages whose other bytes it leaves alone; wire and those who change objects use it"},
		{"internal/failpoint", ground, 0, "named places where tests inject faults; every package may have some"},
		{"internal/health", ground, 0, "conditions with code and severity; those who know the facts report into it"},
		{"internal/traffic", ground, 0, "bytes by client and resource, counted on both sides of the hub"},
		{"internal/version", ground, 0, "which build this is"},
		{"internal/config", ground, 0, "a file that sets a program's flags; it knows no flag by name"},
		{"internal/logging", ground, 0, "the logger that a program's flags ask for"},
		{"internal/systemd", ground, 0, "what the service manager hands over and wants to hear"},
		{"internal/wellknown", ground, 0, "names that users write: ports, annotations, labels, paths"},

		// Floor 1 knows the words of the Kubernetes API.
		{"internal/adminapi", ground, 1, "the status document and its client, shared by the hub and the tools that read it"},
		{"internal/credential", ground, 1, "kubeconfigs, certificates and tokens as values: it follows files, and talks to nobody"},
		{"internal/keyring", ground, 1, "the keys that seal what is at rest: it finds them and seals nothing"},
		{"internal/request", ground, 1, "one parsed API request"},
		{"internal/store", ground, 1, "durable collections of bytes: it knows no word of the Kubernetes API, and mechanisms build on it"},
		{"internal/wire", ground, 1, "splits and joins list bodies and watch frames without decoding objects"},

		// Floor 2: one mechanism each.
		{"internal/fairness", hub, 2, "whose request is answered next, and which ones are not"},
		{"internal/filter", hub, 2, "changes to objects on their way out"},
		{"internal/overlay", hub, 2, "the status of the node's pods as the cloud does not know it yet, laid over what the cloud said"},
		{"internal/peer", hub, 2, "which process is at the other end of a connection"},
		{"internal/podaddress", hub, 2, "the interface by which pods reach the hub; it speaks no HTTP"},
		{"internal/upstream", hub, 2, "the pool of API servers; it alone decides which one is asked"},

		// Floor 3: one path of a request each.
		{"internal/condition", hub, 3, "how the hub stands, as a condition of the node"},
		{"internal/forward", hub, 3, "passes a request to an API server"},
		{"internal/offline", hub, 3, "what a write gets while the cloud is away"},
		{"internal/replica", hub, 3, "keeps a local copy of one list+watch and serves it"},

		// Floor 4: who asks.
		{"internal/identity", hub, 4, "whose a request is, and what they may be shown: the API server's word, remembered"},

		// Floor 5: HTTP.
		{"internal/admin", hub, 5, "/livez, /readyz, /metrics and /status"},
		{"internal/gateway", hub, 5, "which path a request takes"},

		// Floor 6: everything.
		{"internal/hub", hub, 6, "the node agent as one value"},

		// The cloud's controllers share with the hub what users write, and nothing else.
		{"internal/controller/autonomy", cloud, 2, "what nodes and pods ask for, read the same way by all controllers"},
		{"internal/controller/lag", cloud, 2, "which versions of pods were written to: caches are behind"},
		{"internal/controller/endpointretention", cloud, 3, "pods of dark nodes stay in their Services"},
		{"internal/controller/nodeautonomy", cloud, 3, "pods of dark nodes are not evicted"},
		{"internal/manager", cloud, 4, "the controllers as one program with one leader"},

		// The playground climbs floors of its own, and boots the hub as a program: it never links it.
		{"internal/playground/binaries", playground, 2, "builds Kubernetes, etcd, containerd and CoreDNS from the modules under build/"},
		{"internal/playground/cgroup", playground, 2, "control groups, in version 1's hierarchies or version 2's one"},
		{"internal/playground/component", playground, 2, "one file per Kubernetes binary: a config becomes an argument list"},
		{"internal/playground/host", playground, 2, "what the computer must have, and how it gets it"},
		{"internal/playground/image", playground, 2, "container images made without a registry"},
		{"internal/playground/netns", playground, 2, "network namespaces and the links between them"},
		{"internal/playground/pki", playground, 2, "keys and certificates of a cluster"},
		{"internal/playground/proc", playground, 2, "services kept running, as systemd would"},
		{"internal/playground/workload", playground, 2, "the program that runs in the pods"},
		{"internal/playground/machine", playground, 3, "namespaces, control groups and services that make one computer look like many"},
		{"internal/playground/clustertest", proof, 5, "a cluster for one test, or the reason why there can be none"},
		{"internal/playground/scenario", playground, 5, "the site whose survival is shown and tested"},
		{"internal/playground/cluster", playground, 4, "boots components on machines; what demo, tests and benchmarks use"},
		{"internal/playground/pid1", playground, 4, "the program that is a machine's first process"},

		{"bench/...", proof, 8, "the benchmark: programs measured beside programs"},
		{"bench", proof, 9, "the benchmark's flags"},
		{"test/...", proof, 8, "programs against programs, and the fakes that other tests share"},
		{"cmd/...", command, 9, "flags, config, Run"},
	}
}

func checkFloors(t *tree) []string {
	var findings []string
	for _, p := range t.packages {
		from, ok := placeOf(p.dir)
		if !ok {
			findings = append(findings, fmt.Sprintf(
				"%s: has no floor: add it to the table in internal/architecture/floors_test.go, as low as its imports allow", p.dir))
			continue
		}
		for _, file := range p.files {
			for _, imported := range file.imports() {
				dir, own := strings.CutPrefix(imported, module+"/")
				if !own || dir == p.dir {
					continue
				}
				to, ok := placeOf(dir)
				if !ok {
					continue // it has its own finding
				}
				if why := refuse(from, to, file.test); why != "" {
					findings = append(findings, fmt.Sprintf("%s: imports %s: %s", file.path, dir, why))
				}
			}
		}
	}
	return findings
}

// refuse says why a package at one place may not import a package at another, or "".
func refuse(from, to place, test bool) string {
	switch {
	case from.pkg == to.pkg: // below one "/..."
		return ""
	case to.side == command:
		return "nobody imports a command"
	case to.side == proof:
		if test || from.side == proof {
			return ""
		}
		return "only test files import what is for tests"
	case from.side != to.side && to.side != ground && from.side != command && from.side != proof:
		return fmt.Sprintf("%s does not import %s", from.side, to.side)
	case from.floor == to.floor:
		return fmt.Sprintf("both are on floor %d", to.floor)
	case from.floor < to.floor:
		return fmt.Sprintf("floor %d is above floor %d", to.floor, from.floor)
	}
	return ""
}

func placeOf(dir string) (place, bool) {
	for _, row := range floors() {
		above, open := strings.CutSuffix(row.pkg, "/...")
		if row.pkg == dir || open && strings.HasPrefix(dir, above+"/") {
			return row, true
		}
	}
	return place{}, false
}

func TestFloorsTable(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range floors() {
		if seen[row.pkg] {
			t.Errorf("%s has two rows", row.pkg)
		}
		seen[row.pkg] = true
		if row.reason == "" {
			t.Errorf("%s has no reason", row.pkg)
		}
		if (row.side == ground) != (row.floor <= 1) && row.side != proof {
			t.Errorf("%s: floors 0 and 1 are the ground, and the ground ends there", row.pkg)
		}
	}
}
