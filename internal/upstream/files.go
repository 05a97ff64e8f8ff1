package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"yurt/internal/backoff"
	"yurt/internal/credential"
)

// file is a kubeconfig that is followed: whoever owns it replaces the
// certificate in time.
type file struct {
	path      string
	content   atomic.Pointer[credential.Kubeconfig]
	complaint string // the last one: it may stay like that for days
}

// openFiles reads the kubeconfigs for the first time.
func (p *Pool) openFiles() error {
	for i, path := range append([]string{p.cfg.Kubeconfig}, p.cfg.Identities...) {
		k, err := credential.LoadKubeconfig(path)
		if err != nil {
			return err
		}
		if i > 0 && k.User() == "" {
			return fmt.Errorf("read kubeconfig %s: %w", path, errNoCertificate)
		}
		if other := slices.IndexFunc(p.files, func(f *file) bool { return f.content.Load().User() == k.User() }); i > 0 && other >= 0 {
			return fmt.Errorf("read kubeconfig %s: its user %s is that of %s", path, k.User(), p.files[other].path)
		}
		f := &file{path: path}
		f.content.Store(k)
		p.files = append(p.files, f)
	}
	return nil
}

// errNoCertificate: a component with a token shows it to the hub by itself.
var errNoCertificate = errors.New("its user has no client certificate: a component with a token needs no identity here, its token is passed on")

// followFiles looks at the files every few seconds: the kubelet replaces its
// certificate by renaming, which a content comparison sees whatever the file
// system.
func (p *Pool) followFiles(ctx context.Context) error {
	for {
		if err := backoff.Sleep(ctx, kubeconfigInterval); err != nil {
			return err
		}
		changed := false
		for i, f := range p.files {
			changed = p.follow(f, i == 0) || changed
		}
		if !changed {
			continue
		}
		for _, s := range p.servers {
			old := s.connections.Swap(p.newConnections(s))
			old.close() // idle ones; running requests end on their own
		}
		p.Suspect()
	}
}

// follow reads a file again, and tells whether there is something new in it.
func (p *Pool) follow(f *file, own bool) (changed bool) {
	last := f.content.Load()
	next, err := credential.LoadKubeconfig(f.path)
	if err == nil && !own && next.User() != last.User() {
		err = fmt.Errorf("read kubeconfig %s: its user is %q now, and was %q", f.path, next.User(), last.User())
	}
	if err != nil {
		if err.Error() != f.complaint {
			f.complaint = err.Error()
			p.log.Warn("kubeconfig is unreadable, the last good one stays in use", "error", err)
		}
		return false
	}
	f.complaint = ""
	if next.Same(last) {
		return false
	}
	if own && len(p.cfg.Servers) == 0 {
		p.servers[0].moveTo(next.Server)
	}
	f.content.Store(next)
	p.log.Info("kubeconfig changed, new connections use it", "kubeconfig", next.String())
	return true
}

// CA is the cluster's certificate authority, of the kubeconfig as it is now.
func (p *Pool) CA() *x509.CertPool { return p.files[0].content.Load().CA }

// Certificate is the client certificate with which the requests of an identity
// go out, nil if there is none.
func (p *Pool) Certificate(identity credential.Identity) *x509.Certificate {
	for i, f := range p.files {
		k := f.content.Load()
		if c := k.Certificate(); c != nil && (identity.IsNode() && i == 0 || i > 0 && k.User() == identity.Name) {
			return c.Leaf
		}
	}
	return nil
}
