package lab

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"yurt/internal/playground/pki"
)

const nodeName = "bench"

// newCanned starts a canned API server, as a process of its own, and returns its site.
func (b *bench) newCanned(ctx context.Context, name string, pods, slices int) (*site, error) {
	dir := filepath.Join(b.dir, name)
	authority, err := pki.NewAuthority("bench")
	if err != nil {
		return nil, err
	}
	if err := authority.Write(dir, "ca"); err != nil {
		return nil, err
	}
	server, err := authority.Issue(pki.Subject{Name: "kube-apiserver", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		return nil, err
	}
	if err := server.Write(dir, "server"); err != nil {
		return nil, err
	}
	node, err := authority.Issue(pki.Subject{Name: "system:node:" + nodeName, Groups: []string{"system:nodes"}})
	if err != nil {
		return nil, err
	}
	pem := append(node.Cert, node.Key...)
	s := &site{upstream: "canned", dir: dir, ca: filepath.Join(dir, "ca.crt"), pem: filepath.Join(dir, "node.pem")}
	if s.cert, err = tls.X509KeyPair(pem, pem); err != nil {
		return nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	if err := os.WriteFile(s.pem, pem, 0o600); err != nil {
		return nil, err
	}
	port, err := s.freePort(ctx)
	if err != nil {
		return nil, err
	}
	s.url = "https://127.0.0.1:" + strconv.Itoa(port)
	t := &target{name: "upstream", server: s.server(s.url)}
	argv := []string{
		b.cfg.Self, "canned", "--listen", "127.0.0.1:" + strconv.Itoa(port), "--cert", filepath.Join(dir, "server.crt"),
		"--key", filepath.Join(dir, "server.key"), "--pods", strconv.Itoa(pods), "--slices", strconv.Itoa(slices),
	}
	if err := s.run(ctx, t, argv, os.Environ()); err != nil {
		return nil, err
	}
	s.pid = t.pid
	b.atEnd(t.kill)
	return s, t.await(ctx)
}
