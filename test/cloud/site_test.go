package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
)

const (
	replicas = 2
	agent    = "agent"    // a DaemonSet
	optedOut = "optedout" // a pod on bare that is not to be kept in its Service
	ofNode   = "static"   // a static pod on bare
)

func web(node string) string { return "web-" + node }

// deploy makes on each edge a Deployment that would rather run there, and elsewhere if need be, with a Service and a budget; a
// DaemonSet with a Service; a static pod; and a pod that has opted out of retention. Nothing of it tolerates an outage by itself for longer than usual.
func (s *site) deploy(ctx context.Context) error {
	_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	for _, node := range edges() {
		if err := s.deployWeb(ctx, node); err != nil {
			return err
		}
	}
	daemons := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: agent},
		Spec:       appsv1.DaemonSetSpec{Selector: selector(agent), Template: template(agent)},
	}
	if _, err := s.client.AppsV1().DaemonSets(namespace).Create(ctx, daemons, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := s.serve(ctx, agent); err != nil {
		return err
	}
	err = scenario.Await(ctx, "the namespace has its account", func(ctx context.Context) error {
		_, err := s.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if err := s.runStatic(bare); err != nil {
		return err
	}
	if err := s.run(ctx, optedOut, bare, map[string]string{"node.openyurt.io/retain-ready": "false"}); err != nil {
		return err
	}
	return s.serve(ctx, optedOut)
}

func (s *site) deployWeb(ctx context.Context, node string) error {
	pods := template(web(node))
	pods.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{on(node, live)}},
		PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 100, Preference: on(node),
		}},
	}}
	deployment := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: web(node)},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](replicas), Selector: selector(web(node)), Template: pods},
	}
	if _, err := s.client.AppsV1().Deployments(namespace).Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		return err
	}
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: web(node)},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: selector(web(node)), MinAvailable: ptr.To(intstr.FromInt32(1))},
	}
	if _, err := s.client.PolicyV1().PodDisruptionBudgets(namespace).Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		return err
	}
	return s.serve(ctx, web(node))
}

// runStatic gives a node's kubelet a pod of its own.
func (s *site) runStatic(node string) error {
	n, err := s.Node(node)
	if err != nil {
		return err
	}
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: template(ofNode).ObjectMeta, Spec: template(ofNode).Spec,
	}
	pod.Namespace, pod.Name = namespace, ofNode
	data, err := json.Marshal(pod)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.Path(component.StaticPods), ofNode+".json"), data, 0o600)
}

// run makes a bare pod on a node.
func (s *site) run(ctx context.Context, name, node string, annotations map[string]string) error {
	pod := &corev1.Pod{ObjectMeta: template(name).ObjectMeta, Spec: template(name).Spec}
	pod.Name, pod.Spec.NodeName, pod.Annotations = name, node, annotations
	_, err := s.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

func (s *site) serve(ctx context.Context, app string) error {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(scenario.Port)}},
		},
	}
	_, err := s.client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{})
	return err
}

func on(nodes ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: nodes},
	}}
}

func selector(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func template(app string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{
				Name: "server", Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever,
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(scenario.Port)},
				}},
			}},
		},
	}
}

// atRest tells what is missing until all nodes are ready, nothing is on its way out, all that should run is ready, and the pods of
// autonomous nodes are protected.
func (s *site) atRest(ctx context.Context) error {
	for _, node := range append(edges(), live) {
		ready, err := s.nodeReady(ctx, node)
		if err != nil {
			return err
		}
		if ready.Status != corev1.ConditionTrue {
			return fmt.Errorf("node %s is not ready", node)
		}
	}
	pods, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil || !podReady(&pod) {
			return fmt.Errorf("pod %s on %s: to be deleted %t, ready %t", pod.Name, pod.Spec.NodeName, pod.DeletionTimestamp != nil, podReady(&pod))
		}
		if node := pod.Spec.NodeName; node != ordinary && node != live && pod.Labels["app"] != agent && !static(&pod) && !tolerates(&pod) {
			return fmt.Errorf("pod %s on %s is not protected", pod.Name, node)
		}
		if _, marked := pod.Annotations["node.openyurt.io/retain-ready"]; marked != (pod.Spec.NodeName != ordinary && pod.Spec.NodeName != live) {
			return fmt.Errorf("pod %s on %s is marked: %t", pod.Name, pod.Spec.NodeName, marked)
		}
	}
	for _, node := range edges() {
		if err := s.deployed(ctx, namespace, web(node), replicas); err != nil {
			return err
		}
	}
	if want := len(edges())*(replicas+1) + 3; len(pods.Items) < want {
		return fmt.Errorf("%d pods, want at least %d", len(pods.Items), want)
	}
	return nil
}

// deployed tells what is missing until a Deployment has exactly its replicas, all of them ready.
func (s *site) deployed(ctx context.Context, namespace, name string, want int32) error {
	d, err := s.client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if d.Status.Replicas != want || d.Status.ReadyReplicas != want || d.Status.TerminatingReplicas != nil && *d.Status.TerminatingReplicas != 0 {
		return fmt.Errorf("deployment %s has %d pods, %d of them ready, want %d", name, d.Status.Replicas, d.Status.ReadyReplicas, want)
	}
	return nil
}

// goHome makes the pods of a node that were evicted to elsewhere start there again.
func (s *site) goHome(t *testing.T) {
	t.Helper()
	for _, node := range edges() {
		for _, pod := range s.podsOf(t, web(node)) {
			if pod.Spec.NodeName != node {
				must(t, s.client.CoreV1().Pods(namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}))
			}
		}
	}
	await(t, "all pods are where they prefer to be", 30*time.Second, func(ctx context.Context) error {
		for _, node := range edges() {
			pods, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + web(node)})
			if err != nil {
				return err
			}
			for _, pod := range pods.Items {
				if pod.Spec.NodeName != node || !podReady(&pod) {
					return fmt.Errorf("pod %s is on %q, ready: %t", pod.Name, pod.Spec.NodeName, podReady(&pod))
				}
			}
		}
		return s.atRest(ctx)
	})
}

// podsOf returns the pods of an app by name.
func (s *site) podsOf(t *testing.T, app string) map[string]corev1.Pod {
	t.Helper()
	list, err := s.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	must(t, err)
	pods := map[string]corev1.Pod{}
	for _, pod := range list.Items {
		pods[pod.Name] = pod
	}
	return pods
}

// homes returns the names of the pods of a node's Deployment that run there.
func (s *site) homes(t *testing.T, node string) []string {
	t.Helper()
	pods := s.podsOf(t, web(node))
	maps.DeleteFunc(pods, func(_ string, pod corev1.Pod) bool { return pod.Spec.NodeName != node })
	names := slices.Sorted(maps.Keys(pods))
	if len(names) != replicas {
		t.Fatalf("%s runs %v of its Deployment, want %d pods", node, names, replicas)
	}
	return names
}

// served returns the names of the pods that a Service leads to, and their nodes.
func (s *site) served(ctx context.Context, service string) (map[string]string, error) {
	slices, err := s.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			if ptr.Deref(endpoint.Conditions.Ready, true) && endpoint.TargetRef != nil {
				names[endpoint.TargetRef.Name] = ptr.Deref(endpoint.NodeName, "")
			}
		}
	}
	return names, nil
}

// kept tells what pods of a node's Deployment and DaemonSet the cloud has given up.
func (s *site) kept(ctx context.Context, node string, names []string) error {
	served, err := s.served(ctx, web(node))
	if err != nil {
		return err
	}
	for _, name := range names {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.DeletionTimestamp != nil || !podReady(pod) || served[name] != node {
			return fmt.Errorf("pod %s of %s: evicted %t, ready %t, served %t", name, node, pod.DeletionTimestamp != nil, podReady(pod), served[name] == node)
		}
	}
	agents, err := s.served(ctx, agent)
	if err != nil {
		return err
	}
	if !slices.Contains(slices.Collect(maps.Values(agents)), node) {
		return fmt.Errorf("the agent of %s is not served", node)
	}
	return nil
}

// lost tells what pods of a node's Deployment and DaemonSet the cloud still counts on: those of the Deployment are to be evicted,
// replaced, and gone from the Service; the one of the DaemonSet gone from the Service, and not evicted.
func (s *site) lost(ctx context.Context, node string, names []string) error {
	served, err := s.served(ctx, web(node))
	if err != nil {
		return err
	}
	for _, name := range names {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if _, is := served[name]; pod.DeletionTimestamp == nil || is {
			return fmt.Errorf("pod %s of %s: evicted %t, served %t", name, node, pod.DeletionTimestamp != nil, is)
		}
	}
	if len(served) != replicas {
		return fmt.Errorf("%s is served by %v: no replacement", web(node), served)
	}
	agents, err := s.served(ctx, agent)
	if err != nil {
		return err
	}
	if slices.Contains(slices.Collect(maps.Values(agents)), node) {
		return fmt.Errorf("the agent of %s is still served", node)
	}
	list, err := s.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + agent, FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	if len(list.Items) != 1 || list.Items[0].DeletionTimestamp != nil {
		return fmt.Errorf("the agent of %s is evicted", node)
	}
	return nil
}

// containers returns the IDs of the running containers of the site on a node, by pod.
func (s *site) containers(t *testing.T, node string) map[string]string {
	t.Helper()
	all, err := s.node(t, node).Containers(t.Context())
	must(t, err)
	ids := map[string]string{}
	for _, c := range all {
		if c.Namespace == namespace && c.Running {
			ids[c.Pod] = c.ID
		}
	}
	return ids
}

func (s *site) nodeReady(ctx context.Context, name string) (corev1.NodeCondition, error) {
	return s.nodeCondition(ctx, name, corev1.NodeReady)
}

func (s *site) nodeCondition(ctx context.Context, name string, kind corev1.NodeConditionType) (corev1.NodeCondition, error) {
	node, err := s.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return corev1.NodeCondition{}, err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c, nil
		}
	}
	return corev1.NodeCondition{}, errors.New("node " + name + " has no condition " + string(kind))
}

func (s *site) patchNode(ctx context.Context, name, patch string) error {
	_, err := s.client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// tolerates tells whether a pod tolerates both taints of lost nodes without end.
func tolerates(pod *corev1.Pod) bool {
	endless := func(key string) bool {
		i := slices.IndexFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == key })
		return i >= 0 && pod.Spec.Tolerations[i].TolerationSeconds == nil
	}
	return endless(corev1.TaintNodeNotReady) && endless(corev1.TaintNodeUnreachable)
}

// static tells whether a pod is the image of one that the node has by itself.
func static(pod *corev1.Pod) bool {
	_, is := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return is
}
