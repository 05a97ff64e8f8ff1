package semantics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
)

// The namespaces' names are prefixes of each other, and what comes after a
// prefix sorts before and behind the slash of etcd's keys.
func namespaces() []string { return []string{"shop", "shop-2", "shop2", "empty", "large"} }

const (
	largeObjects = 24
	largeSize    = 900 << 10 // a ConfigMap takes 1 MiB
	hugeSize     = 1_400_000 // near what etcd takes
)

// mice have an irregular plural, a list kind of their own, columns of their own
// and fields that no Go type knows. Of gnus, whose plural is the singular, there are
// none.
func definitions() []string {
	const schema = `"schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}`
	return []string{`{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "mice.zoo.example.com"},
  "spec": {
    "group": "zoo.example.com", "scope": "Namespaced",
    "names": {"plural": "mice", "singular": "mouse", "kind": "Mouse", "listKind": "AllTheMice"},
    "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
      "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}], ` + schema + `}]
  }}`, `{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gnu.zoo.example.com"},
  "spec": {
    "group": "zoo.example.com", "scope": "Cluster",
    "names": {"plural": "gnu", "singular": "gnu", "kind": "Gnu", "listKind": "GnuList"},
    "versions": [{"name": "v1", "served": true, "storage": true, ` + schema + `}]
  }}`}
}

var mice = schema.GroupVersionResource{Group: "zoo.example.com", Version: "v1", Resource: "mice"}

// makeWorld makes what the requests of the corpus ask for, then stops the
// controllers: from then on nothing changes but by a test.
func (s *site) makeWorld(ctx context.Context) error {
	for _, name := range namespaces() {
		_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for _, name := range namespaces() {
		err := poll(ctx, func(ctx context.Context) error {
			if _, err := s.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{}); err != nil {
				return err
			}
			_, err := s.client.CoreV1().ConfigMaps(name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, service := range []string{cluster.ControllerManager, cluster.Scheduler} {
		if err := s.Cloud().StopService(ctx, service); err != nil {
			return err
		}
	}
	for _, make := range []func(context.Context) error{s.makeMaps, s.makePods, s.makeMice, s.makeLarge} {
		if err := make(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *site) makeMaps(ctx context.Context) error {
	for _, namespace := range []string{"shop", "shop-2", "shop2"} {
		for n := range 12 {
			m := &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%02d", n), Labels: map[string]string{"app": string(rune('a' + n%3)), "of": namespace}},
				Data:       map[string]string{"n": fmt.Sprint(n), "text": "<&> \u2028 ü 🚲"},
				BinaryData: map[string][]byte{"b": {0, 1, 255, byte(n)}},
			}
			if n%4 == 0 {
				m.Labels["odd"] = ""
			}
			if _, err := s.client.CoreV1().ConfigMaps(namespace).Create(ctx, m, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
	}
	_, err := s.client.CoreV1().Secrets("shop").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "key"}, Data: map[string][]byte{"k": {1, 2, 3}},
	}, metav1.CreateOptions{})
	return err
}

// makePods makes a running pod on each of two nodes that nobody is, one that
// waits, one that a budget protects from eviction, and a Deployment.
func (s *site) makePods(ctx context.Context) error {
	for _, name := range []string{"n1", "n2"} {
		_, err := s.client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: ptr.To(false)}
	pods := s.client.CoreV1().Pods("shop")
	for name, node := range map[string]string{"on-n1": "n1", "on-n2": "n2", "waits": ""} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "p"}}, Spec: spec}
		pod.Spec.NodeName = node
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		if node == "" {
			continue
		}
		status := []byte(`{"status":{"phase":"Running","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}],"conditions":[{"type":"Ready","status":"True"}]}}`)
		if _, err := pods.Patch(ctx, name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
			return err
		}
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "p"}}
	_, err := s.client.PolicyV1().PodDisruptionBudgets("shop").Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector, MaxUnavailable: ptr.To(intstr.FromInt32(0))},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.client.AppsV1().Deployments("shop").Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d"},
		Spec: appsv1.DeploymentSpec{Selector: selector, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: selector.MatchLabels}, Spec: spec,
		}},
	}, metav1.CreateOptions{})
	return err
}

func (s *site) makeMice(ctx context.Context) error {
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	for _, definition := range definitions() {
		var object unstructured.Unstructured
		if err := json.Unmarshal([]byte(definition), &object.Object); err != nil {
			return err
		}
		if _, err := s.dynamic.Resource(crds).Create(ctx, &object, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	gnu := schema.GroupVersionResource{Group: "zoo.example.com", Version: "v1", Resource: "gnu"}
	err := poll(ctx, func(ctx context.Context) error { // until it is served
		_, err := s.dynamic.Resource(gnu).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		return err
	})
	if err != nil {
		return err
	}
	for n := range 4 {
		if err := s.makeMouse(ctx, "shop", fmt.Sprintf("mouse-%d", n), ""); err != nil {
			return err
		}
	}
	return s.makeMouse(ctx, "large", "huge", strings.Repeat("x", hugeSize))
}

// makeMouse makes a mouse; that of a kind which has just been defined takes its
// time.
func (s *site) makeMouse(ctx context.Context, namespace, name, ballast string) error {
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "zoo.example.com/v1", "kind": "Mouse",
		"metadata": map[string]any{"name": name, "labels": map[string]any{"app": "m"}},
		"spec":     map[string]any{"color": "grey", "ballast": ballast},
		"unheard":  map[string]any{"of": []any{"<&>", "\u2028 ü 🚲", 1.5e300, nil, int64(7), map[string]any{"kind": "Trap", "metadata": map[string]any{"name": "x"}}}},
	}}
	return poll(ctx, func(ctx context.Context) error {
		_, err := s.dynamic.Resource(mice).Namespace(namespace).Create(ctx, object, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func (s *site) makeLarge(ctx context.Context) error {
	for n := range largeObjects {
		_, err := s.client.CoreV1().ConfigMaps("large").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("large-%02d", n)}, Data: map[string]string{"x": strings.Repeat(string(rune('a'+n)), largeSize)},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

// revision is where etcd is.
func (s *site) revision(ctx context.Context) (string, error) {
	list, err := s.client.CoreV1().ConfigMaps("empty").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	return list.ResourceVersion, nil
}

// compact makes etcd forget what was before a revision, as the API server does
// every five minutes.
func (s *site) compact(ctx context.Context, revision string) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.Cloud().Dial(ctx, network, address)
	}}
	defer transport.CloseIdleConnections()
	body := fmt.Sprintf(`{"revision": %q, "physical": true}`, revision)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, component.EtcdURL+"/v3/kv/compaction", strings.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("compact etcd: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("compact etcd: %s: %s: %w", resp.Status, answer, err)
	}
	return nil
}
