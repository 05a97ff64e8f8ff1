package component

import "time"

// ControllerManagerConf is the kubeconfig of the controller manager.
const ControllerManagerConf = "/etc/kubernetes/controller-manager.conf"

// KubeControllerManager is the stock controllers, those that evict pods from lost nodes among them.
type KubeControllerManager struct {
	MonitorPeriod time.Duration // between two looks at the nodes
	MonitorGrace  time.Duration // without a heartbeat, before a node counts as lost
	ExtraArgs     []string
}

// Argv returns the command line.
func (c KubeControllerManager) Argv() []string {
	return append([]string{
		"kube-controller-manager",
		"--kubeconfig=" + ControllerManagerConf,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
		"--use-service-account-credentials=true",
		"--root-ca-file=" + CAFile,
		"--service-account-private-key-file=" + ServiceAccount + ".key",
		"--cluster-signing-cert-file=" + CAFile,
		"--cluster-signing-key-file=" + PKI + "/ca.key",
		// At the usual 20 requests a second it takes 5 s to get a token for each controller before any of them starts.
		"--kube-api-qps=100",
		"--kube-api-burst=200",
		"--node-monitor-period=" + c.MonitorPeriod.String(),
		"--node-monitor-grace-period=" + c.MonitorGrace.String(),
	}, c.ExtraArgs...)
}
