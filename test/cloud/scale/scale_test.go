// Package scale measures the cloud's controllers on a fleet: nodes and pods that are objects and heartbeats only, next to a real API
// server and the stock controllers. Half of the nodes are autonomous; 99 of 100 go dark in the same second. What happens to the other
// half shows that there was something to lose.
//
// It takes minutes and the whole machine, so it runs only when it is asked for:
//
//	go test -v -timeout 60m ./test/cloud/scale -nodes 5000
package scale

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/component"
)

const (
	controller = "yurt-controller-manager"
	kubeconfig = "/etc/kubernetes/" + controller + ".conf"
	metricsURL = "http://127.0.0.1:10271/metrics"

	renewal = 40 * time.Second
	grace   = 160 * time.Second
	seconds = 20 // that pods tolerate an outage by themselves

	stream = 200 // pods that are bound at the end, one by one, to see how long each is unprotected
)

// TestFleet is the whole measurement.
func TestFleet(t *testing.T) {
	if *nodes == 0 {
		t.Skip("takes minutes: ask for it with -nodes 5000")
	}
	ctx := t.Context()
	c := clustertest.Up(t, cluster.Config{
		Kubernetes: "", MonitorPeriod: 5 * time.Second, MonitorGrace: grace, TolerationSeconds: seconds,
		APIServerArgs: []string{"--max-requests-inflight=2000", "--max-mutating-requests-inflight=1000", "--audit-log-path="},
		ControllerManagerArgs: []string{
			"--node-eviction-rate=1000", "--kube-api-qps=2000", "--kube-api-burst=3000", "--controllers=*,-node-ipam-controller",
		},
		Log: slog.New(slog.DiscardHandler),
	})
	cfg := c.RESTConfig()
	client, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	f := newFleet(client, *nodes, *podsPerNode)
	m := startController(t, c, client)

	begun := time.Now()
	beating, stop := context.WithCancel(ctx)
	defer stop()
	beats := f.heartbeats(beating)
	must(t, f.create(ctx))
	t.Logf("%d nodes and %d pods made in %v", *nodes, *nodes**podsPerNode, time.Since(begun).Round(time.Second))
	w := f.watch(beating)
	await(t, "all pods are protected and served", 15*time.Minute, func() error { return f.complete(ctx) })
	t.Logf("all protected and served after %v", time.Since(begun).Round(time.Second))
	settled := m.read(t)

	must(t, f.bind(ctx, stream))
	await(t, "the last pods are protected", time.Minute, func() error { return w.protected(stream) })
	delays := w.delays()
	t.Logf("protection of a new pod, %d of them: p50 %v, p99 %v, slowest %v", len(delays),
		percentile(delays, 50), percentile(delays, 99), percentile(delays, 100))

	before := m.read(t)
	cut := time.Now()
	f.darken()
	await(t, "the ordinary half is evicted", 15*time.Minute, func() error { return f.evicted(ctx) })
	time.Sleep(30 * time.Second) // for what should not happen to happen
	dark := m.read(t)
	result, err := f.count(ctx)
	must(t, err)
	t.Logf("%v after the cut:\n%s", time.Since(cut).Round(time.Second), result)
	darkFor := time.Since(cut)

	f.lighten()
	await(t, "all nodes are ready", 10*time.Minute, func() error { return f.ready(ctx) })
	time.Sleep(20 * time.Second)
	healed := m.read(t)
	t.Logf("the controller: %.0f requests until all were protected, %.0f in the %v of darkness, %.0f at the heal; resident %.0f, %.0f, %.0f MB",
		settled.requests, dark.requests-before.requests, darkFor.Round(time.Second), healed.requests-dark.requests,
		settled.resident, dark.resident, healed.resident)

	autonomous := result.autonomous
	if autonomous.evicted+autonomous.unready+autonomous.unserved > 0 {
		t.Errorf("the autonomous half has lost something: %+v", autonomous)
	}
	if p99 := percentile(delays, 99); p99 > time.Second {
		t.Errorf("protection of a new pod takes %v (p99), want 1 s at most", p99)
	}
	if most := max(settled.resident, dark.resident, healed.resident); most > 250 {
		t.Errorf("the controller takes %.0f MB, want 250 MB at most", most)
	}
	stop()
	if err := beats.Wait(); err != nil {
		t.Error(err)
	}
}

// meter reads what the controller says of itself.
type meter struct{ http *http.Client }

type reading struct{ requests, resident float64 }

// startController runs the controller as a process in the cloud, with the rights that deploy/ gives it.
func startController(t *testing.T, c *cluster.Cluster, client kubernetes.Interface) meter {
	t.Helper()
	ctx := t.Context()
	program := filepath.Join(filepath.Dir(c.Program("pid1")), controller)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./cmd/"+controller)
	build.Dir = c.Config.Checkout
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	for _, file := range []string{"serviceaccount.yaml", "rbac.yaml"} {
		cmd, err := c.Kubectl(ctx, "apply", "-f", filepath.Join(c.Config.Checkout, "deploy", controller, file))
		must(t, err)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("apply %s: %v: %s", file, err, out)
		}
	}
	token, err := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, controller, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	conf := component.Kubeconfig{Server: c.APIServerURLs()[0], CA: component.CAFile, Token: token.Status.Token}
	must(t, os.WriteFile(c.Cloud().Path(kubeconfig), conf.YAML(), 0o600))
	cmd, err := c.Cloud().Command(ctx, controller, "--kubeconfig="+kubeconfig)
	must(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			lines := strings.Split(stderr.String(), "\n")
			t.Logf("the controller's last words:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	m := meter{c.Cloud().HTTP()}
	t.Cleanup(m.http.CloseIdleConnections)
	return m
}

func (m meter) read(t *testing.T) reading {
	t.Helper()
	resp, err := m.http.Get(metricsURL)
	must(t, err)
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	must(t, err)
	total := func(name string) (sum float64) {
		for _, metric := range families[name].GetMetric() {
			sum += value(metric)
		}
		return sum
	}
	return reading{requests: total("rest_client_requests_total"), resident: total("process_resident_memory_bytes") / 1e6}
}

func value(m *dto.Metric) float64 {
	if m.GetCounter() != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, len(sorted)*p/100)].Round(time.Millisecond)
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

var (
	nodes       = flag.Int("nodes", 0, "nodes of the fleet; none: left out")
	podsPerNode = flag.Int("pods-per-node", 5, "pods on each")
)
