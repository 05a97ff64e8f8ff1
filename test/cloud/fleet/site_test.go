// Package fleet runs the cloud's controllers beside hollow nodes: objects and heartbeats only, next to a real API server and the stock
// controllers. So there can be thousands of nodes, and an older Kubernetes costs no more than its API server.
//
// Half of the nodes are autonomous. When 99 of 100 go dark in the same second, what happens to the other half shows that there was
// something to lose.
package fleet

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
)

// site is a fleet and the cloud that it belongs to.
type site struct {
	*fleet
	*view
	cluster *cluster.Cluster
	meter   *meter // nil: there are no controllers
}

// open boots a cloud, for a fleet that there is not yet.
//
// It has stock controllers with what the size of the fleet asks for, and without those of which only the load would be seen: addresses
// for nodes, and the older form of endpoints, one object of all addresses, written anew for each.
func open(t *testing.T, of size) *site {
	t.Helper()
	c := clustertest.Up(t, cluster.Config{
		MonitorPeriod: of.grace / 32, MonitorGrace: of.grace, TolerationSeconds: 20,
		APIServerArgs: []string{"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--audit-log-path="},
		ControllerManagerArgs: []string{
			"--node-eviction-rate=1000", "--kube-api-qps=2000", "--kube-api-burst=3000",
			"--controllers=*,-node-ipam-controller,-endpoints-controller",
		},
		Log: slog.New(slog.DiscardHandler),
	})
	cfg := c.RESTConfig()
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	f := newFleet(client, of)
	ctx, stop := context.WithCancel(t.Context())
	v, err := watch(ctx, f)
	must(t, err)
	beats := f.heartbeats(ctx)
	t.Cleanup(func() {
		stop()
		v.close()
		if err := beats.Wait(); err != nil {
			t.Error(err)
		}
	})
	return &site{fleet: f, view: v, cluster: c}
}

func await(t *testing.T, what string, within time.Duration, done func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(2 * time.Second) {
		err := done()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait until %s: %v", what, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
