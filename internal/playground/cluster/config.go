package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"time"

	"yurt/internal/playground/binaries"
)

// DefaultRoot is where clusters are kept.
const DefaultRoot = "/var/lib/yurt-playground"

// Config says what a cluster is. The zero value of a field stands for its default.
type Config struct {
	Name  string       `json:"name"` // a new one if empty
	Nodes []NodeConfig `json:"nodes"`

	// Owned makes the cluster live as long as the process that brings it up, even if that crashes. Otherwise it runs until Down.
	Owned bool `json:"owned,omitempty"`

	Kubernetes string `json:"kubernetes"`           // release, such as "1.37"
	APIServers int    `json:"apiServers,omitempty"` // how many; 1

	// DNS runs CoreDNS on each node, as a pod of a DaemonSet on the node's own network. It talks to the cloud as the node's other
	// components do, through YurtHub where there is one, and answers the pods of its own node only.
	DNS bool `json:"dns,omitempty"`

	// How fast the stock control plane gives up on a node. The defaults make an outage as short as a test.
	MonitorPeriod     time.Duration `json:"monitorPeriod,omitempty"`     // 2 s
	MonitorGrace      time.Duration `json:"monitorGrace,omitempty"`      // 20 s
	TolerationSeconds int           `json:"tolerationSeconds,omitempty"` // 20

	APIServerArgs         []string `json:"apiServerArgs,omitempty"`
	ControllerManagerArgs []string `json:"controllerManagerArgs,omitempty"`
	SchedulerArgs         []string `json:"schedulerArgs,omitempty"`
	EtcdArgs              []string `json:"etcdArgs,omitempty"`

	HubProgram string `json:"hubProgram,omitempty"` // a file; built from the checkout if empty

	Root     string `json:"-"` // directory of all clusters; DefaultRoot
	Checkout string `json:"-"` // directory of the main module; found above the working directory if empty

	Log      *slog.Logger       `json:"-"` // of what happens to the cluster; none if nil
	Progress *binaries.Progress `json:"-"` // of building; none if nil
}

// NodeConfig says what a node is.
type NodeConfig struct {
	Name   string            `json:"name"`
	Hub    bool              `json:"hub,omitempty"`   // the node's components talk to the cloud through YurtHub
	Alone  bool              `json:"alone,omitempty"` // YurtHub is all that runs there: no kubelet, so no Node either
	Labels map[string]string `json:"labels,omitempty"`

	HubArgs       []string       `json:"hubArgs,omitempty"`
	HubEnv        []string       `json:"hubEnv,omitempty"`
	KubeletArgs   []string       `json:"kubeletArgs,omitempty"`
	KubeletConfig map[string]any `json:"kubeletConfig,omitempty"` // fields that are other than usual
	KubeProxyArgs []string       `json:"kubeProxyArgs,omitempty"`
}

const (
	maxNodes      = 200 // a /24 of pods each
	maxAPIServers = 9
	cloudName     = "cloud"
)

func (c Config) withDefaults() Config {
	setDefault := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	setDefault(&c.MonitorPeriod, 2*time.Second)
	setDefault(&c.MonitorGrace, 20*time.Second)
	if c.TolerationSeconds == 0 {
		c.TolerationSeconds = 20
	}
	if c.Kubernetes == "" {
		c.Kubernetes = binaries.DefaultKubernetes()
	}
	if c.APIServers == 0 {
		c.APIServers = 1
	}
	if c.Root == "" {
		c.Root = DefaultRoot
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) validate() error {
	if err := validateName("cluster", c.Name); err != nil {
		return err
	}
	if len(c.Nodes) > maxNodes {
		return fmt.Errorf("%d nodes: a playground has at most %d", len(c.Nodes), maxNodes)
	}
	if c.APIServers < 0 || c.APIServers > maxAPIServers {
		return fmt.Errorf("%d API servers: a playground has 1 to %d", c.APIServers, maxAPIServers)
	}
	seen := map[string]bool{cloudName: true}
	for _, n := range c.Nodes {
		if err := validateName("node", n.Name); err != nil {
			return err
		}
		if n.Alone && !n.Hub {
			return fmt.Errorf("node %q: is nothing without YurtHub if that is to be alone there", n.Name)
		}
		if seen[n.Name] {
			return fmt.Errorf("node name %q: is taken", n.Name)
		}
		seen[n.Name] = true
	}
	return nil
}

// validateName keeps names such that a machine's ID, made of the cluster's and its own, can be taken apart again.
func validateName(what, name string) error {
	if !regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$`).MatchString(name) {
		return fmt.Errorf("%s name %q: must be at most 40 lower-case letters, digits and inner dashes", what, name)
	}
	return nil
}

func machinePrefix(cluster string) string      { return "yurt." + cluster + "." }
func machineID(cluster, machine string) string { return machinePrefix(cluster) + machine }

// cloudAddress returns the address of the API server with an index from 0.
func cloudAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 0, byte(1 + i)}) }

// nodeAddress returns the address of the node with an index from 0.
func nodeAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 99, 1, byte(1 + i)}) }

// podSubnet returns the addresses of the pods of the node with an index from 0.
func podSubnet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(1 + i), 0}), 24)
}

// onLink returns an address with the prefix of the network that connects cloud and nodes.
func onLink(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 16) }

var (
	// ErrNoCluster says that there is no cluster of that name.
	ErrNoCluster = errors.New("no such cluster")
	// ErrNoNode says that a cluster has no node of that name.
	ErrNoNode = errors.New("no such node")
	// ErrInUse says that another process is bringing the cluster up or down, or owns it.
	ErrInUse = errors.New("in use by another process")
	// ErrDifferent says that a cluster of that name is up already, but another one.
	ErrDifferent = errors.New("is up already, with other nodes or settings")
)
