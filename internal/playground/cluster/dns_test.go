package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
)

const dnsClient = `
apiVersion: v1
kind: Pod
metadata: {name: client-%[1]s}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: client
    image: ` + cluster.WorkloadImage + `
    args: [probe, "http://web.default.svc.cluster.local/", 100ms, /log/probe]
    volumeMounts: [{name: log, mountPath: /log}]
  volumes:
  - {name: log, hostPath: {path: /var/log/probe, type: DirectoryOrCreate}}
`

// TestDNS resolves and reaches a Service by its name from a pod on each node: one whose CoreDNS reads through the hub, and a bare one.
func TestDNS(t *testing.T) {
	c := clustertest.Up(t, cluster.Config{DNS: true, Nodes: []cluster.NodeConfig{{Name: "edge", Hub: true}, {Name: "bare"}}})
	w := &world{Cluster: c}
	manifests := workload
	for _, n := range c.Nodes() {
		manifests += "---" + fmt.Sprintf(dnsClient, n.Config.Name)
	}
	client, err := c.Client()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, time.Minute, "bare pods to be let in", func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	w.kubectlWith(t, manifests, "apply", "-f", "-")
	answered := regexp.MustCompile(`(?m) ok 10\.96\.\d+\.\d+ "web-\S+ 1\\n"$`)
	for _, n := range c.Nodes() {
		waitFor(t, 2*time.Minute, "a pod of node "+n.Config.Name+" reaches the Service by its name", func() error {
			log, err := os.ReadFile(n.Path("/var/log/probe/probe"))
			if err != nil {
				return err
			}
			if !answered.Match(log) {
				return errors.New(string(log[max(0, len(log)-500):]))
			}
			return nil
		})
	}
}
