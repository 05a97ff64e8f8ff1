// Package link tests the hub on links that are neither good nor gone, between a
// node that has nothing but the hub and a real control plane: what the hub can
// answer it answers in time, it knows soon what it can't, and nothing leaks. All
// tests share one cluster, and leave it whole.
package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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

// shared is the cluster of all tests: two API servers, a node that talks to the
// first through a front, and a node that knows both.
var shared *site

type site struct {
	*cluster.Cluster
	client kubernetes.Interface
	front  *front
	edge   *cluster.Node
	twin   *cluster.Node
	token  string // of somebody who may do everything
}

const namespace = "grey"

var flapping = flag.Duration("flap", 20*time.Second, "how long the link flaps")

func TestMain(m *testing.M) {
	code := clustertest.Suite{Name: "link", Up: func(ctx context.Context) (c *cluster.Cluster, err error) {
		if shared, err = up(ctx); err != nil {
			return nil, err
		}
		return shared.Cluster, nil
	}}.Run(m)
	if shared != nil {
		shared.front.stop()
	}
	os.Exit(code)
}

func up(ctx context.Context) (*site, error) {
	c, err := cluster.Up(ctx, cluster.Config{
		Owned: true, APIServers: 2,
		Nodes: []cluster.NodeConfig{
			{Name: "edge", Hub: true, Alone: true, HubArgs: []string{"--log-level=debug", "--server-addr=https://" + frontName + ":7443"}},
			{Name: "twin", Hub: true, Alone: true, HubArgs: []string{"--log-level=debug", "--lb-mode=priority",
				"--server-addr=https://10.99.0.1:6443,https://10.99.0.2:6443"}},
		},
		Progress: &binaries.Progress{Out: os.Stderr},
	})
	if err != nil {
		return nil, err
	}
	s := &site{Cluster: c}
	for _, step := range []func(context.Context) error{s.open, s.populate, s.authorize} {
		if err := step(ctx); err != nil {
			return nil, errors.Join(err, c.Down())
		}
	}
	return s, nil
}

func (s *site) open(ctx context.Context) (err error) {
	if s.client, err = s.Client(); err != nil {
		return err
	}
	if s.edge, err = s.Node("edge"); err != nil {
		return err
	}
	if s.twin, err = s.Node("twin"); err != nil {
		return err
	}
	if err := s.name(true); err != nil {
		return err
	}
	s.front, err = startFront(ctx, s.Cluster)
	return err
}

// name makes the front's name known on the node, or unknown. Then nobody answers
// who could know it.
func (s *site) name(known bool) error {
	hosts := "127.0.0.1 localhost\n"
	if known {
		hosts += strings.TrimSuffix(frontAddress, ":7443") + " " + frontName + "\n"
	}
	return os.WriteFile(s.edge.Path("/etc/hosts"), []byte(hosts), 0o644)
}

func (s *site) populate(ctx context.Context) error {
	_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for n := range 10 {
		if err := s.change(ctx, fmt.Sprintf("known-%d", n)); err != nil {
			return err
		}
	}
	return nil
}

// change makes a ConfigMap of its own.
func (s *site) change(ctx context.Context, name string) error {
	_, err := s.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": strings.Repeat("x", 200)},
	}, metav1.CreateOptions{})
	return err
}

func (s *site) authorize(ctx context.Context) error {
	const name = "operator"
	accounts := s.client.CoreV1().ServiceAccounts(namespace)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	s.token = token.Status.Token
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

// hub is one node's hub and a client of it with the operator's token.
type hub struct {
	node  *cluster.Node
	http  *http.Client
	admin *http.Client
	token string

	patience time.Duration // of its clients
}

func (s *site) hub(t *testing.T, node *cluster.Node) *hub {
	t.Helper()
	pem, err := os.ReadFile(node.Path(component.YurtHubCA))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{DialContext: node.Dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	h := &hub{node: node, http: &http.Client{Transport: transport}, admin: node.HTTP(), token: s.token, patience: 10 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		h.admin.CloseIdleConnections()
	})
	return h
}

// settle waits until the link is up and all feeds follow.
func (h *hub) settle(t *testing.T) {
	t.Helper()
	h.awaitLink(t, "up", time.Minute)
	await(t, "the feeds follow", time.Minute, func(ctx context.Context) error {
		status, err := adminapi.Get(ctx, h.admin, adminPort)
		if err != nil {
			return err
		}
		for _, c := range status.Collections {
			if c.Phase != "watching" && c.Phase != "parked" {
				return fmt.Errorf("%s is %s", c.Path, c.Phase)
			}
		}
		return nil
	})
}

func (h *hub) awaitLink(t *testing.T, state string, within time.Duration) {
	t.Helper()
	await(t, "the link is "+state, within, func(ctx context.Context) error {
		status, err := adminapi.Get(ctx, h.admin, adminPort)
		if err != nil {
			return err
		}
		if status.Link.State != state {
			return fmt.Errorf("it is %s (%s)", status.Link.State, status.Link.Reason)
		}
		return nil
	})
}

// metrics reads what has no labels.
func (h *hub) metrics(ctx context.Context) (map[string]float64, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+adminPort+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := h.admin.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	return values, lines.Err()
}

// answered is what a request got.
type answered struct {
	code  int
	stale bool // answered in the cloud's place
	body  []byte
	took  time.Duration
	err   error
}

// ask sends a request as a client that waits for so long.
func (h *hub) ask(ctx context.Context, method, path, body string) answered {
	ctx, cancel := context.WithTimeout(ctx, h.patience)
	defer cancel()
	began := time.Now()
	a := h.send(ctx, method, path, body)
	a.took = time.Since(began)
	return a
}

func (h *hub) send(ctx context.Context, method, path, body string) answered {
	r, err := http.NewRequestWithContext(ctx, method, component.YurtHubURL+path, strings.NewReader(body))
	if err != nil {
		return answered{err: err}
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", "Bearer "+h.token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := h.http.Do(r)
	if err != nil {
		return answered{err: err}
	}
	defer resp.Body.Close()
	a := answered{code: resp.StatusCode, stale: resp.Header.Get("Warning") != ""}
	a.body, a.err = io.ReadAll(resp.Body)
	return a
}

// watcher is a client's watch that stands for as long as a test.
type watcher struct {
	names chan string
	ended chan error
}

func (h *hub) watch(t *testing.T, path string) *watcher {
	t.Helper()
	return h.watchFor(t.Context(), t, path)
}

// watchFor lists from the replica and watches from there, until ctx ends.
func (h *hub) watchFor(ctx context.Context, t *testing.T, path string) *watcher {
	t.Helper()
	list := h.ask(ctx, http.MethodGet, path+"?resourceVersion=0", "")
	if list.err != nil || list.code != http.StatusOK {
		t.Fatalf("list %s: %d, %v: %s", path, list.code, list.err, list.body)
	}
	var head struct{ Metadata metav1.ListMeta }
	must(t, json.Unmarshal(list.body, &head))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, component.YurtHubURL+path+"?watch=1&resourceVersion="+head.Metadata.ResourceVersion, http.NoBody)
	must(t, err)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", "Bearer "+h.token)
	resp, err := h.http.Do(r) //nolint:bodyclose // it is, at the end of the stream
	must(t, err)
	w := &watcher{names: make(chan string, 1000), ended: make(chan error, 1)}
	go func() {
		defer resp.Body.Close()
		decoder := json.NewDecoder(resp.Body)
		for {
			var e struct {
				Object struct{ Metadata metav1.ObjectMeta }
			}
			if err := decoder.Decode(&e); err != nil {
				w.ended <- err
				return
			}
			w.names <- e.Object.Metadata.Name
		}
	}()
	return w
}

// sees waits until the watch has brought an object.
func (w *watcher) sees(t *testing.T, name string, within time.Duration) {
	t.Helper()
	late := time.After(within)
	for {
		select {
		case got := <-w.names:
			if got == name {
				return
			}
		case err := <-w.ended:
			t.Fatalf("the client's watch ended: %v", err)
		case <-late:
			t.Fatalf("the client's watch has not brought %s within %v", name, within)
		}
	}
}
