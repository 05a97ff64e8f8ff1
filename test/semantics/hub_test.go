package semantics

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"yurt/internal/adminapi"
	"yurt/internal/hub"
)

// node is a hub and its link: the same program that runs on a node, in this
// process.
type node struct {
	*link
	t       *testing.T
	site    *site
	root    string
	servers []string
	log     *os.File

	hub  *hub.Hub
	stop func()
}

// newNode starts a hub with an empty store.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{link: shared.newLink(t), t: t, site: shared, root: t.TempDir()}
	n.servers = []string{n.link.url()}
	var err error
	n.log, err = os.Create(filepath.Join(t.ArtifactDir(), "hub.log"))
	must(t, err)
	n.start()
	t.Cleanup(func() {
		n.stop()
		if t.Failed() {
			n.keepLog()
		}
		n.log.Close()
	})
	n.awaitLink("up")
	return n
}

// keepLog copies the hub's log to where it outlives the test.
func (n *node) keepLog() {
	data, err := os.ReadFile(n.log.Name())
	must(n.t, err)
	kept, err := os.CreateTemp("", "yurt-semantics-hub-*.log")
	must(n.t, err)
	defer kept.Close()
	_, err = kept.Write(data)
	must(n.t, err)
	n.t.Logf("the hub's log is kept in %s", kept.Name())
}

func (n *node) start() {
	n.t.Helper()
	h, err := hub.New(hub.Config{
		Kubeconfig: filepath.Join(n.site.dir, "kubeconfig"), Servers: n.servers, NodeName: "edge", RootDir: n.root,
		BindAddress: "127.0.0.1", Version: "test",
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	must(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	n.hub = h
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
		if err := h.Close(); err != nil {
			n.t.Errorf("Close: %v", err)
		}
	})
}

// restart ends the hub and starts it with what it has on disk. Its address
// changes.
func (n *node) restart() {
	n.t.Helper()
	n.stop()
	n.start()
}

func (n *node) endpoint() endpoint {
	n.t.Helper()
	return endpoint{"https://" + n.hub.SecureAddr(), client(n.t, n.ca(), (&net.Dialer{}).DialContext)}
}

func (n *node) ca() []byte {
	n.t.Helper()
	ca, err := os.ReadFile(n.caFile())
	must(n.t, err)
	return ca
}

func (n *node) caFile() string { return filepath.Join(n.root, "pki", "ca.crt") }

// config is how a client of an account reaches the hub.
func (n *node) config(account string) *rest.Config {
	n.t.Helper()
	return &rest.Config{
		Host: "https://" + n.hub.SecureAddr(), BearerToken: n.site.tokens[account], QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: n.ca()},
	}
}

// status is what the hub says of itself.
func (n *node) status(ctx context.Context) (*adminapi.Status, error) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	return adminapi.Get(ctx, &http.Client{Transport: transport}, n.hub.AdminAddr())
}

func (n *node) awaitLink(state string) {
	n.t.Helper()
	await(n.t, "the hub's link is "+state, 30*time.Second, func(ctx context.Context) error {
		status, err := n.status(ctx)
		if err != nil {
			return err
		}
		if status.Link.State != state {
			return fmt.Errorf("it is %s (%s)", status.Link.State, status.Link.Reason)
		}
		return nil
	})
}

// darken cuts the link, and returns when the hub knows it.
func (n *node) darken() {
	n.t.Helper()
	n.set(cut)
	n.awaitLink("down")
}

// lighten heals the link, and returns when the hub knows it.
func (n *node) lighten() {
	n.t.Helper()
	n.set(whole)
	n.awaitLink("up")
}
