package cloud

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/scenario"
)

// Pods on bare with troubles of their own, before the cut.
const (
	sick     = "sick"     // was ready, and marked for that, and is so no longer
	crashing = "crashing" // is ready just now, after two crashes
)

type troubled struct {
	site *site
	http *http.Client // in the network of the node
}

// trouble makes these pods.
func (s *site) trouble(t *testing.T) troubled {
	t.Helper()
	tr := troubled{s, s.node(t, bare).HTTP()}
	t.Cleanup(tr.http.CloseIdleConnections)
	for _, name := range []string{sick, crashing} {
		must(t, s.run(t.Context(), name, bare, nil))
	}
	tr.await(t, sick, "is marked", func(pod *corev1.Pod) bool { return podReady(pod) && marked(pod) })
	tr.tell(t, sick, "/readyz?ready=false")
	for crashes := range 3 {
		tr.await(t, crashing, fmt.Sprintf("runs after %d crashes", crashes), func(pod *corev1.Pod) bool {
			return podReady(pod) && pod.Status.ContainerStatuses[0].RestartCount == int32(crashes)
		})
		if crashes < 2 {
			tr.tell(t, crashing, "/exit")
		}
	}
	tr.await(t, crashing, "is not marked", func(pod *corev1.Pod) bool { return podReady(pod) && !marked(pod) })
	tr.await(t, sick, "is unready", func(pod *corev1.Pod) bool { return !podReady(pod) && marked(pod) })
	return tr
}

// tell asks the server in a pod for something. A server that ends does not answer.
func (tr troubled) tell(t *testing.T, name, what string) {
	t.Helper()
	pod, err := tr.site.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	address := net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(scenario.Port))
	resp, err := tr.http.Post("http://"+address+what, "", nil)
	if err == nil {
		resp.Body.Close()
	}
	if err == nil && resp.StatusCode != http.StatusOK || err != nil && what != "/exit" {
		t.Fatalf("tell pod %s %s: %v, %v", name, what, resp, err)
	}
}

func (tr troubled) await(t *testing.T, name, what string, is func(*corev1.Pod) bool) {
	t.Helper()
	await(t, "pod "+name+" "+what, time.Minute, func(ctx context.Context) error {
		pod, err := tr.site.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && (len(pod.Status.ContainerStatuses) == 0 || !is(pod)) {
			err = fmt.Errorf("ready: %t, marked: %t, containers: %+v", podReady(pod), marked(pod), pod.Status.ContainerStatuses)
		}
		return err
	})
}

// remove removes them. They are gone once their node is back.
func (tr troubled) remove(t *testing.T) {
	t.Helper()
	for _, name := range []string{sick, crashing} {
		must(t, tr.site.client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
}

// keepsOnlyTheReady checks in the dark that pods which were in trouble are neither evicted nor shown as ready.
func (s *site) keepsOnlyTheReady(t *testing.T) {
	for _, name := range []string{sick, crashing} {
		pod, err := s.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		must(t, err)
		if pod.DeletionTimestamp != nil || podReady(pod) {
			t.Errorf("pod %s: evicted %t, ready %t; want neither", name, pod.DeletionTimestamp != nil, podReady(pod))
		}
	}
}

// keepsStaticPods checks that what a static pod tolerates is what its kubelet gave it, and that it is shown as ready as any other.
func (s *site) keepsStaticPods(t *testing.T) {
	pod, err := s.client.CoreV1().Pods(namespace).Get(t.Context(), ofNode+"-"+bare, metav1.GetOptions{})
	must(t, err)
	if diff := cmp.Diff([]corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}, pod.Spec.Tolerations); diff != "" {
		t.Errorf("tolerations of a static pod (-want +got):\n%s", diff)
	}
	if !static(pod) || !podReady(pod) {
		t.Errorf("static %t, ready %t; want both", static(pod), podReady(pod))
	}
}

// countsAsHealthy states what retention costs: a budget and a Deployment can't tell dark pods from others.
func (s *site) countsAsHealthy(t *testing.T) {
	budget, err := s.client.PolicyV1().PodDisruptionBudgets(namespace).Get(t.Context(), web(bare), metav1.GetOptions{})
	must(t, err)
	deployment, err := s.client.AppsV1().Deployments(namespace).Get(t.Context(), web(bare), metav1.GetOptions{})
	must(t, err)
	want := [...]int32{replicas, 1, replicas}
	if got := [...]int32{budget.Status.CurrentHealthy, budget.Status.DisruptionsAllowed, deployment.Status.AvailableReplicas}; got != want {
		t.Errorf("healthy, may be disrupted, available: %v, want %v", got, want)
	}
}

func marked(pod *corev1.Pod) bool { return pod.Annotations["node.openyurt.io/retain-ready"] == "true" }
