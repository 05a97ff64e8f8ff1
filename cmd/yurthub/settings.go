package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yurt/internal/config"
	"yurt/internal/filter"
	"yurt/internal/hub"
	"yurt/internal/keyring"
	"yurt/internal/logging"
)

// settings are what the command line and the configuration file say.
type settings struct {
	file string
	hub  hub.Config
	log  logging.Flags
}

// format is that of the configuration file.
func format() config.Format {
	return config.Format{APIVersion: "yurthub.config/v1alpha1", Kind: "YurtHubConfiguration", Except: []string{"config", "help", "version"}}
}

func (s *settings) define(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&s.file, "config", "", "configuration file, which sets what flags do not; SIGHUP reads it again")
	f.StringVar(&s.hub.Kubeconfig, "kubeconfig", "", "kubeconfig of this node, for the hub's own way to the API server; followed when it or its certificate changes")
	f.StringArrayVar(&s.hub.Identities, "identity", nil, "NAME=KUBECONFIG of another component of this node with a client certificate of its own, such as kube-proxy=/etc/kubernetes/kube-proxy.conf; may be repeated. Components with tokens need none")
	f.StringSliceVar(&s.hub.Servers, "server-addr", nil, "addresses of API servers, like https://10.0.0.1:6443,https://10.0.0.2:6443, instead of the kubeconfig's")
	f.StringVar(&s.hub.LBMode, "lb-mode", "rr", "which of several API servers is asked: rr (each in its turn) or priority (the first that is well)")
	f.StringVar(&s.hub.NodeName, "node-name", "", "name of this node (default: the host's name)")
	f.StringVar(&s.hub.RootDir, "root-dir", "/var/lib/yurthub", "directory of the replica; must be on a disk that survives a reboot")
	f.StringVar(&s.hub.KeyFile, "encryption-key-file", "", "file with the key that seals the replica: 32 random bytes, raw or in base64; after a line with a new key it may have lines with older ones "+
		"(default: systemd's credential "+keyring.CredentialName+", else a key that is made in the root directory)")
	f.DurationVar(&s.hub.Retention, "retention", 7*24*time.Hour, "how long to keep what no client asks for; time in the dark does not count")
	f.Int64Var(&s.hub.MaxBytes, "store-max-bytes", 1<<30, "what collections may take on disk (0: no limit); what has not been used for longest goes first, never what kubelet and kube-proxy have")
	f.IntVar(&s.hub.MaxInFlight, "max-requests-in-flight", 250, "how many requests are answered at a time; a fifth is kept for the kubelet, a tenth is the most for any other client; watches, exec and logs are counted apart")
	f.StringVar(&s.hub.BindAddress, "bind-address", "127.0.0.1", "address of the listeners")
	f.IntVar(&s.hub.AdminPort, "serve-port", 10267, "port of /livez, /readyz, /metrics and /status")
	f.IntVar(&s.hub.SecurePort, "proxy-secure-port", 10268, "port of the proxy, with TLS")
	f.IntVar(&s.hub.ProxyPort, "proxy-port", 10261, "port of the plain proxy")
	f.BoolVar(&s.hub.Insecure, "enable-insecure-proxy", false, "open the plain proxy on loopback: whoever reaches it acts as the node")
	f.BoolVar(&s.hub.DisableOverlay, "disable-overlay", false, "while the cloud is away, refuse pod status and show Services with the addresses that their pods had before")
	f.BoolVar(&s.hub.DummyIf, "enable-dummy-if", false, "let pods of this node use the hub: make an interface, listen there with TLS, and lead pods to it by filters; needs CAP_NET_ADMIN")
	f.StringVar(&s.hub.DummyIfName, "dummy-if-name", "yurthub-dummy0", "name of that interface")
	f.StringSliceVar(&s.hub.DummyIPs, "dummy-if-ip", []string{"169.254.2.1"}, "its address, or one of IPv4 and one of IPv6; the port is --proxy-secure-port")
	f.StringVar(&s.hub.ClusterDomain, "cluster-domain", "cluster.local", "domain of the names of Services, for the certificate that pods see")
	f.StringSliceVar(&s.hub.DisabledFilters, "disabled-resource-filters", nil, "filters that shall not apply, of "+strings.Join(filter.Names(), ", "))
	s.log.Define(cmd)
}

// complete adds what the file says to what the command line has said, and checks all of it.
func (s *settings) complete(flags *pflag.FlagSet) error {
	if s.file == "" {
		return s.hub.Validate()
	}
	file, err := format().Read(s.file, flags)
	if err != nil {
		return err
	}
	return file.Explain(s.hub.Validate(), flags)
}
