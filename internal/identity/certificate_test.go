package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"yurt/internal/credential"
)

func certificate(name string, groups []string, from, to time.Time) *x509.Certificate {
	return &x509.Certificate{Raw: []byte(name + from.String() + to.String()), Subject: pkix.Name{CommonName: name, Organization: groups}, NotBefore: from, NotAfter: to}
}

// TestCertificateDates: online dates count; in the dark a certificate that was
// good once is.
func TestCertificateDates(t *testing.T) {
	nodes := []string{"system:nodes"}
	inBubble(t, func(t *testing.T, n *node) {
		present := func(c *x509.Certificate, port Port) error {
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
			caller, err := n.auth.Authenticate(r, port)
			if err == nil && !caller.Identity.IsNode() {
				t.Errorf("%s is %v", c.Subject.CommonName, caller)
			}
			return err
		}
		now := time.Now()
		good := certificate("system:node:edge", nodes, now.Add(-time.Hour), now.Add(time.Hour))
		own := certificate("system:node:edge", nodes, now.Add(-time.Hour), now.Add(30*time.Minute))
		never := certificate("system:node:edge", nodes, now.Add(-time.Hour), now.Add(-time.Minute))
		future := certificate("system:node:edge", nodes, now.AddDate(20, 0, 0), now.AddDate(21, 0, 0)) // by a clock at 1970
		n.change(func() { n.certs[credential.Node] = own })
		wants(t, "valid", present(good, Host), nil)
		wants(t, "where no certificates are taken", present(good, Pods), ErrUnauthenticated)
		wants(t, "another node's", present(certificate("system:node:other", nodes, now, now.Add(time.Hour)), Host), ErrForeign)
		wants(t, "not of the nodes", present(certificate("system:node:edge", nil, now, now.Add(time.Hour)), Host), ErrForeign)
		wants(t, "nobody's", present(certificate("", nil, now, now.Add(time.Hour)), Host), ErrForeign)
		time.Sleep(2 * time.Hour)
		wants(t, "expired, online", present(good, Host), ErrUnauthenticated)
		n.change(func() { n.down = true })
		n.restart()
		wants(t, "expired, seen before, in the dark", present(good, Host), nil)
		wants(t, "expired, the hub's own, in the dark", present(own, Host), nil)
		wants(t, "expired, never seen, in the dark", present(never, Host), ErrUnauthenticated)
		wants(t, "not yet valid, never seen", present(future, Host), ErrUnauthenticated)
		n.change(func() { n.certs[credential.Node] = future })
		wants(t, "not yet valid, the hub's own", present(future, Host), nil)
	})
}

// TestIdentities: a certificate of a component is that component's, if the hub
// has one of the same name and groups.
func TestIdentities(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		now := time.Now()
		proxy := certificate("system:kube-proxy", []string{"a", "b"}, now, now.Add(time.Hour))
		n.change(func() { n.certs[credential.Identity{Name: "system:kube-proxy"}] = proxy })
		for _, tc := range []struct {
			groups []string
			want   error
		}{{[]string{"b", "a"}, nil}, {[]string{"a"}, ErrForeign}, {[]string{"a", "b", "system:masters"}, ErrForeign}} {
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate("system:kube-proxy", tc.groups, now, now.Add(time.Hour))}}
			r.Header.Set("Authorization", "Bearer another's")
			caller, err := n.auth.Authenticate(r, Host)
			wants(t, strings.Join(tc.groups, " and "), err, tc.want)
			if err == nil && (caller.Identity.Name != "system:kube-proxy" || caller.Token != "" || !slices.Contains(caller.User.Groups, "system:authenticated")) {
				t.Errorf("acts as %v with %+v", caller, caller.User)
			}
		}
	})
}

// TestRootOfHostOnlyWhenLockedOut: root of the host needs a certificate as long
// as the node's own is good.
func TestRootOfHostOnlyWhenLockedOut(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		asRoot := func(port Port) error {
			r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
			r.TLS = &tls.ConnectionState{}
			r.RemoteAddr = "127.0.0.1:4711"
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address("127.0.0.1:10268")))
			_, err := n.auth.Authenticate(r, port)
			return err
		}
		root := true
		n.auth.RootOfHost = func(remote, local string) bool {
			return root && remote == "127.0.0.1:4711" && local == "127.0.0.1:10268"
		}
		now := time.Now()
		n.change(func() {
			n.certs[credential.Node] = certificate("system:node:edge", nil, now.Add(-time.Hour), now.Add(time.Hour))
		})
		wants(t, "with a good certificate", asRoot(Host), ErrUnauthenticated)
		time.Sleep(2 * time.Hour)
		wants(t, "after it has expired", asRoot(Host), nil)
		wants(t, "from where pods come", asRoot(Pods), ErrUnauthenticated)
		root = false
		wants(t, "not root", asRoot(Host), ErrUnauthenticated)
	})
}

type address string

func (a address) String() string { return string(a) }
