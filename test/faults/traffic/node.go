package traffic

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// NodeName is the node that the hub is for.
const NodeName = "edge"

// WriteKubeconfig writes the files with which a node's hub finds the server, into dir, and returns the kubeconfig's name.
func (s *Server) WriteKubeconfig(dir string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a node's key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "system:node:" + NodeName, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", fmt.Errorf("make a node's certificate: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a node's key: %w", err)
	}
	client := append(pemOf("CERTIFICATE", der), pemOf("EC PRIVATE KEY", keyDER)...)
	kubeconfig := fmt.Appendf(nil, `{
		"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority": "ca.pem"}}],
		"users": [{"name": "u", "user": {"client-certificate": "client.pem", "client-key": "client.pem"}}],
		"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}`, s.http.URL)
	for name, data := range map[string][]byte{"ca.pem": pemOf("CERTIFICATE", s.http.Certificate().Raw), "client.pem": client, "kubeconfig": kubeconfig} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, "kubeconfig"), nil
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
