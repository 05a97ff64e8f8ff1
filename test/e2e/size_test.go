package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
)

// From the hub's start to its first correct answer in the dark.
func TestFirstAnswerInTheDark(t *testing.T) {
	const limit = 200 * time.Millisecond
	s := begin(t)
	ctx := t.Context()
	token, client := s.token(t), s.nodeClient(t)
	target := component.YurtHubURL + "/api/v1/namespaces/" + scenario.Namespace + "/pods?resourceVersion=0"
	want, err := podNames(ctx, client, target, token)
	must(t, err)
	s.cutBoth(t)
	var took []time.Duration
	for range 5 {
		must(t, s.edge.StopService(ctx, cluster.YurtHub))
		client.CloseIdleConnections()
		started := make(chan error, 1)
		start := time.Now()
		go func() { started <- s.edge.StartService(ctx, cluster.YurtHub) }()
		for {
			got, err := podNames(ctx, client, target, token)
			if err == nil {
				took = append(took, time.Since(start).Round(time.Millisecond))
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the first answer is %v, want %v", got, want)
				}
				break
			}
			if time.Since(start) > 10*time.Second {
				t.Fatalf("no answer: %v", err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		must(t, <-started)
	}
	t.Logf("start to first answer: %v", took)
	slices.Sort(took)
	if median := took[len(took)/2]; median > limit {
		t.Errorf("start to first answer took %v, want at most %v", median, limit)
	}
}

func podNames(ctx context.Context, client *http.Client, target, token string) ([]string, error) {
	resp, err := send(ctx, client, target, token, "application/json")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list struct {
		Items []struct{ Metadata metav1.ObjectMeta }
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Metadata.Name)
	}
	return names, nil
}

// What the hub takes of the node's memory behind a kubelet and a kube-proxy with
// 30 pods.
func TestIdleMemory(t *testing.T) {
	const limit = 30 << 20
	s := begin(t)
	replicas := func(n int) {
		t.Helper()
		_, err := s.client.AppsV1().Deployments(scenario.Namespace).Patch(t.Context(), scenario.Web("edge"), types.MergePatchType,
			fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, n), metav1.PatchOptions{})
		must(t, err)
		await(t, "the Deployment is complete", 3*time.Minute, func(ctx context.Context) error {
			d, err := s.client.AppsV1().Deployments(scenario.Namespace).Get(ctx, scenario.Web("edge"), metav1.GetOptions{})
			if err != nil {
				return err
			}
			return complete(d, n)
		})
	}
	replicas(30 - scenario.PodsPerNode + scenario.Replicas)
	time.Sleep(15 * time.Second)
	status, err := s.hub(t.Context())
	must(t, err)
	p := status.Process
	t.Logf("30 pods, %d collections: VmRSS %.1f MiB, RssAnon %.1f MiB, peak %.1f MiB, %d goroutines",
		len(status.Collections), mib(p.ResidentBytes), mib(p.AnonymousBytes), mib(p.PeakBytes), p.Goroutines)
	if p.ResidentBytes == 0 || p.ResidentBytes > limit {
		t.Errorf("the hub takes %.1f MiB, want at most %.0f", mib(p.ResidentBytes), mib(limit))
	}
	replicas(scenario.Replicas)
}

func complete(d *appsv1.Deployment, n int) error {
	s := d.Status
	if int(s.ReadyReplicas) != n || int(s.Replicas) != n || s.ObservedGeneration != d.Generation {
		return fmt.Errorf("%d of %d pods are ready, want %d", s.ReadyReplicas, s.Replicas, n)
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
