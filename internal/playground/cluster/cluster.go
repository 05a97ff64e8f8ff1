// Package cluster runs a whole Kubernetes on one computer: a cloud with the stock control plane, and nodes with the stock kubelet,
// kube-proxy and containerd, each a machine of its own whose link and power can fail.
//
// A cluster outlives the process that brings it up, unless that process owns it; any process may open it by its name. Everything
// that a cluster has is in one directory, in processes that are found by its name, and in control groups of its name, so that Down
// leaves nothing, even of a cluster whose maker crashed half-way. Clusters of different names share nothing.
//
// It never changes the computer's own network, mounts or settings.
package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cgroup"
	"yurt/internal/playground/component"
	"yurt/internal/playground/machine"
	"yurt/internal/playground/netns"
)

// Cluster is a handle on a cluster that is up.
type Cluster struct {
	Config   Config
	dir      string
	programs binaries.Set
	cloud    *machine.Machine
	nodes    []*Node

	credentials rest.TLSClientConfig   // the administrator's
	admin       func() (*admin, error) // made once, when first needed

	lock  *os.File // held by the owner for as long as it lives
	owner *os.File // the owner's side of the pipe at whose end the machines end
	given *os.File // the machines' side of it
}

// admin is the administrator's client and its connections.
type admin struct {
	client kubernetes.Interface
	http   *http.Client
}

// record is what is kept of a cluster in its directory.
type record struct {
	Config   Config       `json:"config"`
	Programs binaries.Set `json:"programs"`
	Complete bool         `json:"complete"` // Up came to its end
}

const recordFile = "cluster.json"

// Open returns a handle on the named cluster, which another process may have brought up, in the directory root (DefaultRoot if
// empty). ErrNoCluster if there is none.
func Open(root, name string) (*Cluster, error) {
	if root == "" {
		root = DefaultRoot
	}
	if err := validateName("cluster", name); err != nil {
		return nil, err
	}
	dir := filepath.Join(root, name)
	rec, err := readRecord(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !rec.Complete {
		return nil, fmt.Errorf("open cluster %q: %w", name, ErrNoCluster)
	}
	if err != nil {
		return nil, fmt.Errorf("open cluster %q: %w", name, err)
	}
	cfg := rec.Config
	cfg.Root = root
	c := assemble(cfg.withDefaults(), rec.Programs)
	if err := c.readCredentials(); err != nil {
		return nil, fmt.Errorf("open cluster %q: %w", name, err)
	}
	return c, nil
}

// Names returns the names of the clusters in the directory root (DefaultRoot if empty), half-made ones included.
func Names(root string) ([]string, error) {
	if root == "" {
		root = DefaultRoot
	}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list clusters: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// assemble makes the handle; nothing is started.
func assemble(cfg Config, programs binaries.Set) *Cluster {
	c := &Cluster{Config: cfg, dir: filepath.Join(cfg.Root, cfg.Name), programs: programs}
	c.cloud = c.machine(cloudName)
	c.admin = sync.OnceValues(c.newAdmin)
	for i, n := range cfg.Nodes {
		c.nodes = append(c.nodes, &Node{Machine: c.machine(n.Name), Config: n, cluster: c, index: i})
	}
	return c
}

func (c *Cluster) machine(name string) *machine.Machine {
	return machine.New(machine.Spec{
		ID:       machineID(c.Config.Name, name),
		Hostname: name,
		Programs: append([]string{c.binDir()}, c.programs...),
		Dir:      filepath.Join(c.dir, "machines", name),
		Logs:     filepath.Join(c.LogDir(), name),
	})
}

func (c *Cluster) binDir() string { return filepath.Join(c.dir, "bin") }

// LogDir returns the directory that has the logs: one directory for each machine, in it one file for each service.
func (c *Cluster) LogDir() string { return filepath.Join(c.dir, "logs") }

// KeepLogs copies the logs to a new directory, where they outlive the cluster.
func (c *Cluster) KeepLogs() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "yurt-logs-"+c.Config.Name+"-"); err != nil {
		return "", err
	}
	return dir, os.CopyFS(dir, os.DirFS(c.LogDir()))
}

// Cloud returns the machine of the control plane. Its services are etcd, kube-apiserver (kube-apiserver-2 and so on for further
// ones), kube-controller-manager and kube-scheduler.
func (c *Cluster) Cloud() *machine.Machine { return c.cloud }

// Nodes returns all nodes.
func (c *Cluster) Nodes() []*Node { return slices.Clone(c.nodes) }

// Node returns the named node, ErrNoNode if there is none.
func (c *Cluster) Node(name string) (*Node, error) {
	for _, n := range c.nodes {
		if n.Config.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("find node %q: %w", name, ErrNoNode)
}

// Program returns the file of a program that the cluster runs, such as kubectl.
func (c *Cluster) Program(name string) string {
	return append(binaries.Set{c.binDir()}, c.programs...).Path(name)
}

// APIServerURLs returns the URL of each API server, as nodes reach it.
func (c *Cluster) APIServerURLs() []string {
	var urls []string
	for i := range c.Config.APIServers {
		urls = append(urls, component.APIServerURL(cloudAddress(i).String()))
	}
	return urls
}

// RESTConfig returns how the administrator reaches the first API server from this process.
func (c *Cluster) RESTConfig() *rest.Config {
	return &rest.Config{Host: c.APIServerURLs()[0], TLSClientConfig: c.credentials, Dial: c.cloud.Dial, QPS: -1}
}

// readCredentials reads the administrator's credentials: their content, because files client-go would watch for ever.
func (c *Cluster) readCredentials() error {
	for name, data := range map[string]*[]byte{
		"ca.crt": &c.credentials.CAData, "admin.crt": &c.credentials.CertData, "admin.key": &c.credentials.KeyData,
	} {
		var err error
		if *data, err = os.ReadFile(filepath.Join(c.dir, "pki", name)); err != nil {
			return fmt.Errorf("read the administrator's credentials: %w", err)
		}
	}
	return nil
}

// Client returns the administrator's client.
func (c *Cluster) Client() (kubernetes.Interface, error) {
	a, err := c.admin()
	if err != nil {
		return nil, fmt.Errorf("make client of cluster %q: %w", c.Config.Name, err)
	}
	return a.client, nil
}

func (c *Cluster) newAdmin() (*admin, error) {
	cfg := c.RESTConfig()
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, err
	}
	return &admin{client: client, http: httpClient}, nil
}

// Kubectl returns a run of kubectl as the administrator. It sees the computer's files and the cloud's network.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (*exec.Cmd, error) {
	pid, err := c.cloud.PID()
	if err != nil {
		return nil, fmt.Errorf("run kubectl in %s: %w", cloudName, err)
	}
	argv := []string{"--net=/proc/" + strconv.Itoa(pid) + "/ns/net", "--", c.Program("kubectl"), "--kubeconfig", c.adminConf()}
	return exec.CommandContext(ctx, "nsenter", append(argv, args...)...), nil
}

func (c *Cluster) adminConf() string { return filepath.Join(c.dir, "admin.conf") }

// Down ends the cluster and removes all of it.
func (c *Cluster) Down() error {
	defer c.Close()
	if c.lock == nil {
		return Down(c.Config.Root, c.Config.Name)
	}
	return destroy(c.Config.Root, c.Config.Name)
}

// Close gives up the handle and its connections. The cluster goes on, unless this is its owner's handle.
func (c *Cluster) Close() {
	if a, err := c.admin(); err == nil {
		utilnet.CloseIdleConnectionsFor(a.http.Transport)
	}
	for _, f := range []*os.File{c.owner, c.given, c.lock} {
		if f != nil {
			f.Close()
		}
	}
	c.owner, c.given, c.lock = nil, nil, nil
}

// Down ends the named cluster and removes all of it, or what is left of it, in the directory root (DefaultRoot if empty). It is no
// error if there is none. ErrInUse if another process is at it or owns it.
func Down(root, name string) error {
	if root == "" {
		root = DefaultRoot
	}
	if err := validateName("cluster", name); err != nil {
		return err
	}
	lock, err := lockDir(filepath.Join(root, name), lockPatience)
	if err != nil {
		return fmt.Errorf("take cluster %q down: %w", name, err)
	}
	defer lock.Close()
	return destroy(root, name)
}

// destroy kills and removes everything of a cluster. The cluster's lock is held.
//
// What a process had under way that died with the lock in its hand may go on for a moment; so it is looked for again.
func destroy(root, name string) error {
	for attempt := 0; ; attempt++ {
		err := destroyOnce(root, name)
		if err == nil && len(machine.Running(machinePrefix(name))) == 0 {
			return nil
		}
		if attempt == 20 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func destroyOnce(root, name string) error {
	prefix := machinePrefix(name)
	for _, id := range machine.Running(prefix) {
		if err := machine.New(machine.Spec{ID: id}).PowerOff(); err != nil {
			return err
		}
	}
	groups, err := cgroup.Open()
	if err != nil {
		return err
	}
	leftover, err := groups.Names(prefix)
	if err != nil {
		return err
	}
	for _, group := range leftover {
		if err := groups.Remove(group); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
		return fmt.Errorf("remove cluster %q: %w", name, err)
	}
	return nil
}

// sweep removes the clusters whose owner is dead, and those that died before they were told apart.
func sweep(root string) error {
	names, err := Names(root)
	if err != nil {
		return err
	}
	for _, name := range names {
		dir := filepath.Join(root, name)
		rec, err := readRecord(dir)
		if err == nil && !rec.Config.Owned || err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		lock, err := lockDir(dir, 0)
		if errors.Is(err, ErrInUse) {
			continue
		}
		if err != nil {
			return err
		}
		err = destroy(root, name)
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove the cluster of a dead owner: %w", err)
		}
	}
	return nil
}

func readRecord(dir string) (record, error) {
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return record{}, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return record{}, fmt.Errorf("read %s: %w", filepath.Join(dir, recordFile), err)
	}
	return rec, nil
}

func (c *Cluster) writeRecord(complete bool) error {
	data, err := json.MarshalIndent(record{Config: c.Config, Programs: c.programs, Complete: complete}, "", "  ")
	if err != nil {
		return err
	}
	temp := filepath.Join(c.dir, recordFile+".tmp")
	if err := os.WriteFile(temp, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(c.dir, recordFile))
}

// wire returns the cloud's namespace as the links need it.
func (c *Cluster) wire() (netns.Cloud, error) {
	pid, err := c.cloud.PID()
	if err != nil {
		return netns.Cloud{}, fmt.Errorf("%s: %w", cloudName, err)
	}
	w := netns.Cloud{PID: pid}
	for i := range c.Config.APIServers {
		w.Addresses = append(w.Addresses, onLink(cloudAddress(i)))
	}
	return w, nil
}

// describe returns a config as far as two configs may not differ in it when the same cluster is asked for again.
func describe(c Config) string {
	data, err := json.Marshal(c)
	if err != nil {
		panic("cluster: config that is no JSON: " + err.Error())
	}
	return strings.TrimSpace(string(data))
}
