package scenario

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/cluster"
)

// What the cloud decides about a node while that is in the dark.
const (
	Greeting        = "hello"               // in the ConfigMap at first
	ChangedGreeting = "changed in the dark" // and then
	ChangedReplicas = Replicas + 1
	Late            = "late" // a pod that is new
)

// Decide changes in the cloud what a node is to run: the ConfigMap, the size and
// the image of its Deployment, its bare pod, and a pod that is new.
func Decide(ctx context.Context, client kubernetes.Interface, node string) error {
	pods := client.CoreV1().Pods(Namespace)
	if err := SetGreeting(ctx, client, ChangedGreeting); err != nil {
		return err
	}
	if err := setWeb(ctx, client, node, ChangedReplicas, cluster.WorkloadImage2); err != nil {
		return err
	}
	if err := pods.Delete(ctx, Solo(node), metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete pod %s: %w", Solo(node), err)
	}
	_, err := pods.Create(ctx, SoloPod(Late, node), metav1.CreateOptions{})
	return missing(err)
}

// Undo takes back what Decide has changed.
func Undo(ctx context.Context, c *cluster.Cluster, node string) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	if err := SetGreeting(ctx, client, Greeting); err != nil {
		return err
	}
	if err := setWeb(ctx, client, node, Replicas, cluster.WorkloadImage); err != nil {
		return err
	}
	if err := client.CoreV1().Pods(Namespace).Delete(ctx, Late, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s: %w", Late, err)
	}
	return Open(ctx, c)
}

// SetGreeting changes the ConfigMap.
func SetGreeting(ctx context.Context, client kubernetes.Interface, greeting string) error {
	patch := fmt.Appendf(nil, `{"data":{"greeting":%q}}`, greeting)
	if _, err := client.CoreV1().ConfigMaps(Namespace).Patch(ctx, Settings, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("change ConfigMap: %w", err)
	}
	return nil
}

func setWeb(ctx context.Context, client kubernetes.Interface, node string, replicas int, image string) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d,"template":{"spec":{"containers":[{"name":"server","image":%q}]}}}}`, replicas, image)
	if _, err := client.AppsV1().Deployments(Namespace).Patch(ctx, Web(node), types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("change Deployment: %w", err)
	}
	return nil
}

// Decided tells what is missing until the node runs what Decide has decided.
func Decided(pods map[string]Pod, node string) error {
	web := Of(pods, Web(node))
	if len(web) != ChangedReplicas {
		return fmt.Errorf("%d pods of the Deployment run: %v", len(web), Names(pods))
	}
	for _, pod := range web {
		if pod.Image != cluster.WorkloadImage2 {
			return fmt.Errorf("%s runs image %s", pod.Name, pod.Image)
		}
	}
	if _, ok := pods[Solo(node)]; ok {
		return errors.New("the deleted pod runs")
	}
	if _, ok := pods[Late]; !ok {
		return errors.New("the new pod does not run")
	}
	return nil
}

// Concerned tells whether Decide has changed something about a pod.
func Concerned(pod, node string) bool {
	return strings.HasPrefix(pod, Web(node)+"-") || pod == Solo(node) || pod == Late
}

// HasTables tells what is missing until kube-proxy on the node has made its
// tables for the site's Services.
func HasTables(ctx context.Context, n *cluster.Node) error {
	out, err := n.Exec(ctx, "nft", "list", "table", "ip", "kube-proxy")
	if err != nil {
		return err
	}
	for _, service := range []string{Namespace + "/" + Web(n.Config.Name), "default/kubernetes"} {
		if !strings.Contains(string(out), service) {
			return fmt.Errorf("there is no chain of service %s", service)
		}
	}
	return nil
}
