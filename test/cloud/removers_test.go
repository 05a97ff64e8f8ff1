package cloud

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNotProtectedAgainst states what removes the pods of an autonomous node all the same: whatever is somebody's decision, and not a
// conclusion from silence.
func TestNotProtectedAgainst(t *testing.T) {
	s := begin(t)
	taint := func(key string) func(context.Context, string) error {
		return func(ctx context.Context, _ string) error {
			return s.patchNode(ctx, brief, fmt.Sprintf(`{"spec":{"taints":[{"key":%q,"effect":"NoExecute"}]}}`, key))
		}
	}
	for _, remover := range []struct {
		name   string
		remove func(ctx context.Context, pod string) error
	}{
		{"another taint", taint("example.com/maintenance")},
		{"out of service", taint("node.kubernetes.io/out-of-service")},
		{"drain", func(ctx context.Context, pod string) error {
			return s.client.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace}})
		}},
		{"deletion", func(ctx context.Context, pod string) error {
			return s.client.CoreV1().Pods(namespace).Delete(ctx, pod, metav1.DeleteOptions{})
		}},
	} {
		t.Run(remover.name, func(t *testing.T) {
			must(t, s.run(t.Context(), "victim", brief, nil))
			await(t, "the pod is protected and ready", 20*time.Second, func(ctx context.Context) error {
				pod, err := s.client.CoreV1().Pods(namespace).Get(ctx, "victim", metav1.GetOptions{})
				if err == nil && (!tolerates(pod) || !podReady(pod)) {
					err = errors.New("it is not")
				}
				return err
			})
			t.Cleanup(func() { must(t, s.patchNode(context.WithoutCancel(t.Context()), brief, `{"spec":{"taints":null}}`)) })
			must(t, remover.remove(t.Context(), "victim"))
			await(t, "the pod is gone", 20*time.Second, func(ctx context.Context) error {
				_, err := s.client.CoreV1().Pods(namespace).Get(ctx, "victim", metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				return errors.Join(err, errors.New("it is there"))
			})
		})
	}
}
