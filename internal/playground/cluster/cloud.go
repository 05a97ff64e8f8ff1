package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"yurt/internal/playground/component"
	"yurt/internal/playground/pki"
	"yurt/internal/playground/proc"
)

// cloudServices returns what the cloud's machine runs, in order.
func (c *Cluster) cloudServices() []proc.Service {
	services := []proc.Service{{
		Name:     "etcd",
		Argv:     component.Etcd{ExtraArgs: c.Config.EtcdArgs}.Argv(),
		Ready:    proc.Probe{HTTP: component.EtcdURL + "/health"},
		Patience: 30 * time.Second,
	}}
	for i, url := range c.APIServerURLs() {
		s := component.KubeAPIServer{
			Address:           cloudAddress(i).String(),
			AuditLog:          auditLog(i),
			TolerationSeconds: c.Config.TolerationSeconds,
			ExtraArgs:         c.Config.APIServerArgs,
		}
		services = append(services, proc.Service{
			Name:     APIServer(i),
			Argv:     s.Argv(),
			Ready:    proc.Probe{HTTP: url + "/readyz"},
			Patience: time.Minute,
		})
	}
	manager := component.KubeControllerManager{
		MonitorPeriod: c.Config.MonitorPeriod, MonitorGrace: c.Config.MonitorGrace, ExtraArgs: c.Config.ControllerManagerArgs,
	}
	return append(services,
		proc.Service{Name: ControllerManager, Argv: manager.Argv()},
		proc.Service{Name: Scheduler, Argv: component.KubeScheduler{ExtraArgs: c.Config.SchedulerArgs}.Argv()},
	)
}

// APIServer returns the name of the service of the API server with an index from 0.
func APIServer(i int) string {
	if i == 0 {
		return "kube-apiserver"
	}
	return "kube-apiserver-" + strconv.Itoa(i+1)
}

func auditLog(i int) string {
	if i == 0 {
		return component.AuditLog
	}
	return fmt.Sprintf("/logs/audit-%d.log", i+1)
}

// makeKeys makes all keys and certificates of the cluster, in a directory of the computer.
func (c *Cluster) makeKeys() error {
	dir := filepath.Join(c.dir, "pki")
	ca, err := pki.NewAuthority("kubernetes")
	if err != nil {
		return err
	}
	if err := ca.Write(dir, "ca"); err != nil {
		return err
	}
	private, public, err := pki.NewSigningKey()
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"sa.key": private, "sa.pub": public} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	subjects := map[string]pki.Subject{
		"admin":                    {Name: "kubernetes-admin", Groups: []string{"system:masters"}},
		"apiserver-kubelet-client": {Name: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}},
		"controller-manager":       {Name: "system:kube-controller-manager"},
		"scheduler":                {Name: "system:kube-scheduler"},
		"apiserver":                {Name: "kube-apiserver", Hosts: c.apiServerHosts()},
	}
	for _, n := range c.nodes {
		subjects["node-"+n.Config.Name] = pki.Subject{Name: "system:node:" + n.Config.Name, Groups: []string{"system:nodes"}}
	}
	for name, subject := range subjects {
		pair, err := ca.Issue(subject)
		if err != nil {
			return err
		}
		if err := pair.Write(dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) apiServerHosts() []string {
	hosts := []string{"localhost", "127.0.0.1", component.KubernetesIP, "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + component.ClusterDomain}
	for i := range maxAPIServers {
		hosts = append(hosts, cloudAddress(i).String())
	}
	return hosts
}

// writeCloud puts the files of the control plane on the cloud's disk.
func (c *Cluster) writeCloud() error {
	files := map[string][]byte{component.AuditPolicyFile: component.AuditPolicy()}
	for _, name := range []string{
		"ca.crt", "ca.key", "sa.key", "sa.pub", "apiserver.crt", "apiserver.key", "apiserver-kubelet-client.crt",
		"apiserver-kubelet-client.key", "controller-manager.crt", "controller-manager.key", "scheduler.crt", "scheduler.key",
	} {
		data, err := os.ReadFile(filepath.Join(c.dir, "pki", name))
		if err != nil {
			return err
		}
		files[filepath.Join(component.PKI, name)] = data
	}
	for file, name := range map[string]string{
		component.ControllerManagerConf: "controller-manager", component.SchedulerConf: "scheduler",
	} {
		files[file] = c.kubeconfig(component.PKI, name).YAML()
	}
	if err := os.WriteFile(c.adminConf(), c.kubeconfig(filepath.Join(c.dir, "pki"), "admin").YAML(), 0o600); err != nil {
		return err
	}
	return writeFiles(c.cloud.Path, files)
}

// kubeconfig returns the kubeconfig of somebody who has a certificate of a name in a directory.
func (c *Cluster) kubeconfig(dir, name string) component.Kubeconfig {
	return component.Kubeconfig{
		Server: c.APIServerURLs()[0],
		CA:     filepath.Join(dir, "ca.crt"),
		Cert:   filepath.Join(dir, name+".crt"),
		Key:    filepath.Join(dir, name+".key"),
	}
}

// writeFiles writes files to a machine's disk, readable by root alone: many of them hold keys.
func writeFiles(path func(string) string, files map[string][]byte) error {
	for name, data := range files {
		file := path(name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
