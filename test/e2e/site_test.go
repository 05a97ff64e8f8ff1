// Package e2e tells the founding scenario on a real cluster: two nodes, one
// behind YurtHub and one bare, with a stock kubelet, kube-proxy and containerd
// each; their links are cut, their power is taken, they boot in the dark, and
// the link returns. The bare node is there so that the tests can fail: what it
// loses shows that there was something to survive.
package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/adminapi"
	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
)

const adminPort = component.YurtHubAdmin

// site is the cluster that the tests of this package share, one after the
// other. Each leaves it healed, with the site's first pods running.
type site struct {
	*cluster.Cluster
	client     kubernetes.Interface
	edge, bare *cluster.Node
}

var shared *site //nolint:gochecknoglobals // a cluster for the package, made by TestMain

func TestMain(m *testing.M) {
	code := clustertest.Suite{Name: "e2e", Up: func(ctx context.Context) (c *cluster.Cluster, err error) {
		if shared, err = up(ctx); err != nil {
			return nil, err
		}
		return shared.Cluster, nil
	}}.Run(m)
	os.Exit(code)
}

func up(ctx context.Context) (*site, error) {
	c, err := cluster.Up(ctx, cluster.Config{
		Owned: true,
		Nodes: []cluster.NodeConfig{
			{Name: "edge", Hub: true, HubArgs: []string{"--log-level=debug"}},
			{Name: "bare"},
		},
		Progress: &binaries.Progress{Out: os.Stderr},
	})
	if err != nil {
		return nil, err
	}
	s := &site{Cluster: c}
	if s.client, err = c.Client(); err == nil {
		s.edge, err = c.Node("edge")
	}
	if err == nil {
		s.bare, err = c.Node("bare")
	}
	if err == nil {
		err = scenario.Open(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(err, c.Down())
	}
	return s, nil
}

// begin returns the site at rest, and leaves it so.
func begin(t *testing.T) *site {
	t.Helper()
	s := shared
	s.settle(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status of the hub: %s", s.describeHub())
		}
	})
	return s
}

// settle heals, boots, and waits until both nodes run the site's pods.
func (s *site) settle(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for _, n := range s.Nodes() {
		must(t, n.Heal(ctx))
		must(t, n.Boot(ctx))
	}
	s.awaitLink(t, "up", 30*time.Second)
	await(t, "the site is at rest", 2*time.Minute, func(ctx context.Context) error {
		for _, n := range s.Nodes() {
			if err := s.atRest(ctx, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// atRest tells whether a node runs the site's first pods and no others, and the
// cloud thinks so too.
func (s *site) atRest(ctx context.Context, n *cluster.Node) error {
	node := n.Config.Name
	list, err := s.client.CoreV1().Pods(scenario.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	running, err := scenario.Running(ctx, n)
	if err != nil {
		return err
	}
	if len(list.Items) != scenario.PodsPerNode || len(running) != scenario.PodsPerNode {
		return fmt.Errorf("%s runs %v, and the cloud knows of %d pods", node, scenario.Names(running), len(list.Items))
	}
	for _, pod := range list.Items {
		_, runs := running[pod.Name]
		ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if !runs || !ready || pod.DeletionTimestamp != nil {
			return fmt.Errorf("%s: running %t, ready %t, to be deleted %t", pod.Name, runs, ready, pod.DeletionTimestamp != nil)
		}
	}
	return nil
}

func (s *site) awaitRunning(t *testing.T, n *cluster.Node, count int, within time.Duration) map[string]scenario.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	pods, err := scenario.AwaitRunning(ctx, n, count)
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

func (s *site) running(t *testing.T, n *cluster.Node) map[string]scenario.Pod {
	t.Helper()
	pods, err := scenario.Running(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return pods
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

// hub returns what the hub says of itself.
func (s *site) hub(ctx context.Context) (*adminapi.Status, error) {
	client := s.edge.HTTP()
	defer client.CloseIdleConnections()
	return adminapi.Get(ctx, client, adminPort)
}

func (s *site) awaitLink(t *testing.T, state string, within time.Duration) {
	t.Helper()
	await(t, "the hub's link is "+state, within, func(ctx context.Context) error {
		status, err := s.hub(ctx)
		if err != nil {
			return err
		}
		if status.Link.State != state {
			return fmt.Errorf("it is %s (%s)", status.Link.State, status.Link.Reason)
		}
		return nil
	})
}

func (s *site) describeHub() string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := s.hub(ctx)
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "link %s since %s %s\n", status.Link.State, status.Link.Since.Format(time.TimeOnly), status.Link.Reason)
	for _, c := range status.Collections {
		fmt.Fprintf(&b, "%s %s %s: %s since %s, %d objects at %d, %d watchers\n", c.Identity, c.Representation, c.Path, c.Phase, c.Since.Format(time.TimeOnly), c.Objects, c.Revision, c.Watchers)
	}
	return b.String()
}

// cutBoth cuts both nodes off, and returns when the hub knows it.
func (s *site) cutBoth(t *testing.T) {
	t.Helper()
	for _, n := range s.Nodes() {
		must(t, n.Cut(t.Context()))
	}
	s.awaitLink(t, "down", 20*time.Second)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nodeClient is a client on the edge node that knows the hub as the node's own
// components do. It brings no certificate, so it needs a token.
func (s *site) nodeClient(t *testing.T) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(s.edge.Path(component.YurtHubCA))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{DialContext: s.edge.Dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
