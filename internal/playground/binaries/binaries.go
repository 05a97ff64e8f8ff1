// Package binaries builds the programs that the playground runs and that others publish as Go modules: Kubernetes, etcd,
// containerd and CoreDNS.
//
// Each is a nested module under build/ of the checkout, whose go.mod and go.sum pin what is built. The result is kept outside the
// checkout, one directory for each version of the pins, and appears there complete or not at all; any number of builders may ask
// for it at once and one builds it. Nothing is downloaded but Go modules, and nothing is ever removed.
package binaries

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// DefaultKubernetes returns the release that the playground runs unless told otherwise: the newest that is pinned, or the one that the
// environment variable K8S names, so that make e2e K8S=1.34 runs every test with it.
func DefaultKubernetes() string { return cmp.Or(os.Getenv("K8S"), "1.37") }

// ErrNotBuilt says that something would have to be built first.
var ErrNotBuilt = errors.New("not built yet")

// Builder builds what a checkout pins.
type Builder struct {
	Checkout string    // the directory of the main module
	Cache    string    // where the results are kept; DefaultCache() if empty
	Progress *Progress // told what is going on while something is built; may be nil
}

// Set is the directories that hold the built programs.
type Set []string

// Path returns the file of the named program, or "" if the set doesn't hold it.
func (s Set) Path(name string) string {
	for _, dir := range s {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// module is a nested module and what comes out of it.
type module struct {
	dir      string // below build/
	title    string
	pinned   string // the module path whose version is the version of the result
	target   string // what go build is given
	programs []string
	ldflags  func(version string) string
	effort   string // what to tell somebody who waits for it
}

func modules(kubernetes string) []module {
	return []module{
		{
			dir: "containerd", title: "containerd", pinned: "github.com/containerd/containerd/v2", target: "tool",
			programs: []string{"containerd", "containerd-shim-runc-v2", "ctr"},
			ldflags: func(version string) string {
				return "-X github.com/containerd/containerd/v2/version.Version=" + version
			},
			effort: "about 1 minute",
		},
		{
			dir: "coredns", title: "CoreDNS", pinned: "github.com/coredns/coredns", target: ".",
			programs: []string{"coredns"},
			effort:   "about 1 minute",
		},
		{
			dir: "etcd", title: "etcd", pinned: "go.etcd.io/etcd/server/v3", target: ".",
			programs: []string{"etcd"},
			effort:   "about 30 seconds",
		},
		{
			dir: "kubernetes-" + kubernetes, title: "Kubernetes", pinned: "k8s.io/kubernetes", target: "tool",
			programs: []string{"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"},
			ldflags:  kubernetesVersion,
			effort:   "about 8 minutes",
		},
	}
}

// kubernetesVersion returns the linker flags without which the programs call themselves v0.0.0, which clients act upon.
func kubernetesVersion(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	var flags []string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags, "-X "+pkg+".gitVersion="+version, "-X "+pkg+".gitMajor="+major, "-X "+pkg+".gitMinor="+minor)
	}
	return strings.Join(flags, " ")
}

// Cached returns the programs if all of them are built, ErrNotBuilt otherwise. Kubernetes is given as "1.37".
func (b *Builder) Cached(kubernetes string) (Set, error) {
	plans, err := b.plans(kubernetes)
	if err != nil {
		return nil, err
	}
	var set Set
	for _, p := range plans {
		if !p.built() {
			return nil, fmt.Errorf("%s %s: %w", p.title, p.version, ErrNotBuilt)
		}
		set = append(set, p.result)
	}
	return set, nil
}

// Build returns the programs, built if need be. Kubernetes is given as "1.37".
func (b *Builder) Build(ctx context.Context, kubernetes string) (Set, error) {
	plans, err := b.plans(kubernetes)
	if err != nil {
		return nil, err
	}
	var set Set
	for _, p := range plans {
		if !p.built() {
			if err := b.build(ctx, p); err != nil {
				return nil, fmt.Errorf("build %s %s: %w", p.title, p.version, err)
			}
		}
		set = append(set, p.result)
	}
	return set, nil
}

func (b *Builder) plans(kubernetes string) ([]plan, error) {
	var all []plan
	for _, m := range modules(kubernetes) {
		p, err := b.plan(m)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// plan is one module with everything known that there is to know before building it.
type plan struct {
	module
	source  string // the directory of the nested module
	version string
	flags   string // for the linker
	result  string // the directory that holds the programs once they are built
}

func (p plan) built() bool {
	info, err := os.Stat(p.result)
	return err == nil && info.IsDir()
}

func (b *Builder) plan(m module) (plan, error) {
	cache := b.Cache
	if cache == "" {
		var err error
		if cache, err = DefaultCache(); err != nil {
			return plan{}, err
		}
	}
	p := plan{module: m, source: filepath.Join(b.Checkout, "build", m.dir), flags: "-s -w"}
	pins, err := readPins(p.source)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return plan{}, fmt.Errorf("find the sources of %s: there is no %s", m.title, p.source)
		}
		return plan{}, err
	}
	if p.version = pinnedVersion(pins["go.mod"], m.pinned); p.version == "" {
		return plan{}, fmt.Errorf("read the version of %s: %s requires no %s", m.title, filepath.Join(p.source, "go.mod"), m.pinned)
	}
	if m.ldflags != nil {
		p.flags += " " + m.ldflags(p.version)
	}
	name := fmt.Sprintf("%s-%s-%s-%s-%s", strings.ToLower(m.title), p.version, runtime.GOOS, runtime.GOARCH, digest(pins, p.flags))
	p.result = filepath.Join(cache, "bin", name)
	return p, nil
}

// readPins returns the files of a nested module that decide what is built.
func readPins(dir string) (map[string]string, error) {
	pins := map[string]string{}
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if name == "main.go" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		pins[name] = string(data)
	}
	return pins, nil
}

func pinnedVersion(gomod, module string) string {
	m := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(module) + `\s+(v\S+)`).FindStringSubmatch(gomod)
	if m == nil {
		return ""
	}
	return m[1]
}

// digest tells apart two builds of one version that are pinned or linked differently.
func digest(pins map[string]string, flags string) string {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		fmt.Fprintf(h, "%s %d\n%s\n", name, len(pins[name]), pins[name])
	}
	fmt.Fprintln(h, flags)
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// DefaultCache returns the directory that keeps the results: $XDG_CACHE_HOME/yurt or ~/.cache/yurt.
func DefaultCache() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	return filepath.Join(dir, "yurt"), nil
}
