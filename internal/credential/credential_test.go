package credential

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
	"strings"
	"testing"
	"time"
)

// writePair writes a fresh self-signed certificate with its key into one file,
// as the kubelet keeps its own.
func writePair(t *testing.T, path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "system:node:edge"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: k, cluster: {server: "https://10.0.0.1:6443", certificate-authority: pair.pem}}]
users: [{name: u, user: {client-certificate: pair.pem, client-key: pair.pem}}]
contexts: [{name: c, context: {cluster: k, user: u}}]
`

func TestLoadKubeconfigFollowsRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kubelet.conf")
	writePair(t, filepath.Join(dir, "pair.pem"))
	if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	first, err := LoadKubeconfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.Server.String() != "https://10.0.0.1:6443" || first.Certificate() == nil {
		t.Errorf("server %v, certificate %v", first.Server, first.Certificate())
	}
	again, err := LoadKubeconfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Same(again) {
		t.Error("the same file read twice is not Same")
	}
	writePair(t, filepath.Join(dir, "pair.pem"))
	rotated, err := LoadKubeconfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.Same(rotated) {
		t.Error("a rotated certificate is Same as the old one")
	}
}

func TestLoadKubeconfigNamesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	writePair(t, filepath.Join(dir, "pair.pem"))
	for name, tc := range map[string]struct{ file, want string }{
		"not yaml":        {"\t{", "yaml"},
		"no context":      {strings.ReplaceAll(kubeconfig, "current-context: c", "current-context: x"), `no context "x"`},
		"dangling user":   {strings.ReplaceAll(kubeconfig, "name: u,", "name: v,"), `user "u"`},
		"http server":     {strings.ReplaceAll(kubeconfig, "https://10.0.0.1:6443", "http://10.0.0.1"), "want an address like https://"},
		"no server":       {strings.ReplaceAll(kubeconfig, "https://10.0.0.1:6443", ""), "want an address like https://"},
		"missing CA":      {strings.ReplaceAll(kubeconfig, "certificate-authority: pair.pem", "certificate-authority: none.pem"), "certificate-authority:"},
		"missing key":     {strings.ReplaceAll(kubeconfig, "client-key: pair.pem", "client-key: none.pem"), "client-key:"},
		"no credential":   {strings.ReplaceAll(kubeconfig, "client-certificate: pair.pem, client-key: pair.pem", "token: ''"), "neither a client certificate nor a token"},
		"exec plugin":     {strings.ReplaceAll(kubeconfig, "client-certificate: pair.pem, client-key: pair.pem", "exec: {apiVersion: v1, command: x}"), "not supported"},
		"insecure server": {strings.ReplaceAll(kubeconfig, "certificate-authority: pair.pem", "insecure-skip-tls-verify: true"), "not supported"},
	} {
		path := filepath.Join(dir, "config")
		if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := LoadKubeconfig(path)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one with %q that names the file", name, err, tc.want)
		}
	}
	if _, err := LoadKubeconfig(filepath.Join(dir, "absent")); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("absent file: %v", err)
	}
}

func TestCredentialNeverPrintsItsToken(t *testing.T) {
	c := Credential{Identity: Identity{Name: "kube-proxy"}, Token: "s3cr3t"}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, c); strings.Contains(got, "s3cr3t") {
			t.Errorf("%s prints the token: %s", format, got)
		}
	}
	if got := c.LogValue().String(); got != "kube-proxy" {
		t.Errorf("logged as %q", got)
	}
}

func TestBearerToken(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer abc": "abc", "bearer  abc ": "abc", "Basic abc": "", "abc": "", "": "",
	} {
		if got := BearerToken(header); got != want {
			t.Errorf("BearerToken(%q) = %q, want %q", header, got, want)
		}
	}
}
