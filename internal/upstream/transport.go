package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"yurt/internal/credential"
)

const (
	// A connection on which nothing has come for pingAfter is asked for a sign
	// of life, and is dead pingTimeout later: client-go's defaults (30 s and
	// 15 s) leave a node in the dark for most of a minute.
	pingAfter   = 2 * time.Second
	pingTimeout = time.Second

	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
)

// connections are the transports that one reading of the kubeconfig gives.
type connections struct {
	from      *credential.Kubeconfig
	node      pair // present the hub's client certificate
	bearer    pair // present none, and carry a client's token
	nodeToken string
	ca        *x509.CertPool
}

// pair: upgrades (exec, port-forward) exist in HTTP/1.1 only.
type pair struct{ http2, upgrade *http.Transport }

func newConnections(k *credential.Kubeconfig, bytes *byteCount) *connections {
	c := &connections{
		from:   k,
		bearer: newPair(k, nil, bytes),
		node:   newPair(k, k.Certificate(), bytes),
		ca:     k.CA,
	}
	if k.Certificate() == nil {
		c.nodeToken = k.Token
	}
	return c
}

func newPair(k *credential.Kubeconfig, certificate *tls.Certificate, bytes *byteCount) pair {
	config := &tls.Config{RootCAs: k.CA, ServerName: k.ServerName, MinVersion: tls.VersionTLS12}
	if certificate != nil {
		config.Certificates = []tls.Certificate{*certificate}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &countedConn{Conn: conn, count: bytes}, nil
	}
	base := http.Transport{
		DialContext:         dial,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: handshakeTimeout,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 8,
	}
	h2, upgrade := base.Clone(), base.Clone()
	h2.ForceAttemptHTTP2 = true
	h2.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	upgrade.Protocols = new(http.Protocols)
	upgrade.Protocols.SetHTTP1(true)
	return pair{http2: h2, upgrade: upgrade}
}

func (c *connections) pick(cred credential.Credential, upgrade bool) *http.Transport {
	p := c.bearer
	if cred.Identity.IsNode() {
		p = c.node
	}
	if upgrade {
		return p.upgrade
	}
	return p.http2
}

func (c *connections) close() {
	for _, p := range []pair{c.node, c.bearer} {
		p.http2.CloseIdleConnections()
		p.upgrade.CloseIdleConnections()
	}
}

// byteCount counts what goes over the sockets.
type byteCount struct{ read, written atomic.Int64 }

type countedConn struct {
	net.Conn
	count *byteCount
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.count.read.Add(int64(n))
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.count.written.Add(int64(n))
	return n, err
}
