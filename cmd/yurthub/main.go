// Command yurthub is the gateway of a node to its Kubernetes API server: it
// answers kubelet, kube-proxy and the others there from a durable local replica
// and keeps that up to date while there is a link.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"yurt/internal/failpoint"
	"yurt/internal/filter"
	"yurt/internal/hub"
	"yurt/internal/keyring"
	"yurt/internal/logging"
	"yurt/internal/systemd"
	"yurt/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "yurthub:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg hub.Config
	var log logging.Flags
	cmd := &cobra.Command{
		Use:           "yurthub --kubeconfig FILE",
		Short:         "Serve the Kubernetes API to this node from a durable replica",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := log.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			cfg.Logger, cfg.Version = logger, version.String()
			cfg.Credentials = os.Getenv("CREDENTIALS_DIRECTORY")
			return run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "kubeconfig of this node, for the hub's own way to the API server; followed when it or its certificate changes")
	f.StringArrayVar(&cfg.Identities, "identity", nil, "NAME=KUBECONFIG of another component of this node with a client certificate of its own, such as kube-proxy=/etc/kubernetes/kube-proxy.conf; may be repeated. Components with tokens need none")
	f.StringSliceVar(&cfg.Servers, "server-addr", nil, "addresses of API servers, like https://10.0.0.1:6443,https://10.0.0.2:6443, instead of the kubeconfig's")
	f.StringVar(&cfg.LBMode, "lb-mode", "rr", "which of several API servers is asked: rr (each in its turn) or priority (the first that is well)")
	f.StringVar(&cfg.NodeName, "node-name", "", "name of this node (default: the host's name)")
	f.StringVar(&cfg.RootDir, "root-dir", "/var/lib/yurthub", "directory of the replica; must be on a disk that survives a reboot")
	f.StringVar(&cfg.KeyFile, "encryption-key-file", "", "file with the key that seals the replica: 32 random bytes, raw or in base64; after a line with a new key it may have lines with older ones "+
		"(default: systemd's credential "+keyring.CredentialName+", else a key that is made in the root directory)")
	f.DurationVar(&cfg.Retention, "retention", 7*24*time.Hour, "how long to keep what no client asks for; time in the dark does not count")
	f.Int64Var(&cfg.MaxBytes, "store-max-bytes", 1<<30, "what collections may take on disk (0: no limit); what has not been used for longest goes first, never what kubelet and kube-proxy have")
	f.IntVar(&cfg.MaxInFlight, "max-requests-in-flight", 250, "how many requests are answered at a time; a fifth is kept for the kubelet, a tenth is the most for any other client; watches, exec and logs are counted apart")
	f.StringVar(&cfg.BindAddress, "bind-address", "127.0.0.1", "address of the listeners")
	f.IntVar(&cfg.AdminPort, "serve-port", 10267, "port of /livez, /readyz, /metrics and /status")
	f.IntVar(&cfg.SecurePort, "proxy-secure-port", 10268, "port of the proxy, with TLS")
	f.IntVar(&cfg.ProxyPort, "proxy-port", 10261, "port of the plain proxy")
	f.BoolVar(&cfg.Insecure, "enable-insecure-proxy", false, "open the plain proxy on loopback: whoever reaches it acts as the node")
	f.BoolVar(&cfg.DisableOverlay, "disable-overlay", false, "while the cloud is away, refuse pod status and show Services with the addresses that their pods had before")
	f.BoolVar(&cfg.DummyIf, "enable-dummy-if", false, "let pods of this node use the hub: make an interface, listen there with TLS, and lead pods to it by filters; needs CAP_NET_ADMIN")
	f.StringVar(&cfg.DummyIfName, "dummy-if-name", "yurthub-dummy0", "name of that interface")
	f.StringSliceVar(&cfg.DummyIPs, "dummy-if-ip", []string{"169.254.2.1"}, "its address, or one of IPv4 and one of IPv6; the port is --proxy-secure-port")
	f.StringVar(&cfg.ClusterDomain, "cluster-domain", "cluster.local", "domain of the names of Services, for the certificate that pods see")
	f.StringSliceVar(&cfg.DisabledFilters, "disabled-resource-filters", nil, "filters that shall not apply, of "+strings.Join(filter.Names(), ", "))
	log.Define(cmd)
	return cmd
}

// gcPercent trades processor time for memory: the hub allocates little, and
// shares small machines with the workload.
const gcPercent = 50

func run(ctx context.Context, cfg hub.Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := failpoint.FromEnv(); err != nil {
		return err
	}
	var err error
	if cfg.Sockets, err = systemd.Inherited(); err != nil {
		return err
	}
	h, err := hub.New(cfg)
	if err != nil {
		return err
	}
	return errors.Join(h.Run(ctx), h.Close())
}
