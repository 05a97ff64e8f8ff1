// Package hub is the node agent as one value: New puts its parts together, Run
// runs them. It is the same in the program and in tests.
//
// It guarantees that New changes nothing on disk unless everything that can be
// checked beforehand is right, and that Run returns after all that it started
// has ended.
package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"yurt/internal/admin"
	"yurt/internal/credential"
	"yurt/internal/fairness"
	"yurt/internal/forward"
	"yurt/internal/gateway"
	"yurt/internal/identity"
	"yurt/internal/keyring"
	"yurt/internal/offline"
	"yurt/internal/overlay"
	"yurt/internal/peer"
	"yurt/internal/replica"
	"yurt/internal/store"
	"yurt/internal/systemd"
	"yurt/internal/upstream"
)

// Hub is a node agent.
type Hub struct {
	cfg       Config
	node      string
	log       *slog.Logger
	startedAt time.Time

	keys     *keyring.Ring
	store    *store.Store
	pool     *upstream.Pool
	replicas *replica.Set
	answers  *offline.Book
	journal  *offline.Journal
	registry *prometheus.Registry
	metrics  *gateway.Metrics
	overlay  *overlay.Overlay // nil if it is switched off
	grants   *identity.Grants
	gate     *fairness.Gate

	secure, admin listener
	plain         *listener // nil unless asked for
	pods          *pods     // nil unless asked for
}

// New opens the listeners and the store. Its errors are the user's to mend.
func New(cfg Config) (*Hub, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	node, err := cfg.nodeName()
	if err != nil {
		return nil, err
	}
	h := &Hub{cfg: cfg, node: node, log: cfg.Logger, startedAt: time.Now()}
	servers, err := cfg.servers()
	if err != nil {
		return nil, err
	}
	mode, err := cfg.mode()
	if err != nil {
		return nil, err
	}
	if h.pool, err = upstream.New(upstream.Config{Kubeconfig: cfg.Kubeconfig, Identities: cfg.identities(), Servers: servers, Mode: mode, Logger: h.log}); err != nil {
		return nil, err
	}
	if err := h.open(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// open takes the ports, then the store: a second hub on the same node fails
// before it touches the first one's files.
func (h *Hub) open() error {
	var err error
	if h.secure.Listener, err = h.cfg.Sockets.Listen("secure", h.cfg.address(h.cfg.SecurePort)); err != nil {
		return fmt.Errorf("open the TLS port: %w", err)
	}
	if h.admin.Listener, err = h.cfg.Sockets.Listen("admin", h.cfg.address(h.cfg.AdminPort)); err != nil {
		return fmt.Errorf("open the admin port: %w", err)
	}
	if h.cfg.Insecure {
		h.plain = &listener{}
		if h.plain.Listener, err = h.cfg.Sockets.Listen("plain", h.cfg.address(h.cfg.ProxyPort)); err != nil {
			return fmt.Errorf("open the plain port: %w", err)
		}
	}
	if err = h.cfg.Sockets.Taken(); err != nil {
		return err
	}
	if h.store, err = store.Open(h.storeDir(), h.cfg.storeOptions(h.openKeys)); err != nil {
		return err
	}
	if err := h.secureListener(); err != nil {
		return err
	}
	return h.assemble()
}

// openKeys finds the keys of the store, or makes one.
func (h *Hub) openKeys() ([][]byte, error) {
	var err error
	h.keys, err = keyring.Open(keyring.Places{File: h.cfg.KeyFile, Credentials: h.cfg.Credentials, Dir: h.cfg.RootDir}, h.log)
	if err != nil {
		return nil, err
	}
	return h.keys.Keys, nil
}

// secureListener puts TLS over the TLS port: the hub shows a certificate of its
// own authority, and takes client certificates of the cluster's.
func (h *Hub) secureListener() error {
	authority, err := credential.OpenAuthority(filepath.Join(h.cfg.RootDir, "pki"), h.log)
	if err != nil {
		return err
	}
	certificate, err := authority.Serving()
	if err != nil {
		return err
	}
	h.secure.keep = h.ownCertificate
	h.secure.tls = &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion:   tls.VersionTLS12,
				NextProtos:   []string{"h2", "http/1.1"},
				Certificates: []tls.Certificate{*certificate},
				// A kubelet whose certificate has expired must reach its hub.
				ClientAuth:       tls.RequestClientCert,
				ClientCAs:        h.pool.CA(), // as it is now
				VerifyConnection: identity.VerifyConnection(h.pool.CA()),
			}, nil
		},
	}
	return nil
}

// ownCertificate tells whether a client has shown this node's certificate, which
// the handshake has verified.
func (h *Hub) ownCertificate(state tls.ConnectionState) bool {
	return len(state.PeerCertificates) > 0 && state.PeerCertificates[0].Subject.CommonName == "system:node:"+h.node
}

func (h *Hub) storeDir() string { return filepath.Join(h.cfg.RootDir, "store") }

// assemble connects the parts, lowest floor first.
func (h *Hub) assemble() error {
	var err error
	if h.replicas, err = replica.Open(h.store, h.pool, h.log); err != nil {
		return err
	}
	h.replicas.Retain(h.cfg.kept())
	if err := h.openOverlay(); err != nil {
		return err
	}
	if h.answers, err = offline.OpenBook(h.store, "reads"); err != nil {
		return err
	}
	asked, err := offline.OpenBook(h.store, "asked")
	if err != nil {
		return err
	}
	if h.journal, err = offline.OpenJournal(h.store, h.pool, h.log); err != nil {
		return err
	}
	h.journal.Node = h.node
	h.registry = prometheus.NewRegistry()
	h.metrics = gateway.NewMetrics(h.registry)
	memory := &gateway.Memory{Answers: h.answers, Replicas: h.replicas, Link: h.pool, Overlay: h.overlay}
	filters := h.openFilters()
	authenticator, err := h.openIdentity(memory)
	if err != nil {
		return err
	}
	h.gate = fairness.NewGate(h.cfg.limits())
	h.registry.MustRegister(h.gate)
	served := &gateway.Gateway{
		Link:          h.pool,
		Replicas:      h.replicas,
		Proxy:         &forward.Proxy{Upstream: h.pool, Logger: h.log},
		Desk:          &offline.Desk{Node: h.node, Objects: memory, Answers: asked, Journal: h.journal, Overlay: h.overlay},
		Memory:        memory,
		Authenticator: authenticator,
		Grants:        h.grants,
		Gate:          h.gate,
		Filters:       filters,
		Logger:        h.log,
		Metrics:       h.metrics,
	}
	h.secure.handler = guarded(served.At(identity.Host))
	if h.plain != nil {
		h.plain.handler = forPrograms(guarded(served.At(identity.Plain)))
	}
	if h.pods != nil {
		h.pods.handler = guarded(served.At(identity.Pods))
	}
	registerMetrics(h.registry, h)
	h.admin.handler = forPrograms(admin.Handler(h.Status, h.ready, h.registry))
	return nil
}

// openIdentity opens what is known of who clients are and what they may read.
func (h *Hub) openIdentity(memory *gateway.Memory) (*identity.Authenticator, error) {
	tokens, err := offline.OpenBook(h.store, "identities")
	if err != nil {
		return nil, err
	}
	own, err := offline.OpenBook(h.store, "identity")
	if err != nil {
		return nil, err
	}
	granted, err := offline.OpenBook(h.store, "grants")
	if err != nil {
		return nil, err
	}
	reviewer := identity.NewReviewer(h.pool, h.pool, identity.OpenClock(own), h.log)
	authenticator := &identity.Authenticator{
		Node: h.node, Reviewer: reviewer, Certificates: h.pool, Tokens: tokens, Own: own,
		HasPod: memory.HasPod, RootOfHost: peer.Host{Proc: "/proc", First: "1"}.RootOfHost,
	}
	h.grants = identity.NewGrants(reviewer, authenticator, granted, h.log)
	h.replicas.OnUnauthorized(h.grants.Doubt)
	return authenticator, nil
}

// Run serves until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// The store outlives those who commit to it.
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	stored := make(chan error, 1)
	go func() { stored <- h.store.Run(storeCtx) }()

	g.Go(func() error { return h.pool.Run(ctx) })
	g.Go(func() error { return h.replicas.Run(ctx) })
	g.Go(func() error { return h.journal.Run(ctx) })
	g.Go(func() error { return h.grants.Run(ctx) })
	g.Go(func() error { return h.condition().Run(ctx) })
	if h.overlay != nil {
		g.Go(func() error { return h.runOverlay(ctx) })
	}
	if h.pods != nil {
		g.Go(func() error { return h.pods.run(ctx) })
	}
	g.Go(func() error { return serve(ctx, h.secure, h.log) })
	g.Go(func() error { return serve(ctx, h.admin, h.log) })
	if h.plain != nil {
		h.log.Warn("the plain port is open: whoever reaches it acts as the node", "address", h.plain.Addr().String())
		g.Go(func() error { return serve(ctx, *h.plain, h.log) })
	}
	g.Go(func() error { return systemd.Supervise(ctx, h.alive, h.log) })
	h.log.Info("yurthub serves", "version", h.cfg.Version, "node", h.node, "proxy", h.secure.Addr().String(), "admin", h.admin.Addr().String(), "store", h.storeDir())

	err := g.Wait()
	stopStore()
	return errors.Join(err, <-stored)
}

// Adjust changes what can be changed while the hub runs: how many requests are answered at a time, and how long what nobody
// asks for is kept. 0 is the default. Both hold from now on.
func (h *Hub) Adjust(maxInFlight int, retention time.Duration) {
	adjusted := h.cfg
	adjusted.MaxInFlight, adjusted.Retention = maxInFlight, retention
	h.gate.SetLimits(adjusted.limits())
	h.replicas.Retain(adjusted.kept())
}

// Close releases what New took. Run must have returned.
func (h *Hub) Close() error {
	errs := []error{h.cfg.Sockets.Close()}
	listeners := []net.Listener{h.secure.Listener, h.admin.Listener}
	if h.plain != nil {
		listeners = append(listeners, h.plain.Listener)
	}
	for _, l := range listeners {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	return errors.Join(errs...)
}

// alive asks the admin port as anybody would. A probe would not do by calling a function: what hangs may be in between.
func (h *Hub) alive(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.AdminAddr()+"/livez", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/livez: %s", resp.Status)
	}
	return nil
}

// SecureAddr is where the TLS port is.
func (h *Hub) SecureAddr() string { return h.secure.Addr().String() }

// AdminAddr is where the admin port is.
func (h *Hub) AdminAddr() string { return h.admin.Addr().String() }

// ready: being cut off is what the hub is for; not being able to write is not.
func (h *Hub) ready() error {
	if err := h.store.Stats().LastError; err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}
