// Package component turns what a cluster is into the argument lists and configuration files of the programs that it consists of: one
// file for each program.
//
// It knows programs, not machines: nothing here starts, reads or writes anything. All paths are those of a machine, where kubeadm
// puts the files.
package component

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// The files that several programs share.
const (
	PKI            = "/etc/kubernetes/pki"
	CAFile         = PKI + "/ca.crt"
	APIServerPort  = "6443"
	ServiceAccount = PKI + "/sa" // .key and .pub
)

// Addresses of a cluster that are the same in each of them.
const (
	ServiceCIDR   = "10.96.0.0/16"
	KubernetesIP  = "10.96.0.1" // of the service default/kubernetes
	DNSAddress    = "10.96.0.10"
	PodCIDR       = "10.244.0.0/16"
	ClusterDomain = "cluster.local"
)

// APIServerURL returns the URL of the API server at an address.
func APIServerURL(address string) string { return "https://" + address + ":" + APIServerPort }

// Kubeconfig is what a client of an API server needs. Empty fields are left out.
type Kubeconfig struct {
	Server    string
	CA        string // file
	Cert      string // file
	Key       string // file
	Token     string
	TokenFile string
}

// YAML returns the kubeconfig file.
func (k Kubeconfig) YAML() []byte {
	cluster := map[string]any{"server": k.Server}
	user := map[string]any{}
	set := func(m map[string]any, key, value string) {
		if value != "" {
			m[key] = value
		}
	}
	set(cluster, "certificate-authority", k.CA)
	set(user, "client-certificate", k.Cert)
	set(user, "client-key", k.Key)
	set(user, "token", k.Token)
	set(user, "tokenFile", k.TokenFile)
	return document(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"clusters":        []any{map[string]any{"name": "playground", "cluster": cluster}},
		"users":           []any{map[string]any{"name": "me", "user": user}},
		"contexts":        []any{map[string]any{"name": "me", "context": map[string]any{"cluster": "playground", "user": "me"}}},
		"current-context": "me",
	})
}

// document returns a value made of maps, slices and scalars as YAML.
func document(v any) []byte {
	data, err := yaml.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("component: configuration that is no YAML: %v", err))
	}
	return data
}

// labels returns labels as a flag has them.
func labels(m map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, key+"="+m[key])
	}
	return strings.Join(all, ",")
}
