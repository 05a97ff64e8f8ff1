package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"yurt/internal/playground/image"
)

// The images that every node has. The workload has two versions, so that there is something to roll out.
const (
	PauseImage     = "localhost/yurt/pause:1"
	WorkloadImage  = "localhost/yurt/workload:1"
	WorkloadImage2 = "localhost/yurt/workload:2"
	WorkloadPath   = "/workload" // of the program in them
	dnsImage       = "localhost/yurt/coredns:1"
)

func isMainModule(gomod string) bool {
	first, _, _ := strings.Cut(gomod, "\n")
	return strings.TrimSpace(first) == "module yurt"
}

// buildOwn builds what the cluster runs of this checkout itself, as it is now.
func (c *Cluster) buildOwn(ctx context.Context) error {
	packages := []string{"./internal/playground/pid1", "./internal/playground/workload"}
	if hub := slices.ContainsFunc(c.Config.Nodes, func(n NodeConfig) bool { return n.Hub }); hub && c.Config.HubProgram == "" {
		packages = append(packages, "./cmd/yurthub")
	}
	args := append([]string{"build", "-trimpath", "-ldflags", "-s -w", "-o", c.binDir() + "/"}, packages...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.Config.Checkout
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w:\n%s", strings.Join(packages, " "), err, strings.TrimSpace(string(out)))
	}
	if c.Config.HubProgram == "" {
		return nil
	}
	return c.UseHub(c.Config.HubProgram)
}

// UseHub makes a file the yurthub of all nodes, from its next start on.
func (c *Cluster) UseHub(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("replace yurthub: %w", err)
	}
	temp := filepath.Join(c.binDir(), "yurthub.tmp")
	if err := os.WriteFile(temp, data, 0o755); err != nil {
		return fmt.Errorf("replace yurthub: %w", err)
	}
	return os.Rename(temp, filepath.Join(c.binDir(), "yurthub"))
}

func (c *Cluster) imagesFile() string { return filepath.Join(c.dir, "images.tar") }

// writeImages makes the images that every node gets.
func (c *Cluster) writeImages() error {
	f, err := os.Create(c.imagesFile())
	if err != nil {
		return err
	}
	workload := func(name, version string, args ...string) image.Config {
		return image.Config{
			Name: name, Program: filepath.Join(c.binDir(), "workload"), Path: WorkloadPath, Args: args,
			Env: []string{"WORKLOAD_VERSION=" + version}, Version: version,
		}
	}
	images := []image.Config{
		workload(PauseImage, "1", "pause"), workload(WorkloadImage, "1", "serve"), workload(WorkloadImage2, "2", "serve"),
	}
	if c.Config.DNS {
		images = append(images, image.Config{Name: dnsImage, Program: c.Program("coredns"), Path: "/coredns", Version: "1"})
	}
	if err := image.Write(f, images...); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// LoadImages gives the node the images of a tar file, as image.Write makes it.
func (n *Node) LoadImages(ctx context.Context, file string) error {
	cmd, err := n.Command(ctx, "ctr", "--namespace=k8s.io", "images", "import", "--local", "-")
	if err != nil {
		return err
	}
	tar, err := os.Open(file)
	if err != nil {
		return err
	}
	defer tar.Close()
	cmd.Stdin = tar
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load images of %s on node %s: %w: %s", file, n.Config.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
