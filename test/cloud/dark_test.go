package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/playground/cluster"
)

const outage = 2 * time.Minute

// TestDarkNodesKeepTheirPods cuts all edges for two minutes. The ordinary node loses its pods, the autonomous ones do not, and the one
// whose term ends loses them then.
func TestDarkNodesKeepTheirPods(t *testing.T) {
	s := begin(t)
	s.goHome(t)
	pods, containers := map[string][]string{}, map[string]map[string]string{}
	for _, node := range edges() {
		pods[node], containers[node] = s.homes(t, node), s.containers(t, node)
	}
	troubled := s.trouble(t)
	s.bereave(t)
	begun := time.Now()
	since := s.cut(t)
	keeps := func(nodes ...string) {
		t.Helper()
		for _, node := range nodes {
			must(t, s.kept(t.Context(), node, pods[node]))
		}
	}
	keeps(bare, hub, brief)

	// The term of one node ends; it was kept until then.
	sleepUntil(t, since[brief].Add(briefly-5*time.Second))
	keeps(bare, hub, brief)
	await(t, "the brief node has lost its pods", 30*time.Second, func(ctx context.Context) error { return s.lost(ctx, brief, pods[brief]) })
	t.Logf("the brief node lost its pods %v after it went dark", time.Since(since[brief]).Round(time.Second))

	sleepUntil(t, begun.Add(outage))
	if err := s.lost(t.Context(), ordinary, pods[ordinary]); err != nil {
		t.Fatalf("this run shows nothing, for an ordinary node loses nothing: %v", err)
	}
	keeps(bare, hub)
	t.Run("opted out", func(t *testing.T) {
		served, err := s.served(t.Context(), optedOut)
		must(t, err)
		if len(served) != 0 {
			t.Errorf("a pod that has opted out of retention is served: %v", served)
		}
		if pod := s.podsOf(t, optedOut)[optedOut]; pod.DeletionTimestamp != nil {
			t.Error("a pod that has opted out of retention is evicted")
		}
	})
	t.Run("unready", s.keepsOnlyTheReady)
	t.Run("static", s.keepsStaticPods)
	t.Run("counted as healthy", s.countsAsHealthy)
	t.Run("deleted", s.isBereft)
	t.Run("shown", s.showsTheOutage)
	troubled.remove(t)

	s.heal(t)
	for _, node := range []string{bare, hub} {
		if diff := cmp.Diff(containers[node], s.containers(t, node)); diff != "" {
			t.Errorf("containers on %s (-before +after):\n%s", node, diff)
		}
	}
	await(t, "nothing is left of evicted pods", time.Minute, func(ctx context.Context) error {
		for _, node := range []string{ordinary, brief} {
			for _, name := range pods[node] {
				if _, runs := s.containers(t, node)[name]; runs {
					return fmt.Errorf("%s runs on %s", name, node)
				}
			}
		}
		return nil
	})
	for _, node := range []string{bare, hub, brief} {
		await(t, "node "+node+" shows that it is reachable", 20*time.Second, func(ctx context.Context) error {
			c, err := s.nodeCondition(ctx, node, "PodsProtected")
			if err == nil && c.Reason != "NodeReachable" {
				err = fmt.Errorf("PodsProtected: %s %s: %s", c.Status, c.Reason, c.Message)
			}
			return err
		})
	}
}

// showsTheOutage checks that the truth is not hidden: dark nodes are unready and take no pods; and it is shown since when, until when,
// and how many pods are kept.
func (s *site) showsTheOutage(t *testing.T) {
	for node, want := range map[string]string{
		bare:  "True NodeDark: Dark since TIME; pods kept without end: 5.",
		hub:   "True NodeDark: Dark since TIME; pods kept without end: 2.",
		brief: "False DurationOver: Dark since TIME; protected until TIME.",
	} {
		c, err := s.nodeCondition(t.Context(), node, "PodsProtected")
		must(t, err)
		words := strings.FieldsFunc(c.Message, func(r rune) bool { return r == ' ' })
		for i, word := range words {
			if _, err := time.Parse(time.RFC3339, strings.TrimRight(word, ";.")); err == nil {
				words[i] = "TIME" + strings.TrimLeft(word[len(word)-1:], "Z")
			}
		}
		if diff := cmp.Diff(want, fmt.Sprintf("%s %s: %s", c.Status, c.Reason, strings.Join(words, " "))); diff != "" {
			t.Errorf("condition PodsProtected of %s (-want +got):\n%s", node, diff)
		}
		object, err := s.client.CoreV1().Nodes().Get(t.Context(), node, metav1.GetOptions{})
		must(t, err)
		if !slices.ContainsFunc(object.Spec.Taints, func(taint corev1.Taint) bool {
			return taint.Key == corev1.TaintNodeUnreachable && taint.Effect == corev1.TaintEffectNoSchedule
		}) {
			t.Errorf("node %s takes new pods", node)
		}
	}
	for node, want := range map[string][]string{
		bare: {"PodProtectionStarted"}, hub: {"PodProtectionStarted"}, brief: {"PodProtectionEnded", "PodProtectionStarted"}, ordinary: nil,
	} {
		events, err := s.client.EventsV1().Events("").List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.kind=Node,regarding.name=" + node})
		must(t, err)
		seen := map[string]bool{}
		for _, e := range events.Items {
			if e.ReportingController == "nodeautonomy" {
				seen[e.Reason] = true
			}
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(seen))); diff != "" {
			t.Errorf("events of node %s (-want +got):\n%s", node, diff)
		}
	}
}

// TestProtectionOutlivesTheController takes away whoever could protect: all replicas of the controller before the cut, and the stock
// controllers and the API server in the middle of it. Then the leader of the replicas that come back.
func TestProtectionOutlivesTheController(t *testing.T) {
	s := begin(t)
	s.goHome(t)
	pods, containers := map[string][]string{}, map[string]map[string]string{}
	for _, node := range edges() {
		pods[node], containers[node] = s.homes(t, node), s.containers(t, node)
	}
	keeps := func(nodes ...string) {
		t.Helper()
		for _, node := range nodes {
			must(t, s.kept(t.Context(), node, pods[node]))
		}
	}
	s.scale(t, 0)
	t.Cleanup(func() { s.scaleNow(context.WithoutCancel(t.Context()), t, 2) })
	since := s.cut(t)
	keeps(bare, hub, brief)
	must(t, s.Cloud().RestartService(t.Context(), cluster.ControllerManager))
	must(t, s.Cloud().Kill(t.Context(), cluster.APIServer(0), syscall.SIGKILL))
	await(t, "the ordinary node has lost its pods", 90*time.Second, func(ctx context.Context) error { return s.lost(ctx, ordinary, pods[ordinary]) })
	sleepUntil(t, since[brief].Add(briefly+5*time.Second))
	keeps(bare, hub, brief) // nobody ends a term while there is no controller: later, never sooner

	s.scale(t, 2)
	await(t, "the brief node has lost its pods", time.Minute, func(ctx context.Context) error { return s.lost(ctx, brief, pods[brief]) })
	first := s.leader(t, "")
	must(t, s.client.CoreV1().Pods(system).Delete(t.Context(), first, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	must(t, s.run(t.Context(), "late", bare, nil)) // bound in the dark, while nobody leads
	t.Cleanup(func() {
		must(t, s.client.CoreV1().Pods(namespace).Delete(context.WithoutCancel(t.Context()), "late", metav1.DeleteOptions{}))
	})
	t.Logf("%s leads after %s", s.leader(t, first), first)
	await(t, "the late pod is protected", 20*time.Second, func(context.Context) error {
		if pod := s.podsOf(t, "late")["late"]; !tolerates(&pod) {
			return fmt.Errorf("its tolerations are %v", pod.Spec.Tolerations)
		}
		return nil
	})
	keeps(bare, hub)

	s.heal(t)
	for _, node := range []string{bare, hub} {
		now := s.containers(t, node)
		delete(now, "late")
		if diff := cmp.Diff(containers[node], now); diff != "" {
			t.Errorf("containers on %s (-before +after):\n%s", node, diff)
		}
	}
}

// TestProtectionOfANewPod measures from the binding of a pod until it is not evicted any more. Its mark follows once it is ready.
func TestProtectionOfANewPod(t *testing.T) {
	s := begin(t)
	var worst time.Duration
	for i := range 10 {
		name := fmt.Sprintf("new-%d", i)
		begun := time.Now()
		must(t, s.run(t.Context(), name, bare, nil))
		is := func(what string, is func(*corev1.Pod) bool) {
			await(t, "pod "+name+" "+what, 30*time.Second, func(context.Context) error {
				if pod := s.podsOf(t, name)[name]; !is(&pod) {
					return fmt.Errorf("it has tolerations %v and annotations %v", pod.Spec.Tolerations, pod.Annotations)
				}
				return nil
			})
		}
		is("is protected", tolerates)
		worst = max(worst, time.Since(begun))
		is("is marked", marked)
		must(t, s.client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	t.Logf("the slowest of 10 took %v", worst.Round(10*time.Millisecond))
	if worst > 5*time.Second { // a second is the goal on a machine that has nothing else to do
		t.Errorf("a new pod was unprotected for %v", worst)
	}
}

// TestAutonomyEnds takes the annotation away: pods get back what they had at first.
func TestAutonomyEnds(t *testing.T) {
	s := begin(t)
	must(t, s.patchNode(t.Context(), bare, `{"metadata":{"annotations":{"node.openyurt.io/autonomy-duration":null}}}`))
	t.Cleanup(func() {
		must(t, s.patchNode(context.WithoutCancel(t.Context()), bare, `{"metadata":{"annotations":{"node.openyurt.io/autonomy-duration":"0"}}}`))
	})
	await(t, "pods have their tolerations back", 10*time.Second, func(context.Context) error {
		for name, pod := range s.podsOf(t, web(bare)) {
			for _, toleration := range pod.Spec.Tolerations {
				if toleration.TolerationSeconds == nil || *toleration.TolerationSeconds != int64(s.Config.TolerationSeconds) {
					return fmt.Errorf("pod %s tolerates %v", name, toleration)
				}
			}
			if len(pod.Annotations) != 0 {
				return fmt.Errorf("pod %s has annotations %v", name, pod.Annotations)
			}
		}
		return nil
	})
	for _, slip := range []string{"for ever", "10"} {
		must(t, s.patchNode(t.Context(), bare, fmt.Sprintf(`{"metadata":{"annotations":{"node.openyurt.io/autonomy-duration":%q}}}`, slip)))
		await(t, "the node says what is wrong with its annotation", 10*time.Second, func(ctx context.Context) error {
			c, err := s.nodeCondition(ctx, bare, "PodsProtected")
			if err == nil && (c.Reason != "InvalidAnnotation" || !strings.Contains(c.Message, fmt.Sprintf("%q", slip))) {
				err = fmt.Errorf("it says %s: %s", c.Reason, c.Message)
			}
			return err
		})
	}
	await(t, "an event says so, and that it happened again", 10*time.Second, func(ctx context.Context) error {
		events, err := s.client.EventsV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "regarding.kind=Node,regarding.name=" + bare})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Reason == "InvalidAutonomyDuration" && e.Type == corev1.EventTypeWarning && e.Series != nil {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// TestPolicyIsPutBack changes the policy and its binding, and then removes them, behind the controller's back.
func TestPolicyIsPutBack(t *testing.T) {
	s := begin(t)
	const name = "pod-readiness-retention.openyurt.io"
	policies := s.client.AdmissionregistrationV1().MutatingAdmissionPolicies()
	bindings := s.client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	patch := func(ctx context.Context, policy, binding string) {
		t.Helper()
		_, err := policies.Patch(ctx, name, types.MergePatchType, []byte(policy), metav1.PatchOptions{})
		must(t, err)
		_, err = bindings.Patch(ctx, name, types.MergePatchType, []byte(binding), metav1.PatchOptions{})
		must(t, err)
	}
	right, err := policies.Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	s.scale(t, 0) // a new leader looks at once, an old one within a minute
	patch(t.Context(), `{"spec":{"matchConditions":null}}`, `{"spec":{"matchResources":{"namespaceSelector":{"matchLabels":{"a":"b"}}}}}`)
	s.scale(t, 2)
	await(t, "policy and binding are as they were", 30*time.Second, func(ctx context.Context) error {
		policy, err := policies.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		binding, err := bindings.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if diff := cmp.Diff(right.Spec, policy.Spec); diff != "" || binding.Spec.MatchResources != nil {
			return fmt.Errorf("binding %+v, policy (-want +got):\n%s", binding.Spec.MatchResources, diff)
		}
		return nil
	})
	version := func(ctx context.Context) string {
		policy, err := policies.Get(ctx, name, metav1.GetOptions{})
		must(t, err)
		return policy.ResourceVersion
	}
	mended := version(t.Context())
	s.scale(t, 0)
	s.scale(t, 2)
	s.leader(t, "")
	time.Sleep(2 * time.Second)
	if version(t.Context()) != mended {
		t.Error("a right policy was written again")
	}
}

func (s *site) scale(t *testing.T, count int32) {
	t.Helper()
	s.scaleNow(t.Context(), t, count)
	await(t, fmt.Sprintf("the controller has %d replicas", count), time.Minute, func(ctx context.Context) error {
		pods, err := s.client.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=" + controller})
		if err == nil && len(pods.Items) != int(count) {
			err = fmt.Errorf("it has %d", len(pods.Items))
		}
		return errors.Join(err, s.deployed(ctx, system, controller, count))
	})
}

func (s *site) scaleNow(ctx context.Context, t *testing.T, count int32) {
	t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, count)
	_, err := s.client.AppsV1().Deployments(system).Patch(ctx, controller, types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
}

// leader waits for a leader other than one and returns its pod.
func (s *site) leader(t *testing.T, other string) string {
	t.Helper()
	var leader string
	await(t, "a replica leads", time.Minute, func(ctx context.Context) error {
		lease, err := s.client.CoordinationV1().Leases(system).Get(ctx, controller, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
			return errors.New("nobody holds the lease")
		}
		leader, _, _ = strings.Cut(*lease.Spec.HolderIdentity, "_") // the host's name is the pod's
		if leader == other {
			return fmt.Errorf("%s holds the lease", leader)
		}
		return nil
	})
	return leader
}

func sleepUntil(t *testing.T, at time.Time) {
	t.Helper()
	select {
	case <-time.After(time.Until(at)):
	case <-t.Context().Done():
	}
}
