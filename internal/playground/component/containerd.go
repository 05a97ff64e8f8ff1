package component

import "fmt"

const (
	ContainerdSocket = "/run/containerd/containerd.sock"
	ContainerdConfig = "/etc/containerd/config.toml"
)

// Containerd is the container runtime of a node.
type Containerd struct {
	Snapshotter  string
	SandboxImage string
}

// Argv returns the command line.
func (c Containerd) Argv() []string {
	return []string{"containerd", "--config=" + ContainerdConfig}
}

// Config returns its configuration file. Debian has the CNI plugins in /usr/lib/cni. Not every root may lower the OOM score
// (CAP_SYS_RESOURCE), hence restrict_oom_score_adj.
func (c Containerd) Config() []byte {
	return fmt.Appendf(nil, `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "%[1]s"

[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "%[2]s"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "%[3]s"

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "%[2]s"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
`, ContainerdSocket, c.Snapshotter, c.SandboxImage)
}
