package component

// SchedulerConf is the kubeconfig of the scheduler.
const SchedulerConf = "/etc/kubernetes/scheduler.conf"

// KubeScheduler is the stock scheduler.
type KubeScheduler struct {
	ExtraArgs []string
}

// Argv returns the command line.
func (s KubeScheduler) Argv() []string {
	return append([]string{
		"kube-scheduler",
		"--kubeconfig=" + SchedulerConf,
		"--bind-address=127.0.0.1",
		"--leader-elect=false",
	}, s.ExtraArgs...)
}
