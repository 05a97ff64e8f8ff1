package cluster

import (
	"context"
	"fmt"
	"path"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"yurt/internal/playground/component"
)

const (
	coreDNS  = "coredns"  // the DaemonSet, its service account and its configuration
	kubeDNS  = "kube-dns" // the Service, whose name is as old as Kubernetes
	dnsRole  = "system:coredns"
	podToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// createDNS makes the objects that CoreDNS consists of, as kubeadm does, but for two things that sites do whose nodes must get along
// alone: it runs on each node, and each node's pods ask only the one beside them.
func createDNS(ctx context.Context, client kubernetes.Interface) error {
	meta := metav1.ObjectMeta{Name: coreDNS, Namespace: metav1.NamespaceSystem}
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: meta.Namespace}
	config := map[string]string{path.Base(component.CoreDNSConfig): string(component.CoreDNS{}.Config())}
	core, opts := client.CoreV1(), metav1.CreateOptions{}
	for _, create := range []func() error{
		func() error {
			_, err := core.ServiceAccounts(meta.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, opts)
			return err
		},
		func() error {
			_, err := client.RbacV1().ClusterRoles().Create(ctx, dnsRules(), opts)
			return err
		},
		func() error {
			_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, binding(dnsRole, dnsRole, subject), opts)
			return err
		},
		func() error {
			_, err := core.ConfigMaps(meta.Namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: config}, opts)
			return err
		},
		func() error {
			_, err := core.Services(meta.Namespace).Create(ctx, dnsService(), opts)
			return err
		},
		func() error {
			_, err := client.AppsV1().DaemonSets(meta.Namespace).Create(ctx, dnsDaemonSet(meta), opts)
			return err
		},
	} {
		if err := create(); err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

func dnsRules() *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: dnsRole},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"endpoints", "services", "pods", "namespaces"}, Verbs: []string{"list", "watch"}},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
		},
	}
}

func dnsLabels() map[string]string { return map[string]string{"k8s-app": kubeDNS} }

func dnsService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: kubeDNS, Namespace: metav1.NamespaceSystem, Labels: dnsLabels()},
		Spec: corev1.ServiceSpec{
			ClusterIP:             component.DNSAddress,
			InternalTrafficPolicy: ptr.To(corev1.ServiceInternalTrafficPolicyLocal),
			Selector:              dnsLabels(),
			Ports: []corev1.ServicePort{
				{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(53)},
				{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(53)},
			},
		},
	}
}

// dnsDaemonSet is on the node's network because there is where the hub can be reached. It shows the hub the pod's own token.
func dnsDaemonSet(meta metav1.ObjectMeta) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: meta,
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: dnsLabels()},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: dnsLabels()},
				Spec: corev1.PodSpec{
					ServiceAccountName: coreDNS,
					PriorityClassName:  "system-node-critical",
					HostNetwork:        true,
					DNSPolicy:          corev1.DNSDefault,
					Containers: []corev1.Container{{
						Name: coreDNS, Image: dnsImage, ImagePullPolicy: corev1.PullNever, Args: component.CoreDNS{}.Argv()[1:],
						VolumeMounts: []corev1.VolumeMount{
							{Name: "config", MountPath: path.Dir(component.CoreDNSConfig), ReadOnly: true},
							{Name: "kubeconfig", MountPath: component.CoreDNSConf, ReadOnly: true},
							{Name: "ca", MountPath: component.CoreDNSCA, ReadOnly: true},
						},
						ReadinessProbe: dnsProbe("/ready", component.CoreDNSReady, 1),
						LivenessProbe:  dnsProbe("/health", component.CoreDNSHealth, 10),
					}},
					Volumes: []corev1.Volume{
						{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
							LocalObjectReference: corev1.LocalObjectReference{Name: coreDNS},
						}}},
						{Name: "kubeconfig", VolumeSource: hostFile(component.CoreDNSConf)},
						{Name: "ca", VolumeSource: hostFile(component.CoreDNSCA)},
					},
					Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
				},
			},
		},
	}
}

func dnsProbe(url string, port, period int32) *corev1.Probe {
	return &corev1.Probe{
		PeriodSeconds: period,
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: url, Port: intstr.FromInt32(port)}},
	}
}

func hostFile(name string) corev1.VolumeSource {
	return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: name, Type: ptr.To(corev1.HostPathFile)}}
}

// dnsUnready says what is missing for the pods of all nodes to have names.
func (c *Cluster) dnsUnready(ctx context.Context, client kubernetes.Interface) error {
	set, err := client.AppsV1().DaemonSets(metav1.NamespaceSystem).Get(ctx, coreDNS, metav1.GetOptions{})
	if err != nil {
		return err
	}
	want := 0
	for _, n := range c.nodes {
		if !n.Config.Alone {
			want++
		}
	}
	if ready := int(set.Status.NumberReady); ready < want {
		return fmt.Errorf("CoreDNS is ready on %d of %d nodes", ready, want)
	}
	return nil
}
