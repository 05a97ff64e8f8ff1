package binaries

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPinnedVersion(t *testing.T) {
	for _, tc := range []struct{ gomod, want string }{
		{"require k8s.io/kubernetes v1.37.2\n", "v1.37.2"},
		{"require (\n\tk8s.io/kubernetes-other v0.1.0\n\tk8s.io/kubernetes v1.34.4 // indirect\n)\n", "v1.34.4"},
		{"replace k8s.io/kubernetes => ../k\n", ""},
		{"", ""},
	} {
		if got := pinnedVersion(tc.gomod, "k8s.io/kubernetes"); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.gomod, got, tc.want)
		}
	}
}

func TestKubernetesVersion(t *testing.T) {
	want := "-X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/component-base/version.gitMajor=1 " +
		"-X k8s.io/component-base/version.gitMinor=34 -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4 " +
		"-X k8s.io/client-go/pkg/version.gitMajor=1 -X k8s.io/client-go/pkg/version.gitMinor=34"
	if diff := cmp.Diff(want, kubernetesVersion("v1.34.4")); diff != "" {
		t.Error(diff)
	}
}

// The checkout's own pins can be read, whatever is built of them.
func TestPinsOfTheCheckout(t *testing.T) {
	b := Builder{Checkout: "../../..", Cache: t.TempDir()}
	for release, version := range map[string]string{DefaultKubernetes(): "v" + DefaultKubernetes() + ".", "1.37": "v1.37.", "1.34": "v1.34."} {
		if _, err := b.Cached(release); !errors.Is(err, ErrNotBuilt) {
			t.Errorf("Kubernetes %s with an empty cache: %v", release, err)
		}
		plans, err := b.plans(release)
		if err != nil {
			t.Fatal(err)
		}
		if got := plans[len(plans)-1]; got.title != "Kubernetes" || !strings.HasPrefix(got.version, version) {
			t.Errorf("as Kubernetes %s, %s %s would be built", release, got.title, got.version)
		}
	}
	if _, err := b.Cached("1.0"); err == nil || !strings.Contains(err.Error(), "there is no") {
		t.Errorf("with a release that nobody pinned: %v", err)
	}
}

func TestEnvironmentNamesTheRelease(t *testing.T) {
	for value, want := range map[string]string{"": "1.37", "1.34": "1.34"} {
		t.Setenv("K8S", value)
		if got := DefaultKubernetes(); got != want {
			t.Errorf("with K8S=%q it is %s", value, got)
		}
	}
}

func TestDigestTellsPinsApart(t *testing.T) {
	base := digest(map[string]string{"go.mod": "a", "go.sum": "b"}, "-s")
	for name, other := range map[string]string{
		"go.mod":  digest(map[string]string{"go.mod": "x", "go.sum": "b"}, "-s"),
		"go.sum":  digest(map[string]string{"go.mod": "a", "go.sum": "x"}, "-s"),
		"main.go": digest(map[string]string{"go.mod": "a", "go.sum": "b", "main.go": "x"}, "-s"),
		"flags":   digest(map[string]string{"go.mod": "a", "go.sum": "b"}, "-w"),
	} {
		if other == base {
			t.Errorf("another %s is the same build", name)
		}
	}
}

// toy returns the plan of a module that needs nothing but Go.
func toy(t *testing.T, source string) plan {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module toy\n\ngo 1.26.0\n", "go.sum": "", "main.go": source,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return plan{
		module:  module{title: "Toy", target: ".", programs: []string{"toy"}, effort: "a moment"},
		source:  dir,
		version: "v1.2.3",
		flags:   "-s -w -X main.version=v1.2.3",
		result:  filepath.Join(t.TempDir(), "bin", "toy-v1.2.3"),
	}
}

const goodToy = "package main\n\nimport \"fmt\"\n\nvar version string\n\nfunc main() { fmt.Println(version) }\n"

func TestBuildOnce(t *testing.T) {
	p := toy(t, goodToy)
	var mu sync.Mutex
	var said bytes.Buffer
	b := Builder{Progress: &Progress{Out: writerFunc(func(data []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return said.Write(data)
	})}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := b.build(t.Context(), p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	out, err := exec.Command(filepath.Join(p.result, "toy")).Output()
	if err != nil || string(out) != "v1.2.3\n" {
		t.Errorf("what was built says %q, %v", out, err)
	}
	if got := strings.Count(said.String(), "done"); got != 1 {
		t.Errorf("it was built %d times:\n%s", got, said.String())
	}
	if got := strings.Count(said.String(), "another build of it is under way"); got == 0 {
		t.Errorf("nobody waited:\n%s", said.String())
	}
	if got := (Set{t.TempDir(), p.result}).Path("toy"); got != filepath.Join(p.result, "toy") {
		t.Error("the set doesn't find the program")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(data []byte) (int, error) { return f(data) }

func TestBuildThatFailsLeavesNothing(t *testing.T) {
	p := toy(t, "package main\n\nfunc main() { undefined() }\n")
	err := new(Builder).build(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("the error doesn't say what the compiler said: %v", err)
	}
	if p.built() {
		t.Error("it counts as built")
	}
	left, err := filepath.Glob(p.result + "*")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{p.result + ".lock"}, left); diff != "" {
		t.Errorf("files left (-want +got):\n%s", diff)
	}
}

func TestBuildSurvivesAKilledOne(t *testing.T) {
	p := toy(t, goodToy)
	if err := os.MkdirAll(filepath.Join(p.result+".tmp", "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := new(Builder).build(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(p.result, "half")); err == nil {
		t.Error("the result has a killed build's files")
	}
}

func TestExplain(t *testing.T) {
	exit := errors.New("exit status 1")
	for _, tc := range []struct {
		name  string
		lines []string
		want  string
	}{
		{
			name:  "no proxy",
			lines: []string{"go: downloading k8s.io/api v0.37.2", `go: k8s.io/api@v0.37.2: Get "https://proxy.golang.org/": dial tcp: lookup proxy.golang.org: no such host`},
			want:  `the Go module proxy can't be reached (set GOPROXY to one that can): go: k8s.io/api@v0.37.2: Get "https://proxy.golang.org/": dial tcp: lookup proxy.golang.org: no such host`,
		},
		{
			name:  "compiler",
			lines: []string{"k8s.io/api/core/v1", "# k8s.io/x", "x.go:1:2: undefined: y"},
			want:  "run go: exit status 1:\n# k8s.io/x\nx.go:1:2: undefined: y",
		},
		{name: "silence", want: "run go: exit status 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, explain(tc.lines, exit).Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProgressOnATerminalIsOneLine(t *testing.T) {
	var out bytes.Buffer
	p := &Progress{Out: &out, Terminal: true}
	s := p.start("building Toy")
	s.set("packages %d/%d", 1, 2)
	s.end()
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("%d lines: %q", got, out.String())
	}
	if want := fmt.Sprintf("\r\x1b[K%s\n", "building Toy: 0:00, packages 1/2"); !strings.HasSuffix(out.String(), want) {
		t.Errorf("it ends with %q", out.String())
	}
}
