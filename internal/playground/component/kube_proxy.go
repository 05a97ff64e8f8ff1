package component

const (
	KubeProxyConf   = "/etc/kubernetes/kube-proxy.conf" // its kubeconfig
	KubeProxyConfig = "/var/lib/kube-proxy/config.yaml"
)

// KubeProxy is the stock kube-proxy of a node.
type KubeProxy struct {
	Node      string
	ExtraArgs []string
}

// Argv returns the command line.
func (p KubeProxy) Argv() []string {
	return append([]string{
		"kube-proxy",
		"--config=" + KubeProxyConfig,
		"--v=2",
	}, p.ExtraArgs...)
}

// Config returns its configuration file. The size of the connection table belongs to the whole computer and is left alone.
func (p KubeProxy) Config() []byte {
	return document(map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"clientConnection":   map[string]any{"kubeconfig": KubeProxyConf},
		"clusterCIDR":        PodCIDR,
		"conntrack":          map[string]any{"maxPerCore": 0, "min": 0},
		"healthzBindAddress": "0.0.0.0:10256",
		"hostnameOverride":   p.Node,
		"metricsBindAddress": "127.0.0.1:10249",
		"mode":               "nftables",
	})
}
