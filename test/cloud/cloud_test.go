// Package cloud tells what the cloud's controllers do for nodes in the dark, on a real cluster: stock kubelets whose links are cut, and
// the stock control plane, which evicts and withdraws the pods of an ordinary node.
//
// That it does is part of every test here: it spares nodes by itself when it believes that the fault is its own (all nodes dark, or
// most of a zone). So every node is a zone of its own, one stays reachable, and a test fails unless the ordinary node loses its pods.
//
// The controllers run as users would run them: from deploy/, as pods, as nobody, with the rights that are given there.
package cloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/image"
	"yurt/internal/playground/scenario"
)

const (
	namespace  = "shop"
	controller = "yurt-controller-manager" // its Deployment, account and lease
	system     = metav1.NamespaceSystem
	testImage  = "localhost/yurt/yurt-controller-manager:test"
)

// The nodes.
const (
	live     = "live"     // always reachable; runs the controllers, and what is evicted elsewhere
	ordinary = "ordinary" // nobody asks for anything: what it loses shows that there was something to lose
	bare     = "bare"     // autonomous, as it is
	hub      = "hub"      // autonomous, behind YurtHub
	brief    = "brief"    // autonomous for a time that ends during the outage

	briefly = 45 * time.Second
)

func edges() []string { return []string{ordinary, bare, hub, brief} }

// site is the cluster that the tests of this package share, one after the other. Each leaves it healed.
type site struct {
	*cluster.Cluster
	client kubernetes.Interface
	mark   cluster.AuditMark // before the controllers were installed
}

var shared *site //nolint:gochecknoglobals // a cluster for the package, made by TestMain

func TestMain(m *testing.M) {
	if v := binaries.DefaultKubernetes(); version.MustParseGeneric(v).LessThan(version.MajorMinor(1, 36)) {
		fmt.Printf("left out with Kubernetes %s: nothing can keep pods in their Services before 1.36; what is kept all the same tests ./fleet\n", v)
		os.Exit(0)
	}
	code := clustertest.Suite{Name: "cloud", AddLogs: func(dir string) error { return shared.addLogs(dir) }, Up: func(ctx context.Context) (c *cluster.Cluster, err error) {
		if shared, err = up(ctx); err != nil {
			return nil, err
		}
		return shared.Cluster, nil
	}}.Run(m)
	os.Exit(code)
}

func up(ctx context.Context) (*site, error) {
	edge := map[string]string{"openyurt.io/is-edge-worker": "true"}
	c, err := cluster.Up(ctx, cluster.Config{
		Owned: true,
		Nodes: []cluster.NodeConfig{
			{Name: live},
			{Name: ordinary, Labels: edge},
			{Name: bare, Labels: edge},
			{Name: hub, Labels: edge, Hub: true},
			{Name: brief, Labels: edge},
		},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	s := &site{Cluster: c}
	if err := s.open(ctx); err != nil {
		dir, kept := c.KeepLogs()
		fmt.Fprintln(os.Stderr, "cloud: logs are kept in", dir, errors.Join(kept, s.addLogs(dir)))
		return nil, errors.Join(err, c.Down())
	}
	return s, nil
}

// open installs the controllers, then what they are to keep.
func (s *site) open(ctx context.Context) error {
	var err error
	if s.client, err = s.Client(); err != nil {
		return err
	}
	if s.mark, err = s.AuditNow(); err != nil {
		return err
	}
	for node, annotation := range map[string]string{
		bare:  `"node.openyurt.io/autonomy-duration":"0"`,
		hub:   `"node.beta.openyurt.io/autonomy":"true"`,
		brief: fmt.Sprintf(`"node.openyurt.io/autonomy-duration":%q`, briefly),
	} {
		if err := s.patchNode(ctx, node, `{"metadata":{"annotations":{`+annotation+`}}}`); err != nil {
			return err
		}
	}
	if err := s.install(ctx); err != nil {
		return fmt.Errorf("install the controllers: %w", err)
	}
	return s.deploy(ctx)
}

// install builds the controllers' image and applies the manifests.
func (s *site) install(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "yurt-cloud-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, tar := filepath.Join(dir, controller), filepath.Join(dir, "image.tar")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/"+controller)
	build.Dir = s.Config.Checkout
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	f, err := os.Create(tar)
	if err != nil {
		return err
	}
	err = errors.Join(image.Write(f, image.Config{Name: testImage, Program: program, Path: "/" + controller, Version: "test"}), f.Close())
	if err != nil {
		return err
	}
	node, err := s.Node(live)
	if err != nil {
		return err
	}
	if err := node.LoadImages(ctx, tar); err != nil {
		return err
	}
	manifests, err := s.kubectl(ctx, nil, "kustomize", filepath.Join(s.Config.Checkout, "deploy", controller))
	if err != nil {
		return err
	}
	mine := strings.Replace(manifests, "image: "+controller+":latest", "image: "+testImage, 1)
	if mine == manifests {
		return errors.New("the manifests name no image to replace")
	}
	if _, err := s.kubectl(ctx, strings.NewReader(mine), "apply", "-f", "-"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return scenario.Await(ctx, "both replicas are ready", func(ctx context.Context) error { return s.deployed(ctx, system, controller, 2) })
}

// kubectl runs kubectl as the administrator and returns what it prints.
func (s *site) kubectl(ctx context.Context, in *strings.Reader, args ...string) (string, error) {
	cmd, err := s.Kubectl(ctx, args...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if in != nil {
		cmd.Stdin = in
	}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// addLogs adds what the controllers say, and what the cloud has come to.
func (s *site) addLogs(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for name, args := range map[string][]string{
		"controllers.log": {"logs", "-n", system, "-l", "app.kubernetes.io/name=" + controller, "--tail=-1", "--prefix"},
		"pods.yaml":       {"get", "pods", "-A", "-o", "yaml"},
		"nodes.yaml":      {"get", "nodes", "-o", "yaml"},
		"events.txt":      {"get", "events", "-A"},
	} {
		out, err := s.kubectl(ctx, nil, args...)
		if err != nil {
			out = err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// begin returns the site at rest.
func begin(t *testing.T) *site {
	t.Helper()
	s := shared
	s.heal(t)
	return s
}

// cut cuts all edges off, and returns when the cloud knows it, with the time at which it did.
func (s *site) cut(t *testing.T) map[string]time.Time {
	t.Helper()
	for _, name := range edges() {
		must(t, s.node(t, name).Cut(t.Context()))
	}
	t.Cleanup(func() {
		for _, name := range edges() {
			must(t, s.node(t, name).Heal(context.WithoutCancel(t.Context())))
		}
	})
	since := map[string]time.Time{}
	await(t, "all edges are dark", time.Minute, func(ctx context.Context) error {
		for _, name := range edges() {
			ready, err := s.nodeReady(ctx, name)
			if err != nil {
				return err
			}
			if ready.Status != corev1.ConditionUnknown {
				return fmt.Errorf("%s is %s", name, ready.Status)
			}
			since[name] = ready.LastTransitionTime.Time
		}
		return nil
	})
	return since
}

// heal heals all edges and waits until everything is as it should be.
func (s *site) heal(t *testing.T) {
	t.Helper()
	for _, name := range edges() {
		must(t, s.node(t, name).Heal(t.Context()))
	}
	await(t, "the site is at rest", 90*time.Second, s.atRest)
}

func (s *site) node(t *testing.T, name string) *cluster.Node {
	t.Helper()
	n, err := s.Node(name)
	must(t, err)
	return n
}

// await polls done until it returns nil.
func await(t *testing.T, what string, within time.Duration, done func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := scenario.Await(ctx, what, done); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
