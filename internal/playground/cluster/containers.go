package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"yurt/internal/playground/component"
)

// Container is a container on a node, as its container runtime knows it.
type Container struct {
	ID        string
	Namespace string
	Pod       string
	PodUID    string
	Name      string
	Image     string
	Running   bool
	Created   time.Time
	Attempt   uint32 // how often it was restarted within its pod sandbox
	PodIP     string
}

// Containers returns all containers of all pods on the node, those that have ended included, in the order of namespace, pod, name
// and age.
func (n *Node) Containers(ctx context.Context) ([]Container, error) {
	conn, err := n.runtime()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := criv1.NewRuntimeServiceClient(conn)
	sandboxes, err := client.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list pods on node %s: %w", n.Config.Name, err)
	}
	addresses := map[string]string{}
	for _, s := range sandboxes.GetItems() {
		status, err := client.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: s.GetId()})
		if err != nil {
			continue // removed meanwhile
		}
		addresses[s.GetId()] = status.GetStatus().GetNetwork().GetIp()
	}
	list, err := client.ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers on node %s: %w", n.Config.Name, err)
	}
	var all []Container
	for _, item := range list.GetContainers() {
		all = append(all, Container{
			ID:        item.GetId(),
			Namespace: item.GetLabels()["io.kubernetes.pod.namespace"],
			Pod:       item.GetLabels()["io.kubernetes.pod.name"],
			PodUID:    item.GetLabels()["io.kubernetes.pod.uid"],
			Name:      item.GetMetadata().GetName(),
			Image:     item.GetImage().GetUserSpecifiedImage(),
			Running:   item.GetState() == criv1.ContainerState_CONTAINER_RUNNING,
			Created:   time.Unix(0, item.GetCreatedAt()),
			Attempt:   item.GetMetadata().GetAttempt(),
			PodIP:     addresses[item.GetPodSandboxId()],
		})
	}
	slices.SortFunc(all, func(a, b Container) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Name, b.Name), a.Created.Compare(b.Created))
	})
	return all, nil
}

// runtime connects to the node's container runtime. Its socket is a file, reached through the root of the node's first process.
func (n *Node) runtime() (*grpc.ClientConn, error) {
	pid, err := n.PID()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.Config.Name, err)
	}
	socket := filepath.Join("/proc", strconv.Itoa(pid), "root", component.ContainerdSocket)
	if _, err := os.Stat(socket); err != nil {
		return nil, fmt.Errorf("reach container runtime of node %s: %w", n.Config.Name, err)
	}
	conn, err := grpc.NewClient("passthrough:///containerd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, fmt.Errorf("reach container runtime of node %s: %w", n.Config.Name, err)
	}
	return conn, nil
}
