package upstream

import (
	"context"
	"crypto/tls"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"

	"yurt/internal/credential"
)

// connections are a server's, as one reading of the kubeconfig gives them.
type connections struct {
	node      pair            // present the hub's client certificate
	certified map[string]pair // present that of another identity, by its name
	bearer    pair            // present none, and carry a client's token
	nodeToken string
}

// pair: upgrades (exec, port-forward) exist in HTTP/1.1 only.
type pair struct{ http2, upgrade *http.Transport }

// newConnections makes those to a server with the files as they were read last.
func (p *Pool) newConnections(s *server) *connections {
	k := p.files[0].content.Load()
	c := &connections{bearer: p.newPair(s, k, nil), node: p.newPair(s, k, k.Certificate()), certified: map[string]pair{}}
	for _, f := range p.files[1:] {
		other := f.content.Load()
		c.certified[other.User()] = p.newPair(s, k, other.Certificate())
	}
	if k.Certificate() == nil {
		c.nodeToken = k.Token
	}
	// One of the node's is always open, and shows the server's silence.
	c.node.http2.DialTLSContext = p.dialer(s, kind{config: c.node.http2.TLSClientConfig, pulse: true})
	c.node.http2.HTTP2.SendPingTimeout = pingAfter
	c.node.http2.IdleConnTimeout = pulseIdleTimeout // then it is replaced; one with an old certificate must end
	return c
}

func (p *Pool) newPair(s *server, k *credential.Kubeconfig, certificate *tls.Certificate) pair {
	config := &tls.Config{RootCAs: k.CA, ServerName: k.ServerName, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	h2, h1 := config.Clone(), config.Clone()
	h2.NextProtos, h1.NextProtos = []string{"h2", "http/1.1"}, []string{"http/1.1"}
	upgrade := &http.Transport{
		DialTLSContext:      p.dialer(s, kind{config: h1, lasts: true}),
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 2,
		Protocols:           new(http.Protocols),
	}
	upgrade.Protocols.SetHTTP1(true)
	return pair{
		http2: &http.Transport{
			DialTLSContext:      p.dialer(s, kind{config: h2}),
			TLSClientConfig:     h2,
			ForceAttemptHTTP2:   true,
			HTTP2:               &http.HTTP2Config{SendPingTimeout: quietPingAfter, PingTimeout: maxPatience},
			IdleConnTimeout:     90 * time.Second,
			MaxIdleConnsPerHost: 8,
		},
		upgrade: upgrade,
	}
}

func (p *Pool) dialer(s *server, k kind) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return p.dial(ctx, s, k, network, address)
	}
}

// pick returns the transport for a credential. Without a token, and without a
// certificate of that name, it is the one that presents nothing.
func (c *connections) pick(cred credential.Credential, upgrade bool) *http.Transport {
	p := c.bearer
	switch other, ok := c.certified[cred.Identity.Name]; {
	case cred.Token != "":
	case cred.Identity.IsNode():
		p = c.node
	case ok:
		p = other
	}
	if upgrade {
		return p.upgrade
	}
	return p.http2
}

func (c *connections) close() {
	for _, p := range slices.AppendSeq([]pair{c.node, c.bearer}, maps.Values(c.certified)) {
		p.http2.CloseIdleConnections()
		p.upgrade.CloseIdleConnections()
	}
}
