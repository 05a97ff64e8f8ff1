package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/host"
)

// Up brings a cluster up and returns when all its nodes are ready. A cluster of the same name and config that is up already is
// returned as it is; one that is another's is ErrDifferent or ErrInUse; what is left of a crashed one is removed first.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	if cfg.Name == "" {
		cfg.Name = "t" + utilrand.String(8)
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := host.Check(); err != nil {
		return nil, err
	}
	if cfg.Checkout == "" {
		dir, err := FindCheckout()
		if err != nil {
			return nil, err
		}
		cfg.Checkout = dir
	}
	programs, err := (&binaries.Builder{Checkout: cfg.Checkout, Progress: cfg.Progress}).Build(ctx, cfg.Kubernetes)
	if err != nil {
		return nil, err
	}
	if err := sweep(cfg.Root); err != nil {
		return nil, err
	}
	c := assemble(cfg, programs)
	lock, err := lockDir(c.dir, lockPatience)
	if err != nil {
		return nil, fmt.Errorf("bring up cluster %q: %w", cfg.Name, err)
	}
	if up, err := c.existing(); err != nil || up != nil {
		lock.Close()
		return up, err
	}
	if err := c.bringUp(ctx, &lock); err != nil {
		err = fmt.Errorf("bring up cluster %q: %w", cfg.Name, err)
		if ctx.Err() != nil { // somebody lost patience: leave nothing
			err = errors.Join(err, destroy(cfg.Root, cfg.Name))
		}
		c.Close()
		lock.Close()
		return nil, err
	}
	if !cfg.Owned {
		lock.Close()
		return c, nil
	}
	c.lock = lock
	return c, nil
}

// existing returns the cluster if it is up and as wanted, nil if it isn't up. The lock is held.
func (c *Cluster) existing() (*Cluster, error) {
	up, err := Open(c.Config.Root, c.Config.Name)
	if errors.Is(err, ErrNoCluster) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := up.cloud.PID(); err != nil {
		return nil, nil //nolint:nilerr // the computer was rebooted, or somebody killed it: what is left is removed and made anew
	}
	if describe(up.Config) != describe(c.Config) {
		return nil, fmt.Errorf("cluster %q %w", c.Config.Name, ErrDifferent)
	}
	return up, nil
}

// bringUp makes the cluster in a directory that it empties first. The lock, which is in that directory, is replaced.
func (c *Cluster) bringUp(ctx context.Context, lock **os.File) error {
	if err := destroy(c.Config.Root, c.Config.Name); err != nil {
		return err
	}
	(*lock).Close()
	var err error
	if *lock, err = lockDir(c.dir, lockPatience); err != nil {
		return err
	}
	if err := c.writeRecord(false); err != nil {
		return err
	}
	if c.Config.Owned {
		if c.given, c.owner, err = os.Pipe(); err != nil {
			return err
		}
	}
	begun := time.Now()
	step := func(name string) {
		c.Config.Log.Info("coming up", "done", name, "after", time.Since(begun).Round(100*time.Millisecond))
	}
	if err := c.buildOwn(ctx); err != nil {
		return err
	}
	if err := c.writeImages(); err != nil {
		return err
	}
	if err := c.makeKeys(); err != nil {
		return err
	}
	if err := c.readCredentials(); err != nil {
		return err
	}
	step("programs and keys")
	if err := c.startCloud(ctx); err != nil {
		return err
	}
	if err := c.startAll(ctx, step); err != nil {
		return err
	}
	if err := c.awaitReady(ctx); err != nil {
		return err
	}
	step("nodes")
	return c.writeRecord(true)
}

// startCloud starts the cloud's machine and its bridge; no service yet.
func (c *Cluster) startCloud(ctx context.Context) error {
	if err := c.cloud.Start(ctx, c.Program("pid1"), c.given); err != nil {
		return err
	}
	wire, err := c.wire()
	if err != nil {
		return err
	}
	if err := wire.Create(ctx); err != nil {
		return err
	}
	if err := c.writeCloud(); err != nil {
		return err
	}
	return c.cloud.Define(ctx, c.cloudServices())
}

// startAll starts everything, the nodes up to their container runtime while the API server comes up.
func (c *Cluster) startAll(ctx context.Context, step func(string)) error {
	control := make(chan string, len(c.nodes)) // kube-proxy's token, once for each node
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := c.cloud.Boot(ctx, ""); err != nil {
			return err
		}
		token, err := c.bootstrap(ctx)
		if err != nil {
			return err
		}
		step("control plane")
		for range c.nodes {
			control <- token
		}
		return nil
	})
	for _, n := range c.nodes {
		group.Go(func() error {
			if err := n.start(ctx); err != nil {
				return err
			}
			if err := n.writeFiles(); err != nil {
				return err
			}
			if err := n.bootRuntime(ctx); err != nil {
				return err
			}
			select {
			case token := <-control:
				if err := n.writeKubeProxyConf(token); err != nil {
					return err
				}
				return n.Machine.Boot(ctx, "")
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}
	return group.Wait()
}

// bootRuntime starts the container runtime with its images, where there is one.
func (n *Node) bootRuntime(ctx context.Context) error {
	if n.Config.Alone {
		return nil
	}
	if err := n.Machine.Boot(ctx, Containerd); err != nil {
		return err
	}
	return n.LoadImages(ctx, n.cluster.imagesFile())
}

// awaitReady waits until all nodes are ready, and their DNS if they have it.
func (c *Cluster) awaitReady(ctx context.Context) error {
	client, err := c.Client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not ready within 3 minutes"))
	defer cancel()
	for {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil {
			err = c.unready(nodes.Items)
		}
		if err == nil && c.Config.DNS {
			err = c.dnsUnready(ctx, client)
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for nodes: %w: %w (logs are in %s)", context.Cause(ctx), err, c.LogDir())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *Cluster) unready(nodes []corev1.Node) error {
	ready := map[string]bool{}
	for _, n := range nodes {
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				ready[n.Name] = true
			}
		}
	}
	for _, n := range c.nodes {
		if !ready[n.Config.Name] && !n.Config.Alone {
			return fmt.Errorf("node %s is not ready", n.Config.Name)
		}
	}
	return nil
}

// FindCheckout returns the directory of the main module that the working directory is in.
func FindCheckout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if data, err := os.ReadFile(filepath.Join(dir, "go.mod")); err == nil && isMainModule(string(data)) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the checkout above %s: there is no go.mod of module yurt; run this inside of it", start)
		}
	}
}
