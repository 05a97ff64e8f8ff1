package lab

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"testing"

	"yurt/bench/canned"
	"yurt/internal/playground/pki"
)

// serveCanned serves a small canned API server within the test.
func serveCanned(t *testing.T, b *bench) *site {
	t.Helper()
	authority, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Subject{Name: "server", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	server, err := canned.New(7, 5)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, l, cert) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &site{upstream: "canned", url: "https://" + l.Addr().String(), pid: os.Getpid(), dir: b.dir, cert: cert}
}
