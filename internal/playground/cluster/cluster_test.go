package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/machine"
)

const workload = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {password: s3cret}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute}
      containers:
      - name: web
        image: ` + cluster.WorkloadImage + `
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: secret, key: password}}}]
        readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
        volumeMounts: [{name: settings, mountPath: /settings}, {name: secret, mountPath: /secret}]
      volumes:
      - {name: settings, configMap: {name: settings}}
      - {name: secret, secret: {secretName: secret}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// world is the cluster under test.
type world struct {
	*cluster.Cluster
	a, b *cluster.Node
	pods map[string]string // by node
}

// TestCluster tells the life of a cluster with two nodes. Each part goes on where the one before it ended.
func TestCluster(t *testing.T) {
	begun := time.Now()
	w := &world{Cluster: clustertest.Up(t, cluster.Config{Nodes: []cluster.NodeConfig{{Name: "a"}, {Name: "b"}}})}
	// It takes 4 s on two idle processors.
	if took := time.Since(begun); took > 45*time.Second {
		t.Errorf("the cluster was up after %v", took)
	}
	var err error
	if w.a, err = w.Node("a"); err != nil {
		t.Fatal(err)
	}
	if w.b, err = w.Node("b"); err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"pods have what they ask for", testPods},
		{"services lead to both nodes", testService},
		{"requests are in the audit log", testAudit},
		{"a killed kubelet comes back and kills nobody", testKilledKubelet},
		{"a frozen API server goes on", testFrozenAPIServer},
		{"a cut is noticed at once and stays until healed", testCut},
		{"a black hole is silent", testBlackhole},
		{"a slow link is slow", testSlow},
		{"a flapping link ends good", testFlap},
		{"another cluster beside it changes nothing", testNeighbour},
		{"a power cut ends everything and a bare node stays empty offline", testPowerCut},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, w) }) {
			return
		}
	}
	if err := w.Down(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, w.Config.Name)
}

func (w *world) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return w.kubectlWith(t, "", args...)
}

func (w *world) kubectlWith(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd, err := w.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// reach connects from a node to the API server.
func reach(t *testing.T, n *cluster.Node, timeout time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", "10.99.0.1:6443")
	if err != nil {
		return err
	}
	return conn.Close()
}

// silent says whether an error is that nothing came back for too long.
func silent(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// running returns the IDs of the running containers of a node.
func running(t *testing.T, n *cluster.Node) []string {
	t.Helper()
	all, err := n.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range all {
		if c.Running {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

func testPods(t *testing.T, w *world) {
	w.kubectlWith(t, workload, "apply", "-f", "-")
	w.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
	w.pods = map[string]string{}
	for line := range strings.Lines(w.kubectl(t, "get", "pods", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{"\n"}{end}`)) {
		node, pod, _ := strings.Cut(strings.TrimSpace(line), " ")
		w.pods[node] = pod
	}
	if len(w.pods) != 2 {
		t.Fatalf("pods by node: %v", w.pods)
	}
	for node, pod := range w.pods {
		for _, tc := range []struct{ want, command string }{
			{"hello", "cat /settings/greeting"},
			{"s3cret", "cat /secret/password"},
			{"PASSWORD=s3cret\n", "env"},
			{"ey", "cat /var/run/secrets/kubernetes.io/serviceaccount/token"},
		} {
			got := w.kubectl(t, append([]string{"exec", pod, "--", cluster.WorkloadPath}, strings.Fields(tc.command)...)...)
			if !strings.Contains(got, tc.want) {
				t.Errorf("on %s %s gives %q, which has no %q", node, tc.command, got, tc.want)
			}
		}
		if got := w.kubectl(t, "logs", pod); got != "serving on :8080\n" {
			t.Errorf("the log of %s is %q", pod, got)
		}
	}
	all, err := w.a.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Pod != w.pods["a"] || all[0].Namespace != "default" || !all[0].Running || all[0].PodIP == "" {
		t.Errorf("containers on a: %+v", all)
	}
}

func testService(t *testing.T, w *world) {
	ip := w.kubectl(t, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	answered := map[string]bool{}
	for range 60 {
		host, _, _ := strings.Cut(w.kubectl(t, "exec", w.pods["a"], "--", cluster.WorkloadPath, "get", "http://"+ip), " ")
		answered[host] = true
		if len(answered) == 2 {
			return
		}
	}
	t.Errorf("only %v answered", answered)
}

func testAudit(t *testing.T, w *world) {
	mark, err := w.AuditNow()
	if err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "get", "configmap", "settings")
	all, err := w.AuditSince(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(all, func(r cluster.Request) bool {
		return r.User.Username == "system:node:a" && r.Verb == "watch" && r.ObjectRef.Resource == "pods"
	}) {
		t.Errorf("among %d requests there is no kubelet's watch of pods", len(all))
	}
	recent, err := w.AuditSince(mark)
	if err != nil {
		t.Fatal(err)
	}
	if len(recent) >= len(all) || !slices.ContainsFunc(recent, func(r cluster.Request) bool {
		return r.Verb == "get" && r.ObjectRef.Name == "settings" && r.ResponseStatus.Code == http.StatusOK
	}) {
		t.Errorf("since the mark there are %d of %d requests, without the one made since", len(recent), len(all))
	}
}

func testKilledKubelet(t *testing.T, w *world) {
	before := running(t, w.a)
	if err := w.a.Kill(t.Context(), cluster.Kubelet, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 30*time.Second, "the kubelet's health", func() error {
		s, err := w.a.Service(t.Context(), cluster.Kubelet)
		if err != nil {
			return err
		}
		if s.Restarts != 1 {
			return fmt.Errorf("%d restarts", s.Restarts)
		}
		_, err = w.a.Exec(t.Context(), "nft", "list", "table", "ip", "kube-proxy")
		return err
	})
	if err := w.a.RestartService(t.Context(), cluster.Containerd); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 30*time.Second, "the container runtime", func() error {
		_, err := w.a.Containers(t.Context())
		return err
	})
	if diff := cmp.Diff(before, running(t, w.a)); diff != "" {
		t.Errorf("running containers (-before +after):\n%s", diff)
	}
}

func testFrozenAPIServer(t *testing.T, w *world) {
	client, err := w.Client()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Cloud().Kill(t.Context(), cluster.APIServer(0), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	version := func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := client.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
		return err
	}
	waitFor(t, 10*time.Second, "silence", func() error { // the last of its threads takes a moment to stop
		if version(time.Second) == nil {
			return errors.New("it answers")
		}
		return nil
	})
	if err := w.Cloud().Kill(t.Context(), cluster.APIServer(0), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := version(30 * time.Second); err != nil {
		t.Errorf("after it goes on: %v", err)
	}
}

func testCut(t *testing.T, w *world) {
	if err := w.a.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	err := reach(t, w.a, 10*time.Second)
	if err == nil || silent(err) {
		t.Errorf("the cut node reaches the API server: %v after %v", err, time.Since(begun))
	}
	if err := reach(t, w.b, 30*time.Second); err != nil {
		t.Errorf("the other node: %v", err)
	}
	if c, err := w.a.Link(); err != nil || c.String() != "cut" {
		t.Errorf("the link is %v, %v", c, err)
	}
	if err := w.a.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, w.a, 30*time.Second); err != nil {
		t.Errorf("after the heal: %v", err)
	}
}

func testBlackhole(t *testing.T, w *world) {
	if err := w.a.Blackhole(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, w.a, 4*time.Second); !silent(err) {
		t.Errorf("through a black hole: %v, not silence", err)
	}
	if err := w.a.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, w.a, 30*time.Second); err != nil {
		t.Errorf("after the heal: %v", err)
	}
}

func testSlow(t *testing.T, w *world) {
	if err := w.a.Slow(t.Context(), 800); err != nil {
		t.Fatal(err)
	}
	ip := w.kubectl(t, "get", "pod", w.pods["b"], "-o", "jsonpath={.status.podIP}")
	client := w.a.HTTP()
	defer client.CloseIdleConnections()
	fetch := func() int64 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip+":8080/file"+cluster.WorkloadPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		n, _ := io.Copy(io.Discard, resp.Body) // ends with ctx
		return n
	}
	slow := fetch()
	if err := w.a.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if fast := fetch(); slow > 400_000 || fast < 4*slow {
		t.Errorf("in 2 s %d bytes through a link of 100 kB/s, %d through a good one", slow, fast)
	}
}

func testFlap(t *testing.T, w *world) {
	mark := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	flapped := make(chan error)
	go func() { flapped <- w.a.Flap(ctx, 50*time.Millisecond) }()
	seen := map[string]bool{}
	for len(seen) < 2 && ctx.Err() == nil {
		carrier, err := w.a.Exec(t.Context(), "cat", "/sys/class/net/eth0/carrier")
		if err != nil {
			t.Error(err)
			break
		}
		seen[strings.TrimSpace(string(carrier))] = true
	}
	cancel()
	if err := <-flapped; err != nil {
		t.Error(err)
	}
	if !seen["0"] || !seen["1"] {
		t.Errorf("in %v the carrier was only ever %v", time.Since(mark), seen)
	}
	if err := reach(t, w.a, 30*time.Second); err != nil {
		t.Errorf("after it ended: %v", err)
	}
}

// testNeighbour brings up and down a cluster whose nodes have the same names and addresses.
func testNeighbour(t *testing.T, w *world) {
	before := running(t, w.a)
	neighbour := clustertest.Up(t, cluster.Config{Nodes: []cluster.NodeConfig{{Name: "a"}}})
	if got := w.kubectl(t, "get", "nodes", "--output=name"); got != "node/a\nnode/b\n" {
		t.Errorf("nodes beside another cluster: %q", got)
	}
	n, err := neighbour.Node("a")
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := reach(t, w.a, 30*time.Second); err != nil {
		t.Errorf("after the neighbour's link was cut: %v", err)
	}
	if err := neighbour.Down(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, running(t, w.a)); diff != "" {
		t.Errorf("running containers (-before +after):\n%s", diff)
	}
}

func testPowerCut(t *testing.T, w *world) {
	before := running(t, w.a)
	boot := bootID(t, w)
	if err := w.a.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.a.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.a.Containers(t.Context()); !errors.Is(err, machine.ErrOff) {
		t.Errorf("containers without power: %v", err)
	}
	begun := time.Now()
	if err := w.a.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("boot took %v", took)
	}
	if err := reach(t, w.a, 10*time.Second); err == nil {
		t.Error("the boot healed the link")
	}
	time.Sleep(5 * time.Second)
	if got := running(t, w.a); len(got) != 0 {
		t.Errorf("without a cloud a bare node runs %v", got)
	}
	if err := w.a.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 90*time.Second, "the pod's return", func() error {
		if got := running(t, w.a); len(got) != len(before) || slices.Equal(got, before) {
			return fmt.Errorf("running containers were %v, are %v", before, got)
		}
		return nil
	})
	waitFor(t, 30*time.Second, "a new boot id in the API", func() error {
		if bootID(t, w) == boot {
			return fmt.Errorf("the boot id is still %s", boot)
		}
		return nil
	})
}

func bootID(t *testing.T, w *world) string {
	t.Helper()
	return w.kubectl(t, "get", "node", "a", "-o", "jsonpath={.status.nodeInfo.bootID}")
}

func waitFor(t *testing.T, patience time.Duration, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: not within %v: %v", what, patience, err)
		}
	}
}
