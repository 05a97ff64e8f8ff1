package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/filter"
	"yurt/internal/podaddress"
	"yurt/internal/request"
)

// portRetry is how long the hub waits before it tries again to listen for pods.
// A pod on the node's network may have taken the port.
const portRetry = 5 * time.Second

// pods is the hub's side for pods: the address, and the authority by which they
// know the hub.
type pods struct {
	hub     *Hub
	address *podaddress.Address
	port    int
	handler http.Handler

	mu          sync.Mutex
	names       credential.Names
	authority   *credential.Authority // nil until the API server's names are known
	certificate *tls.Certificate
}

func (h *Hub) newPods() *pods {
	ips, _ := h.cfg.dummyIPs() // Validate has seen that they are some
	return &pods{hub: h, port: h.cfg.SecurePort, address: &podaddress.Address{Name: h.cfg.DummyIfName, IPs: ips, Logger: h.log}}
}

// openFilters makes what the node's components are shown otherwise.
func (h *Hub) openFilters() *filter.Site {
	site := &filter.Site{Node: h.node, Port: h.cfg.SecurePort, Find: h.replicas.Find, Disabled: h.cfg.DisabledFilters}
	if h.cfg.DummyIf {
		h.pods = h.newPods()
		site.Hub, site.CA = h.pods.address.IPs, h.pods.CA
	}
	return site
}

// run serves pods until ctx ends.
func (p *pods) run(ctx context.Context) error {
	var listeners sync.WaitGroup
	defer listeners.Wait()
	for _, ip := range p.address.IPs {
		listeners.Go(func() { p.serve(ctx, ip) })
	}
	return p.address.Run(ctx)
}

// serve listens at one address for as long as there is a hub: what keeps it from
// doing so is no reason to leave the node's own components alone.
func (p *pods) serve(ctx context.Context, ip netip.Addr) {
	for ctx.Err() == nil {
		l, err := p.address.Listen(ctx, ip, p.port)
		if err == nil {
			err = serve(ctx, listener{Listener: l, tls: p.tls(), handler: p.handler}, p.hub.log)
		}
		if ctx.Err() != nil {
			return
		}
		p.hub.log.Error("pods are not served", "address", ip, "port", p.port, "error", err)
		select {
		case <-time.After(portRetry):
		case <-ctx.Done():
		}
	}
}

var errNoNames = errors.New("the address of the Service kubernetes is not known yet")

// tls asks for no client certificate: on this side there are tokens only.
func (p *pods) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			_, certificate, err := p.trusted()
			return certificate, err
		},
	}
}

// CA is the certificate of the authority that pods shall trust, or nil if there is
// none yet.
func (p *pods) CA() []byte {
	authority, _, err := p.trusted()
	if err != nil {
		return nil
	}
	return authority.PEM()
}

// trusted returns the authority, and a certificate of it. There is none before the
// names are known for which it is to vouch; no pod runs before either, as the
// kubelet starts none without its Services.
func (p *pods) trusted() (*credential.Authority, *tls.Certificate, error) {
	names, known := p.wanted()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.authority != nil && (!known || sameNames(p.names, names)) {
		return p.authority, p.certificate, nil
	}
	if !known {
		return nil, nil, errNoNames
	}
	authority, err := credential.OpenPodAuthority(filepath.Join(p.hub.cfg.RootDir, "pki"), names, p.hub.log)
	if err != nil {
		return nil, nil, fmt.Errorf("open the authority that pods trust: %w", err)
	}
	certificate, err := authority.Serving()
	if err != nil {
		return nil, nil, err
	}
	p.names, p.authority, p.certificate = names, authority, certificate
	return authority, certificate, nil
}

// wanted are the names under which pods reach the API server on this node.
func (p *pods) wanted() (names credential.Names, known bool) {
	encoding, item, ok := p.hub.replicas.Find(request.Resource{Version: "v1", Resource: "services"}, "default", "kubernetes")
	if !ok {
		return names, false
	}
	clusterIPs, err := filter.ClusterIPs(encoding, item)
	if err != nil || len(clusterIPs) == 0 {
		return names, false
	}
	for _, ip := range append(slices.Clone(p.address.IPs), clusterIPs...) {
		names.IPs = append(names.IPs, ip.AsSlice())
	}
	names.DNS = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + p.hub.cfg.ClusterDomain}
	return names, true
}

func sameNames(a, b credential.Names) bool {
	return slices.Equal(a.DNS, b.DNS) && slices.EqualFunc(a.IPs, b.IPs, net.IP.Equal)
}
