package component

import "strconv"

const (
	// AuditLog is where an API server writes down each request, at the first byte of its answer and at the last.
	AuditLog        = "/logs/audit.log"
	AuditPolicyFile = "/etc/kubernetes/audit-policy.yaml"
)

// KubeAPIServer is one of a cluster's API servers.
type KubeAPIServer struct {
	Address           string
	AuditLog          string
	TolerationSeconds int // that pods get for nodes that are not ready or unreachable
	ExtraArgs         []string
}

// Argv returns the command line.
func (a KubeAPIServer) Argv() []string {
	toleration := strconv.Itoa(a.TolerationSeconds)
	return append([]string{
		"kube-apiserver",
		"--advertise-address=" + a.Address,
		"--bind-address=" + a.Address,
		"--secure-port=" + APIServerPort,
		"--etcd-servers=" + EtcdURL,
		"--service-cluster-ip-range=" + ServiceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--client-ca-file=" + CAFile,
		"--tls-cert-file=" + PKI + "/apiserver.crt",
		"--tls-private-key-file=" + PKI + "/apiserver.key",
		"--kubelet-client-certificate=" + PKI + "/apiserver-kubelet-client.crt",
		"--kubelet-client-key=" + PKI + "/apiserver-kubelet-client.key",
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc." + ClusterDomain,
		"--service-account-key-file=" + ServiceAccount + ".pub",
		"--service-account-signing-key-file=" + ServiceAccount + ".key",
		"--default-not-ready-toleration-seconds=" + toleration,
		"--default-unreachable-toleration-seconds=" + toleration,
		"--audit-policy-file=" + AuditPolicyFile,
		"--audit-log-path=" + a.AuditLog,
		"--audit-log-maxsize=2000",
	}, a.ExtraArgs...)
}

// AuditPolicy returns the file that says what the audit log has: metadata of everything.
func AuditPolicy() []byte {
	return document(map[string]any{
		"apiVersion": "audit.k8s.io/v1",
		"kind":       "Policy",
		"omitStages": []string{"RequestReceived"},
		"rules":      []any{map[string]any{"level": "Metadata"}},
	})
}
