// Package scenario is the site whose survival the demo shows and the end-to-end
// tests assert: on each node a Deployment with a ConfigMap volume, a Secret
// volume, a Secret in its environment and the default token, a DaemonSet, a bare
// pod and a static pod, with a Service over them.
//
// It looks at a node through its container runtime, so that it sees what runs
// there whether or not the cloud does. It never touches links or power; whoever
// tells the story does.
package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
)

// The names of the site.
const (
	Namespace = "shop"
	Settings  = "settings" // the ConfigMap
	Keys      = "keys"     // the Secret
	Agent     = "agent"    // the DaemonSet

	// Where the pods of a Deployment have these.
	SettingsFile = "/config/greeting"
	KeyFile      = "/secret/key"
	KeyVariable  = "KEY"
	TokenFile    = "/var/run/secrets/kubernetes.io/serviceaccount/token"

	Port    = 8080
	KeyText = "planted-secret-7d1f" // a test may look for it where it must not be
)

// Web is the name of a node's Deployment and Service.
func Web(node string) string { return "web-" + node }

// Solo is the name of a node's bare pod.
func Solo(node string) string { return "solo-" + node }

// Static is the name of a node's static pod.
func Static(node string) string { return "static-" + node }

// Replicas is how many pods a node's Deployment has at first.
const Replicas = 2

// PodsPerNode is how many pods of the site a node runs at first: the
// Deployment's, the DaemonSet's, the bare one and the static one.
const PodsPerNode = Replicas + 3

// Open makes the site on the nodes of a cluster. What is there already stays as
// it is.
func Open(ctx context.Context, c *cluster.Cluster) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	if err := openNamespace(ctx, client); err != nil {
		return fmt.Errorf("open the site: %w", err)
	}
	for _, n := range c.Nodes() {
		if err := openNode(ctx, client, n); err != nil {
			return fmt.Errorf("open the site on node %s: %w", n.Config.Name, err)
		}
	}
	return nil
}

func openNamespace(ctx context.Context, client kubernetes.Interface) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace}}
	_, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Settings}, Data: map[string]string{"greeting": Greeting}}
	_, err = client.CoreV1().ConfigMaps(Namespace).Create(ctx, settings, metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	keys := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: Keys}, StringData: map[string]string{"key": KeyText}}
	_, err = client.CoreV1().Secrets(Namespace).Create(ctx, keys, metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	_, err = client.AppsV1().DaemonSets(Namespace).Create(ctx, agent(), metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	// Bare pods are refused until the namespace's account is there.
	return Await(ctx, "the namespace has its service account", func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(Namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func openNode(ctx context.Context, client kubernetes.Interface, n *cluster.Node) error {
	name := n.Config.Name
	if err := writeStatic(n); err != nil {
		return err
	}
	_, err := client.AppsV1().Deployments(Namespace).Create(ctx, web(name), metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	_, err = client.CoreV1().Services(Namespace).Create(ctx, service(name), metav1.CreateOptions{})
	if err := missing(err); err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(Namespace).Create(ctx, SoloPod(Solo(name), name), metav1.CreateOptions{})
	return missing(err)
}

// missing drops the error that says that a thing is there already.
func missing(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func web(node string) *appsv1.Deployment {
	labels := map[string]string{"app": Web(node)}
	spec := podSpec(node)
	spec.Containers[0].Env = []corev1.EnvVar{{Name: KeyVariable, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: Keys}, Key: "key",
	}}}}
	spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
		{Name: "config", MountPath: filepath.Dir(SettingsFile)},
		{Name: "secret", MountPath: filepath.Dir(KeyFile)},
	}
	spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: Settings}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: Keys}}},
	}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: Web(node)},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](Replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
}

func agent() *appsv1.DaemonSet {
	labels := map[string]string{"app": Agent}
	spec := podSpec("")
	spec.NodeSelector = nil
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: Agent},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec},
		},
	}
}

// SoloPod is a pod of its own on a node, with the default token and nothing
// else.
func SoloPod(name, node string) *corev1.Pod {
	spec := podSpec(node)
	spec.NodeName = node
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}}, Spec: spec}
}

func service(node string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: Web(node)},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": Web(node)},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(Port)}},
		},
	}
}

// podSpec is a server on a node. It tolerates the node's loss without end: that
// the cloud does not evict the pods of a dark node is the business of the
// controllers there, and not of this site.
func podSpec(node string) corev1.PodSpec {
	return corev1.PodSpec{
		NodeSelector:                  map[string]string{corev1.LabelHostname: node},
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{
			Name: "server", Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever,
			ReadinessProbe: &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(Port)}},
			},
		}},
		Tolerations: []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
			{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		},
	}
}

// writeStatic puts the static pod's manifest on the node's disk.
func writeStatic(n *cluster.Node) error {
	node := n.Config.Name
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "static", Namespace: Namespace, Labels: map[string]string{"app": Static(node)}},
		Spec:       podSpec(node),
	}
	pod.Spec.NodeSelector = nil
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(pod)
	if err != nil {
		return err
	}
	manifest, err := yaml.Marshal(content)
	if err != nil {
		return err
	}
	path := filepath.Join(n.Path(component.StaticPods), "static.yaml")
	if old, err := os.ReadFile(path); err == nil && string(old) == string(manifest) {
		return nil
	}
	return os.WriteFile(path, manifest, 0o644)
}
