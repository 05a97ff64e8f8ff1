package component

const (
	YurtHubConf = "/etc/kubernetes/yurthub.conf" // its kubeconfig: the one that the kubelet had
	YurtHubRoot = "/var/lib/yurthub"
	// YurtHubURL is the API server to the node's own components, YurtHubCA what they know it by.
	YurtHubURL   = "https://127.0.0.1:10268"
	YurtHubCA    = YurtHubRoot + "/pki/ca.crt"
	YurtHubAdmin = "127.0.0.1:10267"
	YurtHubReady = "http://" + YurtHubAdmin + "/readyz"
)

// YurtHub is this project's own program on a node.
type YurtHub struct {
	Node      string
	ExtraArgs []string
}

// Argv returns the command line.
func (h YurtHub) Argv() []string {
	return append([]string{
		"yurthub",
		"--kubeconfig=" + YurtHubConf,
		"--node-name=" + h.Node,
		"--root-dir=" + YurtHubRoot,
	}, h.ExtraArgs...)
}
