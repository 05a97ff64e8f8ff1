package component

import "fmt"

const (
	CoreDNSConf   = "/etc/kubernetes/coredns.conf"   // its kubeconfig
	CoreDNSCA     = "/etc/kubernetes/coredns-ca.crt" // by which it knows the API server, or the hub
	CoreDNSConfig = "/etc/coredns/Corefile"

	// Its ports on the node. The one for its health is 8080 elsewhere, which others like too.
	CoreDNSHealth = 8053
	CoreDNSReady  = 8181
)

// CoreDNS answers the pods' questions for the names of Services.
type CoreDNS struct{}

// Argv returns the command line.
func (CoreDNS) Argv() []string { return []string{"coredns", "-conf", CoreDNSConfig} }

// Config returns its configuration file. It is kubeadm's but for the kubeconfig, without which it would not read through the hub,
// and for servers beyond: a playground has no names but the cluster's.
func (CoreDNS) Config() []byte {
	return fmt.Appendf(nil, `.:53 {
    errors
    health :%[1]d
    ready :%[2]d
    kubernetes %[3]s in-addr.arpa ip6.arpa {
        kubeconfig %[4]s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus :9153
    cache 30 {
        disable success %[3]s
        disable denial %[3]s
    }
    reload
    loadbalance
}
`, CoreDNSHealth, CoreDNSReady, ClusterDomain, CoreDNSConf)
}
