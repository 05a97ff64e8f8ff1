package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yurt/bench/gauge"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
)

const podsOfKubelet = 30

// node is rows 6, 12 and 14: a hub behind a real kubelet and kube-proxy with 30 pods, whose replica is on a disk of its own.
func (b *bench) node(ctx context.Context, k *cloud) (err error) {
	disk, err := gauge.NewDisk(ctx, b.dir, 256)
	if err != nil {
		return err
	}
	defer func() {
		// The machine has it mounted too, for as long as it runs.
		err = errors.Join(err, k.edge.PowerCut(), disk.Close(context.WithoutCancel(ctx)))
	}()
	if err := moveReplica(ctx, k.edge, disk); err != nil {
		return err
	}
	if err := k.deploy(ctx, podsOfKubelet); err != nil {
		return err
	}
	select {
	case <-time.After(30 * time.Second): // what starting takes is over
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	pid, err := processOn(ctx, k.edge.Machine, cluster.YurtHub)
	if err != nil {
		return err
	}
	const parts = 4
	var before int64
	var begun, settled time.Time
	begun = time.Now()
	for part := range parts {
		if part == 1 { // what a start costs once, a first bookmark for each collection, is over
			if before, err = disk.Written(); err != nil {
				return err
			}
			settled = time.Now()
		}
		if err := b.idleCPU(ctx, "idle", pid, b.cfg.Idle/parts); err != nil {
			return err
		}
		m, err := gauge.MemoryOf(pid)
		if err != nil {
			return err
		}
		b.add(6, "VmRSS", "node", HubName, m.RSS)
		b.add(6, "RssAnon", "node", HubName, m.Anon)
	}
	after, err := disk.Written()
	if err != nil {
		return err
	}
	b.add(12, "bytes to the device", "node", HubName, float64(after-before)/1e6*(24*time.Hour).Seconds()/time.Since(settled).Seconds())
	if err := k.edge.Cut(ctx); err != nil {
		return err
	}
	time.Sleep(15 * time.Second)
	for range 3 {
		if err := b.idleCPU(ctx, "dark", pid, b.cfg.Idle/12); err != nil {
			return err
		}
	}
	b.cfg.Log.Info("measured", "rows", "6, 12, 14", "took", time.Since(begun).Round(time.Second))
	return k.edge.Heal(ctx)
}

func (b *bench) idleCPU(ctx context.Context, name string, pid int, window time.Duration) error {
	used, err := cost(pid, func() error {
		select {
		case <-time.After(window):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	b.add(14, name, "node", HubName, 100*used.Seconds()/window.Seconds())
	return err
}

// moveReplica puts the root directory of a node's hub on a disk, and starts the hub and its clients anew.
func moveReplica(ctx context.Context, n *cluster.Node, disk *gauge.Disk) error {
	services := []string{cluster.KubeProxy, cluster.Kubelet, cluster.YurtHub}
	for _, service := range services {
		if err := n.StopService(ctx, service); err != nil {
			return err
		}
	}
	from := n.Path(component.YurtHubRoot) + "/."
	if out, err := exec.CommandContext(ctx, "cp", "-a", from, disk.Dir+"/").CombinedOutput(); err != nil {
		return fmt.Errorf("copy replica: %w: %s", err, out)
	}
	if _, err := n.Exec(ctx, "mount", disk.Device, component.YurtHubRoot); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// deploy runs pods on the edge node and waits until they are ready.
func (k *cloud) deploy(ctx context.Context, pods int) error {
	labels := map[string]string{"app": "idle"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "idle"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(pods)), Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector: map[string]string{corev1.LabelHostname: edge},
					Containers:   []corev1.Container{{Name: "pause", Image: cluster.PauseImage, ImagePullPolicy: corev1.PullNever}},
				},
			},
		},
	}
	deployments := k.client.AppsV1().Deployments(namespace)
	if _, err := deployments.Create(ctx, d, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("deploy: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the pods do not get ready"))
	defer cancel()
	return await(ctx, func() error {
		d, err := deployments.Get(ctx, "idle", metav1.GetOptions{})
		if err == nil && int(d.Status.ReadyReplicas) != pods {
			err = fmt.Errorf("%d of %d pods are ready", d.Status.ReadyReplicas, pods)
		}
		return err
	})
}

// innermost returns the number of a process within the namespace it is in.
func innermost(statusFile string) int {
	data, err := os.ReadFile(statusFile)
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "NSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	f := strings.Fields(line)
	if len(f) == 0 {
		return 0
	}
	pid, err := strconv.Atoi(f[len(f)-1])
	if err != nil {
		return 0
	}
	return pid
}

// linkBytes returns what has gone over the lab's link, in both directions.
func (k *cloud) linkBytes(ctx context.Context) (float64, error) {
	data, err := k.lab.Exec(ctx, "cat", "/proc/net/dev")
	if err != nil {
		return 0, err
	}
	total := 0.0
	for line := range strings.Lines(string(data)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if !ok || len(f) < 9 || strings.TrimSpace(name) == "lo" {
			continue
		}
		for _, at := range []int{0, 8} {
			n, err := strconv.ParseFloat(f[at], 64)
			if err != nil {
				return 0, fmt.Errorf("read counters of the link: %w", err)
			}
			total += n
		}
	}
	return total, nil
}

// programCopy copies the hub's program to a file that nobody else runs, so that its pages can leave the page cache.
func (b *bench) programCopy() (Gateway, error) {
	g := b.hub()
	data, err := os.ReadFile(g.Program)
	if err != nil {
		return g, fmt.Errorf("copy yurthub: %w", err)
	}
	g.Program = filepath.Join(b.dir, "yurthub-cold")
	if err := os.WriteFile(g.Program, data, 0o755); err != nil {
		return g, fmt.Errorf("copy yurthub: %w", err)
	}
	return g, nil
}
