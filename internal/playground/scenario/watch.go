package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"yurt/internal/adminapi"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
)

// Pod is a pod of the site as the node's container runtime has it running.
type Pod struct {
	Name      string
	UID       string
	Container string // ID
	Image     string
	IP        string
	Started   time.Time
}

// Running returns the site's pods that run on a node, by name. Of a container
// that was restarted it is the newest.
func Running(ctx context.Context, n *cluster.Node) (map[string]Pod, error) {
	containers, err := n.Containers(ctx)
	if err != nil {
		return nil, err
	}
	pods := map[string]Pod{}
	for _, c := range containers {
		if c.Namespace == Namespace && c.Running {
			pods[c.Pod] = Pod{Name: c.Pod, UID: c.PodUID, Container: c.ID, Image: c.Image, IP: c.PodIP, Started: c.Created}
		}
	}
	return pods, nil
}

// Await polls until done says that it holds, and tells each poll's error or
// what is missing if ctx ends first.
func Await(ctx context.Context, what string, done func(context.Context) error) error {
	var last error
	for {
		if last = done(ctx); last == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w: %w", what, context.Cause(ctx), last)
		}
	}
}

// AwaitLink waits until the hub of a node says that its link is in a state.
func AwaitLink(ctx context.Context, n *cluster.Node, state string) error {
	client := n.HTTP()
	defer client.CloseIdleConnections()
	return Await(ctx, "the link of "+n.Config.Name+" is "+state, func(ctx context.Context) error {
		status, err := adminapi.Get(ctx, client, component.YurtHubAdmin)
		if err == nil && status.Link.State != state {
			err = fmt.Errorf("it is %s (%s)", status.Link.State, status.Link.Reason)
		}
		return err
	})
}

// AwaitRunning waits until exactly the pods that want accepts run on the node,
// count of them.
func AwaitRunning(ctx context.Context, n *cluster.Node, count int) (map[string]Pod, error) {
	var pods map[string]Pod
	err := Await(ctx, fmt.Sprintf("%d pods run on %s", count, n.Config.Name), func(ctx context.Context) error {
		var err error
		if pods, err = Running(ctx, n); err != nil {
			return err
		}
		if len(pods) != count {
			return fmt.Errorf("%d run: %s", len(pods), strings.Join(Names(pods), ", "))
		}
		return nil
	})
	return pods, err
}

// Names returns the pods' names in order.
func Names(pods map[string]Pod) []string {
	var names []string
	for name := range pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Of returns the pods of a Deployment or DaemonSet.
func Of(pods map[string]Pod, owner string) []Pod {
	var owned []Pod
	for _, name := range Names(pods) {
		if strings.HasPrefix(name, owner+"-") {
			owned = append(owned, pods[name])
		}
	}
	return owned
}

// Ask fetches a path from a pod, from the node itself: no Service, no cloud.
func Ask(ctx context.Context, n *cluster.Node, pod Pod, path string) (string, error) {
	if pod.IP == "" {
		return "", errors.New("pod " + pod.Name + " has no address")
	}
	return Fetch(ctx, n, "http://"+net.JoinHostPort(pod.IP, strconv.Itoa(Port))+path)
}

// Fetch fetches a URL as a process on the node does.
func Fetch(ctx context.Context, n *cluster.Node, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	client := n.HTTP()
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("get %s: %s: %s", url, resp.Status, body)
	}
	return string(body), nil
}
