// Package services tells on a real cluster that Services and their names lead
// to the right pods through a cut, power cuts and boots in the dark, a crash
// and the heal: by the answers that a pod on the node gets, ten times a second,
// with a stock kube-proxy and a stock CoreDNS between.
package services

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/scenario"
)

const (
	namespace = metav1.NamespaceDefault
	port      = 8080
	servers   = 2 // of a node

	// Directories of a node that its pods see at the same place.
	logs     = "/var/log/probes"
	controls = "/var/lib/controls"
)

// site is a cluster with these nodes, each with the same workloads: edge, and
// beside it next; and off, whose hub is as it was before there was an overlay,
// and which shows that there is something to lose.
type site struct {
	*cluster.Cluster
	client          kubernetes.Interface
	edge, next, off *cluster.Node
}

func up(t *testing.T) *site {
	t.Helper()
	s := &site{Cluster: clustertest.Up(t, cluster.Config{
		DNS: true,
		Nodes: []cluster.NodeConfig{
			{Name: "edge", Hub: true},
			{Name: "next", Hub: true},
			{Name: "off", Hub: true, HubArgs: []string{"--disable-overlay"}},
		},
		// The cloud's verdict over a silent node is part of the story: its pods
		// are marked, but they are not evicted within it.
		TolerationSeconds: 3600,
	})}
	var err error
	s.client, err = s.Client()
	must(t, err)
	for name, node := range map[string]**cluster.Node{"edge": &s.edge, "next": &s.next, "off": &s.off} {
		*node, err = s.Node(name)
		must(t, err)
	}
	for _, n := range s.Nodes() {
		s.open(t, n.Config.Name)
	}
	return s
}

func web(node string) string           { return "web-" + node }
func server(node string, i int) string { return fmt.Sprintf("%s-%d", web(node), i) }

// open makes a node's servers, the Services over them, and the probes.
func (s *site) open(t *testing.T, node string) {
	t.Helper()
	labels := map[string]string{"app": web(node)}
	for i := range servers {
		s.create(t, serverPod(server(node, i), node, labels))
	}
	for _, name := range []string{web(node), web(node) + "-each"} {
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
			Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}}},
		}
		if name != web(node) {
			service.Spec.ClusterIP = corev1.ClusterIPNone // its name is that of each pod: CoreDNS alone has to know them
		}
		_, err := s.client.CoreV1().Services(namespace).Create(t.Context(), service, metav1.CreateOptions{})
		must(t, err)
		s.create(t, probePod("of-"+name, node, name))
	}
}

func (s *site) create(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	_, err := s.client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	must(t, err)
}

func newPod(name, node string, labels map[string]string, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name: "main", Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever, Args: args,
				VolumeMounts: []corev1.VolumeMount{{Name: "logs", MountPath: logs}, {Name: "controls", MountPath: controls}},
			}},
			Volumes:     []corev1.Volume{directory("logs", logs), directory("controls", controls)},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
}

func directory(name, path string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}}
}

func serverPod(name, node string, labels map[string]string) *corev1.Pod {
	pod := newPod(name, node, labels, "serve", fmt.Sprintf(":%d", port), controls+"/down-"+name)
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(port)}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	return pod
}

func probePod(name, node, service string) *corev1.Pod {
	url := fmt.Sprintf("http://%s.%s.svc.cluster.local:%d/", service, namespace, port)
	return newPod(name, node, nil, "probe", url, "100ms", logs+"/"+service)
}

// ready tells what is missing until the cloud and the node agree that the
// node's servers run, where they run, and that they are ready.
func (s *site) ready(ctx context.Context, n *cluster.Node) error {
	running, err := s.running(ctx, n)
	if err != nil {
		return err
	}
	for i := range servers {
		name := server(n.Config.Name, i)
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
		if is := running[name].PodIP; is == "" || pod.Status.PodIP != is || !ready {
			return fmt.Errorf("%s is at %q, and the cloud has it at %q, ready: %t", name, is, pod.Status.PodIP, ready)
		}
	}
	return nil
}

// running returns the newest running containers of a node by their pods' names.
func (s *site) running(ctx context.Context, n *cluster.Node) (map[string]cluster.Container, error) {
	all, err := n.Containers(ctx)
	if err != nil {
		return nil, err
	}
	running := map[string]cluster.Container{}
	for _, c := range all {
		if c.Namespace == namespace && c.Running {
			running[c.Pod] = c // they come in the order of their age
		}
	}
	return running, nil
}

// serversRunning tells what is missing until all servers of a node run, and
// when the last of them was made.
func (s *site) serversRunning(ctx context.Context, n *cluster.Node) (since time.Time, err error) {
	running, err := s.running(ctx, n)
	if err != nil {
		return since, err
	}
	for i := range servers {
		c, ok := running[server(n.Config.Name, i)]
		if !ok {
			return since, fmt.Errorf("%s does not run", server(n.Config.Name, i))
		}
		if c.Created.After(since) {
			since = c.Created
		}
	}
	return since, nil
}

func (s *site) cut(t *testing.T, n *cluster.Node) {
	t.Helper()
	must(t, n.Cut(t.Context()))
	s.awaitLink(t, n, "down")
}

func (s *site) awaitLink(t *testing.T, n *cluster.Node, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, scenario.AwaitLink(ctx, n, state))
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
