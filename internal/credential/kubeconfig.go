// Package credential holds what the hub shows to API servers: its own
// kubeconfig (servers, CA, client certificate), read again when a file of it
// changes, and the bearer tokens that clients bring.
//
// It guarantees that a kubeconfig which can't be read or parsed never replaces
// one that could, and that no secret is formatted by String, %v or a log line.
// It never writes a file and never talks to the network.
package credential

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	clientcmdv1 "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"
)

// Kubeconfig is the current context of a kubeconfig file: one cluster and one
// user. Relative paths in it are relative to the file, as for kubectl.
type Kubeconfig struct {
	Server     *url.URL
	ServerName string // for the TLS handshake; empty: the server's host
	CA         *x509.CertPool
	Token      string `json:"-"`

	path             string
	caData           []byte
	certFile         string
	keyFile          string
	certData         []byte
	keyData          []byte
	tokenFile        string
	certificateBytes []byte // what Certificate was parsed from
	certificate      *tls.Certificate
}

// LoadKubeconfig reads the file and everything that it refers to. The error
// names the file and the field at fault.
func LoadKubeconfig(path string) (*Kubeconfig, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	k, err := parseKubeconfig(path, raw)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	return k, nil
}

func parseKubeconfig(path string, raw []byte) (*Kubeconfig, error) {
	var file clientcmdv1.Config
	if err := yaml.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	cluster, user, err := currentContext(&file)
	if err != nil {
		return nil, err
	}
	k := &Kubeconfig{path: path, ServerName: cluster.TLSServerName}
	if k.Server, err = ParseServer(cluster.Server); err != nil {
		return nil, err
	}
	if err := k.readCA(cluster); err != nil {
		return nil, err
	}
	if user.Exec != nil || user.AuthProvider != nil || user.Username != "" {
		return nil, errors.New("the user must have a client certificate or a token: exec plugins, auth providers and passwords are not supported")
	}
	k.certFile, k.keyFile = k.resolve(user.ClientCertificate), k.resolve(user.ClientKey)
	k.certData, k.keyData = user.ClientCertificateData, user.ClientKeyData
	k.Token, k.tokenFile = user.Token, k.resolve(user.TokenFile)
	return k, k.readCredential()
}

// currentContext picks the cluster and user of the current context; a file with
// a single context needs no current-context.
func currentContext(file *clientcmdv1.Config) (*clientcmdv1.Cluster, *clientcmdv1.AuthInfo, error) {
	name := file.CurrentContext
	if name == "" && len(file.Contexts) == 1 {
		name = file.Contexts[0].Name
	}
	for _, c := range file.Contexts {
		if c.Name != name {
			continue
		}
		for i := range file.Clusters {
			for j := range file.AuthInfos {
				if file.Clusters[i].Name == c.Context.Cluster && file.AuthInfos[j].Name == c.Context.AuthInfo {
					return &file.Clusters[i].Cluster, &file.AuthInfos[j].AuthInfo, nil
				}
			}
		}
		return nil, nil, fmt.Errorf("context %q names cluster %q and user %q, which are not both in the file", name, c.Context.Cluster, c.Context.AuthInfo)
	}
	return nil, nil, fmt.Errorf("no context %q in the file", name)
}

// ParseServer reads the address of an API server, which must be an https URL
// with a host.
func ParseServer(server string) (*url.URL, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("server: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("server %q: want an address like https://10.0.0.1:6443", server)
	}
	return u, nil
}

func (k *Kubeconfig) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(k.path), path)
}

func (k *Kubeconfig) readCA(cluster *clientcmdv1.Cluster) error {
	if cluster.InsecureSkipTLSVerify {
		return errors.New("insecure-skip-tls-verify is not supported: give the cluster's certificate-authority")
	}
	k.caData = cluster.CertificateAuthorityData
	if len(k.caData) == 0 {
		if cluster.CertificateAuthority == "" {
			return errors.New("the cluster has no certificate-authority")
		}
		data, err := os.ReadFile(k.resolve(cluster.CertificateAuthority))
		if err != nil {
			return fmt.Errorf("certificate-authority: %w", err)
		}
		k.caData = data
	}
	k.CA = x509.NewCertPool()
	if !k.CA.AppendCertsFromPEM(k.caData) {
		return errors.New("certificate-authority: no certificate found in it")
	}
	return nil
}

// readCredential reads the client certificate and the token. A kubelet's file
// certificates rotate behind the same path, so the content is compared.
func (k *Kubeconfig) readCredential() error {
	certPEM, keyPEM := k.certData, k.keyData
	var err error
	if len(certPEM) == 0 && k.certFile != "" {
		if certPEM, err = os.ReadFile(k.certFile); err != nil {
			return fmt.Errorf("client-certificate: %w", err)
		}
	}
	if len(keyPEM) == 0 && k.keyFile != "" {
		if keyPEM, err = os.ReadFile(k.keyFile); err != nil {
			return fmt.Errorf("client-key: %w", err)
		}
	}
	if k.tokenFile != "" {
		token, err := os.ReadFile(k.tokenFile)
		if err != nil {
			return fmt.Errorf("tokenFile: %w", err)
		}
		k.Token = string(bytes.TrimSpace(token))
	}
	if len(certPEM) == 0 && len(keyPEM) == 0 {
		if k.Token == "" {
			return errors.New("the user has neither a client certificate nor a token")
		}
		return nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("client certificate and key: %w", err)
	}
	k.certificate, k.certificateBytes = &pair, certPEM
	return nil
}

// Certificate is the client certificate, or nil.
func (k *Kubeconfig) Certificate() *tls.Certificate { return k.certificate }

// User is the name in the client certificate, "" if there is none.
func (k *Kubeconfig) User() string {
	if k.certificate == nil {
		return ""
	}
	return k.certificate.Leaf.Subject.CommonName
}

// Same tells whether both lead to the same server with the same trust and
// credential, so that open connections may stay.
func (k *Kubeconfig) Same(other *Kubeconfig) bool {
	return k.Server.String() == other.Server.String() &&
		k.ServerName == other.ServerName &&
		k.Token == other.Token &&
		bytes.Equal(k.caData, other.caData) &&
		bytes.Equal(k.certificateBytes, other.certificateBytes)
}

// String names the file and the server, never the credential.
func (k *Kubeconfig) String() string { return k.path + " (" + k.Server.Redacted() + ")" }
