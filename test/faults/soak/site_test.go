package soak

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/adminapi"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
)

// site is the two nodes, the cloud, and what watches over them.
type site struct {
	*cluster.Cluster
	client kubernetes.Interface
	random *rand.Rand
	turn   int // of the churn

	samples map[string][]adminapi.Status // by node
	readers []*reader
	stop    func() // ends the readers
}

func begin(t *testing.T, c *cluster.Cluster, random *rand.Rand) *site {
	t.Helper()
	client, err := c.Client()
	must(t, err)
	must(t, scenario.Open(t.Context(), c))
	s := &site{Cluster: c, client: client, random: random, samples: map[string][]adminapi.Status{}}
	token := s.token(t)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	s.stop = func() { cancel(); reading.Wait() }
	t.Cleanup(s.stop)
	for _, n := range c.Nodes() {
		r := newReader(t, n, token)
		s.readers = append(s.readers, r)
		reading.Go(func() { r.run(ctx) })
	}
	return s
}

// token is one of an account that may read pods.
func (s *site) token(t *testing.T) string {
	t.Helper()
	const name = "reader"
	ctx, accounts := t.Context(), s.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault)
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: metav1.NamespaceDefault}},
	}, metav1.CreateOptions{})
	must(t, err)
	hours := int64(24 * 3600)
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	must(t, err)
	return token.Status.Token
}

// churn changes in the cloud what the nodes are to run, every three seconds,
// until during has returned.
func (s *site) churn(t *testing.T, during func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var changing sync.WaitGroup
	defer changing.Wait()
	defer cancel()
	changing.Go(func() {
		for {
			select {
			case <-time.After(3 * time.Second):
			case <-ctx.Done():
				return
			}
			if err := s.change(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("change in the cloud: %v", err)
			}
		}
	})
	during()
}

func (s *site) change(ctx context.Context) error {
	s.turn++
	node := s.Nodes()[s.turn%2].Config.Name
	switch s.turn % 3 {
	case 0:
		return scenario.SetGreeting(ctx, s.client, fmt.Sprintf("greeting %d", s.turn))
	case 1:
		patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, 2+s.turn%4)
		_, err := s.client.AppsV1().Deployments(scenario.Namespace).Patch(ctx, scenario.Web(node), types.MergePatchType, patch, metav1.PatchOptions{})
		return err
	}
	pods, err := s.client.CoreV1().Pods(scenario.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if strings.HasPrefix(pod.Name, scenario.Web(node)+"-") && pod.DeletionTimestamp == nil {
			return s.client.CoreV1().Pods(scenario.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{})
		}
	}
	return nil
}

// agree waits until each node runs exactly what the cloud has for it.
func (s *site) agree(t *testing.T, when string) {
	t.Helper()
	begun := time.Now()
	await(t, "both sides agree "+when, agreeAfter, func(ctx context.Context) error {
		list, err := s.client.CoreV1().Pods(scenario.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range s.Nodes() {
			if err := agrees(ctx, n, list.Items); err != nil {
				return fmt.Errorf("%s: %w", n.Config.Name, err)
			}
		}
		return s.complete(ctx)
	})
	t.Logf("both sides agree %v later", time.Since(begun).Round(100*time.Millisecond))
}

func agrees(ctx context.Context, n *cluster.Node, pods []corev1.Pod) error {
	running, err := scenario.Running(ctx, n)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if pod.Spec.NodeName != n.Config.Name {
			continue
		}
		ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		_, mirrors := pod.Annotations[corev1.MirrorPodAnnotationKey]
		there, runs := running[pod.Name]
		if !runs || !ready || pod.DeletionTimestamp != nil || there.UID != string(pod.UID) && !mirrors {
			return fmt.Errorf("%s: runs %t, ready %t, to be deleted %t, UID %s there and %s in the cloud", pod.Name, runs, ready, pod.DeletionTimestamp != nil, there.UID, pod.UID)
		}
		delete(running, pod.Name)
	}
	if len(running) > 0 {
		return fmt.Errorf("it runs what the cloud does not have: %s", strings.Join(scenario.Names(running), ", "))
	}
	return nil
}

// complete tells whether the Deployments have what they are to have.
func (s *site) complete(ctx context.Context) error {
	list, err := s.client.AppsV1().Deployments(scenario.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, d := range list.Items {
		if d.Status.ObservedGeneration != d.Generation || d.Status.ReadyReplicas != *d.Spec.Replicas || d.Status.Replicas != *d.Spec.Replicas {
			return fmt.Errorf("%s has %d pods, %d of them ready, and is to have %d", d.Name, d.Status.Replicas, d.Status.ReadyReplicas, *d.Spec.Replicas)
		}
	}
	return nil
}

// knownOn returns what a node runs and is not about to end.
func (s *site) knownOn(t *testing.T, n *cluster.Node) map[string]scenario.Pod {
	t.Helper()
	first, err := scenario.Running(t.Context(), n)
	must(t, err)
	time.Sleep(35 * time.Second) // longer than a pod may take to end
	known, err := scenario.Running(t.Context(), n)
	must(t, err)
	maps.DeleteFunc(known, func(name string, pod scenario.Pod) bool { return first[name].UID != pod.UID })
	return known
}

// sample notes how the hubs stand.
func (s *site) sample(t *testing.T) {
	t.Helper()
	for _, n := range s.Nodes() {
		client := n.HTTP()
		status, err := adminapi.Get(t.Context(), client, component.YurtHubAdmin)
		client.CloseIdleConnections()
		must(t, err)
		s.samples[n.Config.Name] = append(s.samples[n.Config.Name], *status)
	}
}

const (
	// mostDisk is what the logs of two small nodes may take: they grow until they
	// are compacted, so that a short soak can't tell a slope from that.
	mostDisk = 64 << 20
	// mostMemory is more than a hub behind so few pods takes.
	mostMemory = 32 << 20
)

// report prints what was done and read, and asserts that nothing grows for good.
func (s *site) report(t *testing.T, faults map[string]int) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		t.Logf("%3d × %s", faults[name], name)
	}
	for _, r := range s.readers {
		r.report(t)
	}
	for _, n := range s.Nodes() {
		for _, f := range figures() {
			var all []int64
			for _, sample := range s.samples[n.Config.Name] {
				all = append(all, f.of(sample))
			}
			half := len(all) / 2
			if half == 0 {
				t.Errorf("%s: %d samples are too few to tell whether anything grows", n.Config.Name, len(all))
				continue
			}
			first, second := median(all[:half]), median(all[half:])
			t.Logf("%s: %s: median %d in the first half, %d in the second, %d at the end", n.Config.Name, f.name, first, second, all[len(all)-1])
			if last := all[len(all)-1]; last > f.most {
				t.Errorf("%s: %s is %d at the end, want at most %d", n.Config.Name, f.name, last, f.most)
			}
		}
	}
}

// figure is one that must stay small.
type figure struct {
	name string
	most int64
	of   func(adminapi.Status) int64
}

func figures() []figure {
	return []figure{
		{"RssAnon", mostMemory, func(s adminapi.Status) int64 { return s.Process.AnonymousBytes }},
		{"disk", mostDisk, func(s adminapi.Status) int64 { return s.Store.DiskBytes }},
		{"goroutines", 200, func(s adminapi.Status) int64 { return int64(s.Process.Goroutines) }},
	}
}

func median(all []int64) int64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// reader lists the pods through a node's hub, once a second.
type reader struct {
	node   *cluster.Node
	token  string
	client *http.Client

	newest            uint64
	answered, refused int
	violations        []string
}

func newReader(t *testing.T, n *cluster.Node, token string) *reader {
	t.Helper()
	pem, err := os.ReadFile(n.Path(component.YurtHubCA))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{DialContext: n.Dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	return &reader{node: n, token: token, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
}

func (r *reader) run(ctx context.Context) {
	defer r.client.CloseIdleConnections()
	for ctx.Err() == nil {
		r.read(ctx)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

func (r *reader) read(ctx context.Context) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, component.YurtHubURL+"/api/v1/namespaces/"+scenario.Namespace+"/pods?resourceVersion=0", http.NoBody)
	if err != nil {
		r.violations = append(r.violations, err.Error())
		return
	}
	request.Header.Set("Authorization", "Bearer "+r.token)
	resp, err := r.client.Do(request)
	if err != nil {
		r.refused++ // the machine is off, or the hub was killed
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		r.refused++
		return
	}
	var list corev1.PodList
	if err := json.Unmarshal(body, &list); err != nil {
		r.violations = append(r.violations, "an answer that is no list: "+err.Error())
		return
	}
	r.answered++
	var version uint64
	if _, err := fmt.Sscan(list.ResourceVersion, &version); err != nil || version < r.newest {
		r.violations = append(r.violations, fmt.Sprintf("a list at version %q after one at %d", list.ResourceVersion, r.newest))
	}
	r.newest = max(r.newest, version)
	for _, pod := range list.Items {
		var at uint64
		if _, err := fmt.Sscan(pod.ResourceVersion, &at); err != nil || at > version {
			r.violations = append(r.violations, fmt.Sprintf("a list at version %d has %s at %q", version, pod.Name, pod.ResourceVersion))
		}
	}
	if len(list.Items) < 2*3 { // a DaemonSet's, a bare and a static one for each node are never taken away
		r.violations = append(r.violations, fmt.Sprintf("a list at version %d has only %d pods", version, len(list.Items)))
	}
}

func (r *reader) report(t *testing.T) {
	t.Helper()
	t.Logf("%s: %d lists read through the hub, %d not answered, %d violations", r.node.Config.Name, r.answered, r.refused, len(r.violations))
	if r.answered == 0 {
		t.Errorf("%s: nothing was read", r.node.Config.Name)
	}
	for _, v := range r.violations {
		t.Errorf("%s: %s", r.node.Config.Name, v)
	}
}

func await(t *testing.T, what string, within time.Duration, done func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	must(t, scenario.Await(ctx, what, done))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
