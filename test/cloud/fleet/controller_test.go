package fleet

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/component"
)

const (
	controller = "yurt-controller-manager"
	kubeconfig = "/etc/kubernetes/" + controller + ".conf"
)

// startController runs the controllers as a process in the cloud, with the rights that deploy/ gives them, and returns when they run.
func (s *site) startController(t *testing.T) *meter {
	t.Helper()
	ctx, c := t.Context(), s.cluster
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
	token, err := s.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, controller, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	conf := component.Kubeconfig{Server: c.APIServerURLs()[0], CA: component.CAFile, Token: token.Status.Token}
	must(t, os.WriteFile(c.Cloud().Path(kubeconfig), conf.YAML(), 0o600))
	cmd, err := c.Cloud().Command(ctx, controller, "--kubeconfig="+kubeconfig, "--leader-elect-namespace="+metav1.NamespaceSystem)
	must(t, err)
	log, err := os.Create(s.controllerLog())
	must(t, err)
	defer log.Close()
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	m := &meter{http: c.Cloud().HTTP()}
	t.Cleanup(m.http.CloseIdleConnections)
	await(t, "the controller runs", time.Minute, func() error {
		_, err := m.read()
		return err
	})
	return m
}

// controllerLog is kept with the other logs if the test fails.
func (s *site) controllerLog() string { return filepath.Join(s.cluster.LogDir(), controller+".log") }
