package component

import "maps"

const (
	KubeletConf   = "/etc/kubernetes/kubelet.conf" // its kubeconfig
	KubeletConfig = "/var/lib/kubelet/config.yaml"
	// KubeletCert holds the client certificate and its key in one file, as the kubelet itself writes it when it rotates them.
	KubeletCert = "/var/lib/kubelet/pki/kubelet-client-current.pem"
	StaticPods  = "/etc/kubernetes/manifests"
	ResolvConf  = "/etc/resolv.conf"
)

// Kubelet is the stock kubelet of a node.
type Kubelet struct {
	Node       string
	Address    string
	Labels     map[string]string
	CgroupRoot string
	Extra      map[string]any // fields of its configuration that are other than usual
	ExtraArgs  []string
}

// Argv returns the command line.
func (k Kubelet) Argv() []string {
	return append([]string{
		"kubelet",
		"--config=" + KubeletConfig,
		"--kubeconfig=" + KubeletConf,
		"--hostname-override=" + k.Node,
		"--node-ip=" + k.Address,
		"--node-labels=" + labels(k.Labels),
		"--v=2",
	}, k.ExtraArgs...)
}

// Config returns its configuration file. How full the computer's disk is doesn't matter to a playground: no pod is evicted and no
// image removed for it.
func (k Kubelet) Config() []byte {
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"enabled": true},
			"x509":      map[string]any{"clientCAFile": CAFile},
		},
		"authorization":               map[string]any{"mode": "Webhook"},
		"cgroupDriver":                "cgroupfs",
		"cgroupRoot":                  k.CgroupRoot,
		"clusterDNS":                  []string{DNSAddress},
		"clusterDomain":               ClusterDomain,
		"containerRuntimeEndpoint":    "unix://" + ContainerdSocket,
		"enforceNodeAllocatable":      []string{"pods"},
		"evictionHard":                map[string]any{"imagefs.available": "0%", "memory.available": "0%", "nodefs.available": "0%"},
		"failCgroupV1":                false,
		"failSwapOn":                  false,
		"imageGCHighThresholdPercent": 100,
		"resolvConf":                  ResolvConf,
		"rotateCertificates":          true,
		"staticPodPath":               StaticPods,
	}
	maps.Copy(config, k.Extra)
	return document(config)
}
