package component_test

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"yurt/internal/playground/component"
)

// TestComponents holds command lines and configuration files against testdata: one file for each program.
func TestComponents(t *testing.T) {
	kubelet := component.Kubelet{
		Node: "edge", Address: "10.99.1.1", Labels: map[string]string{"b": "2", "a": "1"}, CgroupRoot: "/yurt.demo.edge",
		Extra:     map[string]any{"syncFrequency": "10s", "failSwapOn": true},
		ExtraArgs: []string{"--v=4"},
	}
	proxy := component.KubeProxy{Node: "edge"}
	containerd := component.Containerd{Snapshotter: "overlayfs", SandboxImage: "localhost/pause:1"}
	outputs := map[string]string{
		"etcd argv": lines(component.Etcd{ExtraArgs: []string{"--quota-backend-bytes=1000"}}.Argv()),
		"kube-apiserver argv": lines(component.KubeAPIServer{
			Address: "10.99.0.1", AuditLog: component.AuditLog, TolerationSeconds: 20, ExtraArgs: []string{"--v=3"},
		}.Argv()),
		"kube-apiserver audit-policy": string(component.AuditPolicy()),
		"kube-controller-manager argv": lines(component.KubeControllerManager{
			MonitorPeriod: 2 * time.Second, MonitorGrace: 20 * time.Second,
		}.Argv()),
		"kube-scheduler argv": lines(component.KubeScheduler{}.Argv()),
		"kubelet argv":        lines(kubelet.Argv()),
		"kubelet config":      string(kubelet.Config()),
		"kube-proxy argv":     lines(proxy.Argv()),
		"kube-proxy config":   string(proxy.Config()),
		"containerd argv":     lines(containerd.Argv()),
		"containerd config":   string(containerd.Config()),
		"coredns argv":        lines(component.CoreDNS{}.Argv()),
		"coredns config":      string(component.CoreDNS{}.Config()),
		"cni config":          string(component.CNI{Subnet: "10.244.1.0/24"}.Config()),
		"yurthub argv":        lines(component.YurtHub{Node: "edge", ExtraArgs: []string{"--log-level=debug"}}.Argv()),
		"kubeconfig certificate": string(component.Kubeconfig{
			Server: component.APIServerURL("10.99.0.1"), CA: component.CAFile, Cert: "/me.crt", Key: "/me.key",
		}.YAML()),
		"kubeconfig token":     string(component.Kubeconfig{Server: component.YurtHubURL, Token: "abc"}.YAML()),
		"kubeconfig tokenfile": string(component.Kubeconfig{Server: component.YurtHubURL, TokenFile: "/token"}.YAML()),
	}
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			key := d.Cmd + " " + d.CmdArgs[0].String()
			out, ok := outputs[key]
			if !ok {
				t.Fatalf("nothing is called %s", key)
			}
			delete(outputs, key)
			return out
		})
	})
	for key := range outputs {
		t.Errorf("no file in testdata has %s", key)
	}
}

func lines(argv []string) string { return strings.Join(argv, "\n") + "\n" }
