package identity

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"time"

	"yurt/internal/credential"
	"yurt/internal/offline"
)

// Certificates is what the hub acts with upstream.
type Certificates interface {
	// Certificate is the one of an identity, nil if there is none.
	Certificate(credential.Identity) *x509.Certificate
}

// VerifyConnection holds a client's certificate against the cluster's authority,
// as of a time at which it was valid: its dates are looked at for each request,
// as they mean nothing where the clock does not. It is for tls.Config.
func VerifyConnection(ca *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil
		}
		leaf, between := state.PeerCertificates[0], x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			between.AddCert(c)
		}
		at := time.Now()
		if at.Before(leaf.NotBefore) {
			at = leaf.NotBefore
		}
		if at.After(leaf.NotAfter) {
			at = leaf.NotAfter
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: ca, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			return fmt.Errorf("verify client certificate of %q: %w", leaf.Subject.CommonName, err)
		}
		return nil
	}
}

// certificate tells who a client is that has shown a certificate of the
// cluster's. Its dates count while the cloud is there; in the dark a certificate
// that was valid once is as good as it was, or the node would lock itself out.
func (a *Authenticator) certificate(ctx context.Context, c *x509.Certificate) (Caller, error) {
	caller, err := a.named(c)
	if err != nil {
		return Caller{}, err
	}
	sum := sha256.Sum256(c.Raw)
	key := "certificate " + hex.EncodeToString(sum[:])
	if valid(c, time.Now()) {
		a.rememberCertificate(ctx, key)
		return caller, nil
	}
	if a.Reviewer.up() {
		return Caller{}, fmt.Errorf("%w: the client certificate is valid from %s to %s", ErrUnauthenticated, date(c.NotBefore), date(c.NotAfter))
	}
	own := a.Certificates.Certificate(caller.Identity)
	if _, seen := a.Own.Recall(key); seen || own != nil && own.Equal(c) {
		return caller, nil
	}
	return Caller{}, fmt.Errorf("%w: a client certificate that has never been valid here", ErrUnauthenticated)
}

func valid(c *x509.Certificate, at time.Time) bool {
	return !at.Before(c.NotBefore) && !at.After(c.NotAfter)
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (a *Authenticator) rememberCertificate(ctx context.Context, key string) {
	a.mu.Lock()
	last := a.lastCertificate
	a.lastCertificate = key
	a.mu.Unlock()
	if last == key {
		return
	}
	if _, ok := a.Own.Recall(key); ok {
		return
	}
	// Not being able to remember it is no reason to refuse it now.
	_ = a.Own.Keep(context.WithoutCancel(ctx), key, offline.Answer{At: time.Now()})
}

// named: the hub acts upstream with the certificates that it has, and for nobody
// else. One that was given for a component is used for who has the very same
// name and groups.
func (a *Authenticator) named(c *x509.Certificate) (Caller, error) {
	name, groups := c.Subject.CommonName, c.Subject.Organization
	if name == "system:node:"+a.Node && slices.Contains(groups, "system:nodes") {
		return Caller{Credential: credential.Credential{Identity: credential.Node}}, nil
	}
	identity := credential.Identity{Name: name}
	own := a.Certificates.Certificate(identity)
	if name == "" || own == nil || !slices.Equal(sorted(own.Subject.Organization), sorted(groups)) {
		return Caller{}, ErrForeign
	}
	return callerOf(User{Name: name, Groups: append(sorted(groups), "system:authenticated")}, ""), nil
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// rootOfHost accepts a process of root on the host without a certificate, when
// the node's own is out of its dates: client-go shows none then, and the kubelet
// would be locked out of its own hub. Root on the node is the node.
func (a *Authenticator) rootOfHost(r *http.Request) bool {
	own := a.Certificates.Certificate(credential.Node)
	if own == nil || valid(own, time.Now()) || a.RootOfHost == nil {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(interface{ String() string })
	return ok && a.RootOfHost(r.RemoteAddr, local.String())
}
