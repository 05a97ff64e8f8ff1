package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"yurt/internal/playground/component"
	"yurt/internal/playground/host"
	"yurt/internal/playground/machine"
	"yurt/internal/playground/proc"
)

// The services of a node and of the cloud, by name.
const (
	Containerd        = "containerd"
	YurtHub           = "yurthub"
	Kubelet           = "kubelet"
	KubeProxy         = "kube-proxy"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Etcd              = "etcd"
)

// hubPatience is how long the kubelet waits for the hub, as its unit would: it starts anyway.
const hubPatience = 5 * time.Second

// Node is a machine that runs pods. Its services are containerd, yurthub where it has one, kubelet and kube-proxy.
type Node struct {
	*machine.Machine
	Config  NodeConfig
	cluster *Cluster
	index   int
}

// Address returns the node's IP address.
func (n *Node) Address() string { return nodeAddress(n.index).String() }

// PowerCut ends everything on the node at once. What is on its disk stays, what it held in memory is gone. The link stays as it is.
//
// The computer's own page cache survives: what a program wrote and did not sync is still there after Boot.
func (n *Node) PowerCut() error { return n.PowerOff() }

// Boot starts the node, with a boot id of its own, and returns when all its services were started. It is no error if it runs; then
// those that were stopped are started.
func (n *Node) Boot(ctx context.Context) error {
	if _, err := n.PID(); errors.Is(err, machine.ErrOff) {
		if err := n.start(ctx); err != nil {
			return err
		}
	}
	return n.Machine.Boot(ctx, "")
}

// start boots the machine as far as to its link. No service runs yet.
func (n *Node) start(ctx context.Context) error {
	if err := n.Start(ctx, n.cluster.Program("pid1"), n.cluster.given); err != nil {
		return err
	}
	err := n.connect(ctx)
	if err == nil {
		err = n.Define(ctx, n.services())
	}
	if err != nil { // half a start is none
		return errors.Join(err, n.PowerOff())
	}
	return nil
}

// connect makes the node's link.
func (n *Node) connect(ctx context.Context) error {
	link, err := n.link()
	if err != nil {
		return err
	}
	condition, err := n.Link()
	if err != nil {
		return err
	}
	if err := link.Create(ctx, condition); err != nil {
		return fmt.Errorf("connect node %s: %w", n.Config.Name, err)
	}
	return nil
}

// services returns what the node runs, in order.
func (n *Node) services() []proc.Service {
	cfg := n.Config
	var services []proc.Service
	if !cfg.Alone {
		services = append(services, proc.Service{
			Name:     Containerd,
			Argv:     component.Containerd{}.Argv(),
			Ready:    proc.Probe{Unix: component.ContainerdSocket},
			Patience: 30 * time.Second,
		})
	}
	if cfg.Hub {
		services = append(services, proc.Service{
			Name:     YurtHub,
			Argv:     component.YurtHub{Node: cfg.Name, ExtraArgs: cfg.HubArgs}.Argv(),
			Env:      cfg.HubEnv,
			Ready:    proc.Probe{HTTP: component.YurtHubReady},
			Patience: hubPatience,
		})
	}
	if cfg.Alone {
		return services
	}
	kubelet := n.kubelet()
	return append(services,
		proc.Service{Name: Kubelet, Argv: kubelet.Argv()},
		proc.Service{Name: KubeProxy, Argv: component.KubeProxy{Node: cfg.Name, ExtraArgs: cfg.KubeProxyArgs}.Argv()},
	)
}

// kubelet returns the node's kubelet. Each node is a zone of its own: in a zone where most nodes are lost, the stock control plane
// stops evicting.
func (n *Node) kubelet() component.Kubelet {
	labels := map[string]string{"topology.kubernetes.io/zone": n.Config.Name}
	maps.Copy(labels, n.Config.Labels)
	return component.Kubelet{
		Node: n.Config.Name, Address: n.Address(), Labels: labels, CgroupRoot: "/" + n.ID,
		Extra: n.Config.KubeletConfig, ExtraArgs: n.Config.KubeletArgs,
	}
}

// writeFiles puts the node's files on its disk.
func (n *Node) writeFiles() error {
	name := n.Config.Name
	snapshotter, err := host.Snapshotter(n.cluster.dir)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(n.cluster.dir, "pki", "ca.crt"))
	if err != nil {
		return err
	}
	cert, err := n.clientCert()
	if err != nil {
		return err
	}
	cloud := component.Kubeconfig{
		Server: n.cluster.APIServerURLs()[0],
		CA:     component.CAFile,
		Cert:   component.KubeletCert,
		Key:    component.KubeletCert,
	}
	// The kubelet keeps each certificate in a file of its own, and refers to the current one.
	first := "kubelet-client-" + time.Now().Format("2006-01-02-15-04-05") + ".pem"
	files := map[string][]byte{
		component.CAFile:           ca,
		component.ContainerdConfig: component.Containerd{Snapshotter: snapshotter, SandboxImage: PauseImage}.Config(),
		component.CNIConfig:        component.CNI{Subnet: podSubnet(n.index).String()}.Config(),
		component.KubeletConfig:    n.kubelet().Config(),
		component.KubeProxyConfig:  component.KubeProxy{Node: name}.Config(),
		component.ResolvConf:       []byte("nameserver " + component.DNSAddress + "\n"),
		filepath.Join(filepath.Dir(component.KubeletCert), first): cert,
	}
	kubelet := cloud
	if n.Config.Hub {
		files[component.YurtHubConf] = cloud.YAML()
		kubelet.Server, kubelet.CA = component.YurtHubURL, component.YurtHubCA
	}
	files[component.KubeletConf] = kubelet.YAML()
	dns := component.Kubeconfig{Server: kubelet.Server, CA: component.CoreDNSCA, TokenFile: podToken}
	files[component.CoreDNSConf] = dns.YAML()
	if err := writeFiles(n.Path, files); err != nil {
		return fmt.Errorf("write files of node %s: %w", name, err)
	}
	for link, target := range map[string]string{component.KubeletCert: first, component.CoreDNSCA: kubelet.CA} {
		if err := os.Symlink(target, n.Path(link)); err != nil {
			return err
		}
	}
	return os.MkdirAll(n.Path(component.StaticPods), 0o755)
}

// clientCert returns the kubelet's first client certificate and its key, in one file.
func (n *Node) clientCert() ([]byte, error) {
	var parts [][]byte
	for _, suffix := range []string{".crt", ".key"} {
		data, err := os.ReadFile(filepath.Join(n.cluster.dir, "pki", "node-"+n.Config.Name+suffix))
		if err != nil {
			return nil, err
		}
		parts = append(parts, data)
	}
	return bytes.Join(parts, nil), nil
}

// writeKubeProxyConf gives kube-proxy its token. It is a service account's, so it is to be had only when the API server is up.
func (n *Node) writeKubeProxyConf(token string) error {
	conf := component.Kubeconfig{Server: n.cluster.APIServerURLs()[0], CA: component.CAFile, Token: token}
	if n.Config.Hub {
		conf.Server, conf.CA = component.YurtHubURL, component.YurtHubCA
	}
	return writeFiles(n.Path, map[string][]byte{component.KubeProxyConf: conf.YAML()})
}
