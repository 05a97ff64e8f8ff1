package services

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/netns"
)

const (
	wide       = "wide" // a Deployment over both nodes of the site, and its Service
	wideOnEach = 2
)

func (s *site) openWide(t *testing.T) {
	t.Helper()
	labels := map[string]string{"app": wide}
	pod := serverPod(wide, "", labels)
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"edge", "next"},
		}}}},
	}}}
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: labels},
		NodeAffinityPolicy: ptr.To(corev1.NodeInclusionPolicyHonor),
	}}
	_, err := s.client.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: wide, Namespace: namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](2 * wideOnEach), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: wide, Namespace: namespace},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}}},
	}, metav1.CreateOptions{})
	must(t, err)
	for _, n := range []string{"edge", "next"} {
		s.create(t, probePod("of-wide-on-"+n, n, wide))
	}
}

// wideOn returns the names of the Deployment's pods that run on a node.
func (s *site) wideOn(ctx context.Context, n *cluster.Node) ([]string, error) {
	running, err := s.running(ctx, n)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(running)), func(name string) bool { return !strings.HasPrefix(name, wide+"-") })
	if len(names) != wideOnEach {
		return nil, fmt.Errorf("of the Deployment %v run on %s", names, n.Config.Name)
	}
	return names, nil
}

// Two nodes of one site are cut off from the cloud but not from each other, and
// one of them loses its power. Each is right about its own pods throughout, and
// about its neighbour's as long as these stay where they were. What is wrong
// meanwhile is logged: the node that stayed up looks for its neighbour's pods
// where they were before.
func (s *site) testNeighbours(t *testing.T) {
	ctx := t.Context()
	s.openWide(t)
	onEdge, onNext := probes{{s.edge, wide}}, probes{{s.next, wide}}
	var all []string
	await(t, "the Deployment runs on both nodes", time.Minute, func(ctx context.Context) error {
		all = nil
		for _, n := range []*cluster.Node{s.edge, s.next} {
			names, err := s.wideOn(ctx, n)
			if err != nil {
				return err
			}
			all = append(all, names...)
		}
		return nil
	})
	append(onEdge, onNext...).settle(t, "the Service answers from both nodes on both", time.Minute, all...)

	begun := time.Now()
	for _, n := range []*cluster.Node{s.edge, s.next} {
		must(t, n.SetLink(ctx, netns.Condition{Blackhole: true, CloudOnly: true}))
	}
	s.awaitLink(t, s.edge, "down")
	s.awaitLink(t, s.next, "down")
	append(onEdge, onNext...).settle(t, "the nodes still reach each other", 30*time.Second, all...)
	append(onEdge, onNext...).neverFail(t, "from the cut on", begun, time.Now().Add(-time.Second))

	cut, booted := time.Now(), s.reboot(t, s.next)
	onNext.settle(t, "all pods answer on the node that rebooted", time.Minute, all...)
	back, err := onNext[0].first(booted)
	must(t, err)
	onNext.neverFail(t, "after the boot", back.at, time.Now().Add(-time.Second))
	failed, of := onEdge[0].failures(t, cut, time.Now())
	t.Logf("%s: %d of %d attempts failed while the neighbour's pods had other addresses than the cloud knew", onEdge[0], len(failed), of)

	// The cloud has marked the pods of both as not ready by now.
	await(t, "the cloud has given the nodes up", time.Minute, s.marked)
	healed := time.Now()
	for _, n := range []*cluster.Node{s.edge, s.next} {
		must(t, n.Heal(ctx))
	}
	for _, n := range []*cluster.Node{s.edge, s.next} {
		await(t, "the cloud knows what "+n.Config.Name+" knows", 30*time.Second, func(ctx context.Context) error { return s.ready(ctx, n) })
		await(t, "the slices have what "+n.Config.Name+" knows", 30*time.Second, func(ctx context.Context) error { return s.sliced(ctx, n) })
	}
	append(onEdge, onNext...).settle(t, "the Service answers from both nodes on both again", time.Minute, all...)
	onNext.neverFail(t, "from the heal on", healed, time.Now().Add(-time.Second))
	own(s.next).neverFail(t, "from the heal on", healed, time.Now().Add(-time.Second))
	own(s.edge).neverFail(t, "without a reboot, from the cut to the end", begun, time.Now().Add(-time.Second))
}

// marked tells what is missing until the cloud holds the pods of both nodes for
// not ready.
func (s *site) marked(ctx context.Context) error {
	for _, node := range []string{"edge", "next"} {
		pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, server(node, 0), metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse
		}) {
			return fmt.Errorf("%s is ready", pod.Name)
		}
	}
	return nil
}
