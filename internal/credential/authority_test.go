package credential

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

// A client that has the authority's file trusts the hub on loopback, whatever
// its clock says, and after any number of restarts.
func TestAuthorityIsTrustedAtAnyTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := OpenAuthority(dir, quiet); err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(filepath.Join(dir, AuthorityFile))
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenAuthority(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := again.Serving()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	server.StartTLS()
	defer server.Close()
	for _, now := range []time.Time{time.Unix(1000, 0), time.Now(), time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC)} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Time: func() time.Time { return now }}}
		resp, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err != nil {
			t.Errorf("at %v: %v", now, err)
			continue
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
	}
}

// A stolen key of the hub's can't vouch for the API server.
func TestAuthorityIsConstrained(t *testing.T) {
	dir := t.TempDir()
	authority, err := OpenAuthority(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	leaf := serving(t, authority)
	roots := x509.NewCertPool()
	roots.AddCert(authority.certificate)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "127.0.0.1"}); err != nil {
		t.Errorf("the hub's own certificate: %v", err)
	}
	forged := *leaf
	forged.DNSNames = []string{"kubernetes.default.svc"}
	der, err := x509.CreateCertificate(nil, &forged, authority.certificate, leaf.PublicKey, authority.key)
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "kubernetes.default.svc"}); err == nil {
		t.Error("a certificate for the API server's name is accepted")
	}
}

func TestAuthorityKeepsItsKeyToItself(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenAuthority(dir, quiet); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, authorityKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v; want mode 0600", info, err)
	}
	if err := os.Remove(filepath.Join(dir, AuthorityFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, quiet); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, AuthorityFile)); err != nil {
		t.Errorf("the public part was not made again: %v", err)
	}
}

// A power cut on a bad disk must not leave the node without a hub.
func TestDamagedAuthorityIsSetAside(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenAuthority(dir, quiet); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, authorityKeyFile)
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	authority, err := OpenAuthority(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := authority.Serving(); err != nil {
		t.Error(err)
	}
	if aside, err := os.ReadFile(path + ".damaged"); err != nil || string(aside) != "garbage" {
		t.Errorf("set aside: %q, %v", aside, err)
	}
}

// The authority that pods trust vouches for the names of the API server on this
// node, and nothing else; it is another one when these change, and stays the same
// otherwise.
func TestPodAuthority(t *testing.T) {
	dir := t.TempDir()
	names := Names{IPs: []net.IP{net.ParseIP("169.254.2.1"), net.ParseIP("10.96.0.1"), net.ParseIP("fd00::1")}, DNS: []string{"kubernetes", "kubernetes.default.svc"}}
	authority, err := OpenPodAuthority(dir, names, quiet)
	if err != nil {
		t.Fatal(err)
	}
	public, err := os.ReadFile(filepath.Join(dir, PodAuthorityFile))
	if err != nil || !bytes.Equal(public, authority.PEM()) {
		t.Errorf("the public part differs: %v", err)
	}
	leaf := serving(t, authority)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(public)
	for _, name := range []string{"169.254.2.1", "10.96.0.1", "fd00::1", "kubernetes", "kubernetes.default.svc"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, stolen := range []Names{{IPs: []net.IP{net.ParseIP("10.96.0.2")}}, {IPs: []net.IP{net.ParseIP("127.0.0.1")}}, {DNS: []string{"example.com"}}} {
		forger := *authority
		forger.names = stolen
		forged, err := forger.Serving()
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(forged.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots}); err == nil {
			t.Errorf("a certificate for %v is accepted", stolen)
		}
	}
	again, err := OpenPodAuthority(dir, names, quiet)
	if err != nil || !bytes.Equal(again.PEM(), public) {
		t.Errorf("another one after a restart: %v", err)
	}
	names.IPs[1] = net.ParseIP("10.97.0.1")
	other, err := OpenPodAuthority(dir, names, quiet)
	if err != nil || bytes.Equal(other.PEM(), public) {
		t.Errorf("the same one for other names: %v", err)
	}
}

func serving(t *testing.T, authority *Authority) *x509.Certificate {
	t.Helper()
	certificate, err := authority.Serving()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}
