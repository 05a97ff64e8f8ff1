package scale

import (
	"bytes"
	"context"
	"fmt"
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
	"yurt/internal/playground/component"
)

const (
	controller = "yurt-controller-manager"
	kubeconfig = "/etc/kubernetes/" + controller + ".conf"
	metricsURL = "http://127.0.0.1:10271/metrics"

	window = 5 * time.Second // over which a rate is taken
)

// startController runs the controller as a process in the cloud, with the rights that deploy/ gives it.
func startController(t *testing.T, c *cluster.Cluster, client kubernetes.Interface) *meter {
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
	cmd, err := c.Cloud().Command(ctx, controller, "--kubeconfig="+kubeconfig, "--leader-elect-namespace="+metav1.NamespaceSystem)
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
	m := &meter{http: c.Cloud().HTTP()}
	t.Cleanup(m.http.CloseIdleConnections)
	await(t, "the controller runs", time.Minute, func() error {
		_, err := m.read()
		return err
	})
	return m
}

// usage is what the controller has taken in a phase.
type usage struct {
	phase    string
	requests float64 // to the API server
	peak     float64 // of them in a second, as the mean of a window
	resident float64 // MB, at most
	cpu      float64 // seconds
}

// A meter tells what the controller takes, phase by phase. Its readings are the process's own.
type meter struct {
	http   *http.Client
	phases []usage
}

type reading struct {
	at                      time.Time
	requests, resident, cpu float64
}

// during runs a phase, and takes note of what the controller uses meanwhile.
func (m *meter) during(t *testing.T, phase string, run func()) {
	t.Helper()
	if m == nil {
		run()
		return
	}
	ctx, stop := context.WithCancel(t.Context())
	used, ended := usage{phase: phase}, make(chan error, 1)
	go func() { ended <- m.follow(ctx, &used) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("measure the controller: %v", err)
		}
		m.phases = append(m.phases, used)
	}()
	run()
}

// follow adds to a usage what happens until ctx ends.
func (m *meter) follow(ctx context.Context, used *usage) error {
	first, err := m.read()
	for last := first; err == nil && ctx.Err() == nil; {
		pause(ctx, window)
		var now reading
		if now, err = m.read(); err != nil {
			break
		}
		if length := now.at.Sub(last.at); length > window/2 {
			used.peak = max(used.peak, (now.requests-last.requests)/length.Seconds())
		}
		used.resident = max(used.resident, now.resident)
		used.requests, used.cpu = now.requests-first.requests, now.cpu-first.cpu
		last = now
	}
	return err
}

func (m *meter) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s%10s%14s%14s%10s\n", "the controller", "requests", "a second, max", "resident, MB", "CPU, s")
	for _, p := range m.phases {
		fmt.Fprintf(&b, "%-24s%10.0f%14.0f%14.0f%10.0f\n", p.phase, p.requests, p.peak, p.resident, p.cpu)
	}
	return b.String()
}

func (m *meter) read() (reading, error) {
	resp, err := m.http.Get(metricsURL)
	if err != nil {
		return reading{}, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return reading{}, err
	}
	total := func(name string) (sum float64) {
		for _, metric := range families[name].GetMetric() {
			sum += value(metric)
		}
		return sum
	}
	return reading{
		at: time.Now(), requests: total("rest_client_requests_total"),
		resident: total("process_resident_memory_bytes") / 1e6, cpu: total("process_cpu_seconds_total"),
	}, nil
}

func value(m *dto.Metric) float64 {
	if m.GetCounter() != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}
