package pki_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"yurt/internal/playground/pki"
)

func TestIssue(t *testing.T) {
	ca, err := pki.NewAuthority("kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca.Cert) {
		t.Fatal("the authority's certificate is no PEM")
	}
	for _, tc := range []struct {
		name    string
		subject pki.Subject
		usage   x509.ExtKeyUsage
		not     x509.ExtKeyUsage
	}{
		{"client", pki.Subject{Name: "system:node:edge", Groups: []string{"system:nodes"}}, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		{"server", pki.Subject{Name: "apiserver", Hosts: []string{"kubernetes", "10.96.0.1"}}, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pair, err := ca.Issue(tc.subject)
			if err != nil {
				t.Fatal(err)
			}
			both, err := tls.X509KeyPair(pair.Cert, pair.Key)
			if err != nil {
				t.Fatalf("certificate and key don't belong together: %v", err)
			}
			cert := both.Leaf
			if cert.Subject.CommonName != tc.subject.Name || len(cert.Subject.Organization) != len(tc.subject.Groups) {
				t.Errorf("subject is %v", cert.Subject)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{tc.usage}}); err != nil {
				t.Errorf("verify: %v", err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{tc.not}}); err == nil {
				t.Error("it is good for what it isn't meant for")
			}
			for _, host := range tc.subject.Hosts {
				if err := cert.VerifyHostname(host); err != nil {
					t.Error(err)
				}
			}
			if left := time.Until(cert.NotAfter); left < 300*24*time.Hour {
				t.Errorf("it ends in %v", left)
			}
		})
	}
}

func TestNewSigningKey(t *testing.T) {
	private, public, err := pki.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(private)
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(public)
	got, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(got) {
		t.Error("the public key is another's")
	}
}

func TestWriteKeepsKeysPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if err := (pki.Pair{Cert: []byte("cert"), Key: []byte("key")}).Write(dir, "me"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "me.key"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v", info.Mode())
	}
}
