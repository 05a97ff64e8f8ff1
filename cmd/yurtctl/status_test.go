package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"yurt/internal/admin"
	"yurt/internal/adminapi"
)

// run runs the program.
func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var b bytes.Buffer
	cmd := command("yurtctl")
	cmd.SetArgs(args)
	cmd.SetOut(&b)
	cmd.SetErr(&b)
	err = cmd.ExecuteContext(t.Context())
	return b.String(), err
}

// hub serves the admin port of a hub, and returns its address.
func hub(t *testing.T) string {
	t.Helper()
	status := func() adminapi.Status {
		return adminapi.Status{Version: "v1", Node: "edge", Link: adminapi.Link{State: "down", Since: time.Now().Add(-time.Hour), Reason: "no route to host"}}
	}
	server := httptest.NewServer(admin.Handler(status, func() error { return nil }, prometheus.NewRegistry()))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// TestStatusOfTheHub: on a node the hub is asked, and no API server.
func TestStatusOfTheHub(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	address := hub(t)
	out, err := run(t, "status", "--admin", address)
	if err != nil || !strings.Contains(out, "yurthub v1 on edge") || !strings.Contains(out, "down for 1h0m: no route to host") {
		t.Errorf("%v\n%s", err, out)
	}
	for format, read := range map[string]func([]byte, any) error{
		"json": json.Unmarshal,
		"yaml": func(data []byte, to any) error { return yaml.Unmarshal(data, to) },
	} {
		var status adminapi.Status
		out, err := run(t, "status", "--admin", address, "-o", format)
		if err == nil {
			err = read([]byte(out), &status)
		}
		if err != nil || status.Node != "edge" || status.Link.Reason != "no route to host" {
			t.Errorf("%s: %v\n%s", format, err, out)
		}
	}
}

// TestStatusIsWatched: it is shown again, until it is interrupted, which is no error.
func TestStatusIsWatched(t *testing.T) {
	var b bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), interval+interval/2)
	defer cancel()
	cmd := command("yurtctl")
	cmd.SetArgs([]string{"status", "--admin", hub(t), "--watch"})
	cmd.SetOut(&b)
	if err := cmd.ExecuteContext(ctx); err != nil {
		t.Error(err)
	}
	if n := strings.Count(b.String(), "yurthub v1 on edge"); n != 2 {
		t.Errorf("shown %d times:\n%s", n, b.String())
	}
}

// TestStatusSaysWhatToDo: errors name the flag, or what to look at.
func TestStatusSaysWhatToDo(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	closed := httptest.NewServer(nil)
	closed.Close()
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--admin", closed.Listener.Addr().String()}, "systemctl status yurthub"},
		{[]string{"--admin", elsewhere.Listener.Addr().String()}, "404"},
		{[]string{"--admin", elsewhere.Listener.Addr().String(), "-o", "json"}, "404"},
		{[]string{"-o", "xml"}, "want text, wide, json or yaml"},
		{[]string{"--all", "edge"}, "want one of them"},
		{[]string{"--context", "shop"}, "name some, or say --all"},
		{[]string{"--all", "--kubeconfig", none}, "find the API server (--kubeconfig, --context)"},
		{[]string{"--no-such"}, "unknown flag: --no-such"},
	} {
		if out, err := run(t, append([]string{"status"}, tc.args...)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v, want %q\n%s", tc.args, err, tc.want, out)
		}
	}
}

// cloud serves nodes, one on a page, and returns a kubeconfig for it.
func cloud(t *testing.T, nodes ...corev1.Node) string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, object any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(object); err != nil {
			t.Error(err)
		}
	}
	meta := metav1.TypeMeta{APIVersion: "v1"}
	mux.HandleFunc("GET /api/v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		page := 0
		if from := r.URL.Query().Get("continue"); from != "" {
			if _, err := fmt.Sscan(from, &page); err != nil {
				t.Error(err)
			}
		}
		list := corev1.NodeList{TypeMeta: meta, Items: nodes[page : page+1]}
		list.Kind = "NodeList"
		if page+1 < len(nodes) {
			list.Continue = fmt.Sprint(page + 1)
		}
		answer(w, list)
	})
	mux.HandleFunc("GET /api/v1/nodes/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, node := range nodes {
			if node.Name == r.PathValue("name") {
				node.TypeMeta = meta
				node.Kind = "Node"
				answer(w, node)
				return
			}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404,"message":"nodes '%s' not found"}`, r.PathValue("name"))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	content := "apiVersion: v1\nkind: Config\ncurrent-context: shop\nclusters: [{name: shop, cluster: {server: '" + server.URL +
		"'}}]\ncontexts: [{name: shop, context: {cluster: shop, user: me}}]\nusers: [{name: me, user: {}}]\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func node(name string, ready corev1.ConditionStatus, since time.Duration, more ...corev1.NodeCondition) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = append(more, corev1.NodeCondition{
		Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(time.Now().Add(-since)),
	})
	return n
}

// TestStatusOfNodes: from elsewhere the API server is asked, and all its pages are read.
func TestStatusOfNodes(t *testing.T) {
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(time.Now().Add(-d)) }
	kubeconfig := cloud(t,
		node("store-2", corev1.ConditionUnknown, 3*time.Hour,
			corev1.NodeCondition{Type: "YurtHubHealthy", Status: corev1.ConditionTrue, Reason: "YurtHubServes", Message: "it serves", LastHeartbeatTime: ago(200 * time.Minute)},
			corev1.NodeCondition{Type: "PodsProtected", Status: corev1.ConditionTrue, Reason: "NodeDark", Message: "Dark since noon."}),
		node("store-1", corev1.ConditionTrue, 50*time.Hour,
			corev1.NodeCondition{Type: "YurtHubHealthy", Status: corev1.ConditionFalse, Reason: "ClockWrong", Message: "ten years", LastHeartbeatTime: ago(10 * time.Minute)},
			corev1.NodeCondition{Type: "PodsProtected", Status: corev1.ConditionFalse, Reason: "NodeReachable", Message: "The node is reachable."}),
		node("bare", corev1.ConditionTrue, time.Minute),
	)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--all"}, `NODE     READY    SINCE  HUB         HEARD  PODS
bare     True     60s    none        -      -
store-1  True     2d2h   ClockWrong  10m    NodeReachable
store-2  Unknown  3h     healthy     3h20m  protected
`},
		{[]string{"store-2", "store-2", "-o", "wide"}, `NODE     READY    SINCE  HUB      HEARD  PODS       HUB SAYS   PODS ARE
store-2  Unknown  3h     healthy  3h20m  protected  it serves  Dark since noon.
`},
	} {
		out, err := run(t, append([]string{"status", "--kubeconfig", kubeconfig}, tc.args...)...)
		if err != nil {
			t.Errorf("%v: %v", tc.args, err)
		}
		if diff := cmp.Diff(tc.want, out); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.args, diff)
		}
	}
	var nodes []NodeStatus
	out, err := run(t, "status", "--kubeconfig", kubeconfig, "--all", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &nodes)
	}
	if err != nil || len(nodes) != 3 || nodes[1].Hub.Reason != "ClockWrong" {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := run(t, "status", "--kubeconfig", kubeconfig, "store-9"); err == nil || !strings.Contains(err.Error(), "nodes 'store-9' not found") {
		t.Errorf("a node that is not there: %v", err)
	}
}

// TestPlugin: called by kubectl, it says so in its help, and completions are made for each shell.
func TestPlugin(t *testing.T) {
	for called, want := range map[string]string{"/usr/bin/kubectl-yurt": "kubectl yurt status [NODE...]", "/usr/bin/yurtctl": "yurtctl status [NODE...]"} {
		var b bytes.Buffer
		cmd := command(called)
		cmd.SetArgs([]string{"status", "--help"})
		cmd.SetOut(&b)
		if err := cmd.Execute(); err != nil || !strings.Contains(b.String(), "\n  "+want) {
			t.Errorf("%s: %v\n%s", called, err, b.String())
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, err := run(t, "completion", shell); err != nil || !strings.Contains(out, "yurtctl") {
			t.Errorf("%s: %v\n%.200s", shell, err, out)
		}
	}
	if out, err := run(t, "__complete", "status", "--output", ""); err != nil || !strings.Contains(out, "wide") {
		t.Errorf("%v\n%s", err, out)
	}
}
