package hub

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"yurt/internal/upstream"
)

// issueFor makes a client certificate of some name, group and dates.
func (s *site) issueFor(name, group string, from, to time.Time) tls.Certificate {
	s.t.Helper()
	return s.ca.sign(s.t, &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: name, Organization: []string{group}},
		NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// keep writes a certificate with its key, as a kubelet does: at once.
func (s *site) keep(file string, c tls.Certificate) {
	s.t.Helper()
	key, err := x509.MarshalECPrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	s.must(err)
	s.write(file+".new", append(pemOf("CERTIFICATE", c.Certificate[0]), pemOf("EC PRIVATE KEY", key)...))
	s.must(os.Rename(s.path(file+".new"), s.path(file)))
}

func (h *Hub) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestExpiredCertificateDoesNotLockOut: a kubelet that comes with a certificate
// that has expired gets to its hub, and in the dark gets what it had.
func TestExpiredCertificateDoesNotLockOut(t *testing.T) {
	s := newSite(t)
	const path = "/api/v1/namespaces/shop/configmaps?resourceVersion=0"
	h, stop := s.run()
	expect(t, "with a good certificate", get(s.client(s.ca.issue(t, "system:node:edge")), "https://"+h.SecureAddr()+path, ""), `200 HTTP/2 {"kind":"ConfigMapList"`)
	stop()
	expired := s.issueFor("system:node:edge", "system:nodes", time.Now().Add(-time.Hour*3/4), time.Now().Add(-time.Hour/2))
	early := s.issueFor("system:node:edge", "system:nodes", time.Now().Add(time.Hour/2), time.Now().Add(time.Hour*3/4))
	s.keep("client.pem", expired)

	h, stop = s.run()
	url := "https://" + h.SecureAddr() + path
	expect(t, "expired, online", get(s.client(expired), url, ""), "401 HTTP/2")
	expect(t, "what the status says", h.Status().Credential.Problem, "has expired on")
	s.api.CloseClientConnections()
	s.api.Close()
	h.await(t, "the link is down", func() bool { return h.pool.Link().State == upstream.Down })
	expect(t, "expired, in the dark", get(s.client(expired), url, ""), `200 HTTP/2 {"kind":"ConfigMapList"`)
	expect(t, "not yet valid, and not the hub's, in the dark", get(s.client(early), url, ""), "401 HTTP/2")
	stop()

	// The node boots in the dark, and its clock says 1970: seen from there the
	// certificate is one of the future.
	s.keep("client.pem", early)
	h, stop = s.run()
	defer stop()
	expect(t, "not yet valid, and the hub's own", get(s.client(early), "https://"+h.SecureAddr()+path, ""), `200 HTTP/2 {"kind":"ConfigMapList"`)
	expect(t, "what the status says", h.Status().Credential.Problem, "is valid from")
}

// TestRefusedNodeIsServed: where the API server no longer takes the node's
// credential the kubelet gets what is known, and never a 401 to its request for a
// new one, after which it would exit. All heals when the credential does.
func TestRefusedNodeIsServed(t *testing.T) {
	s := newSite(t)
	h, stop := s.run()
	defer stop()
	base := "https://" + h.SecureAddr()
	kubelet := s.client(s.ca.issue(t, "system:node:edge"))
	const list, object = "/api/v1/namespaces/shop/configmaps?resourceVersion=0", "/api/v1/namespaces/shop/configmaps/a"
	expect(t, "a list", get(kubelet, base+list, ""), `200 HTTP/2`)
	expect(t, "a get", get(kubelet, base+object, ""), `200 HTTP/2`)
	const requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
	request := func() string {
		resp, err := kubelet.Post(base+requests, "application/json", strings.NewReader(`{"kind":"CertificateSigningRequest","metadata":{"name":"csr"}}`))
		s.must(err)
		defer resp.Body.Close()
		return resp.Status
	}
	expect(t, "a request for a certificate", request(), "201")

	s.api.Config.Handler = refusing(s.api.Config.Handler)
	for _, path := range []string{list, object} {
		expect(t, "locked out: "+path, get(kubelet, base+path, ""), "200 HTTP/2")
	}
	for _, path := range []string{requests + "?resourceVersion=0", requests + "?watch=1", requests + "/csr", "/api/v1/namespaces/shop/secrets/unknown"} {
		expect(t, "locked out: "+path, get(kubelet, base+path, ""), "503 HTTP/2")
	}
	expect(t, "locked out: a request for a certificate", request(), "503")
	expect(t, "what the status says", h.Status().Credential.Problem, "has not taken its credential since")

	s.api.Config.Handler = s.api.Config.Handler.(refused).next
	expect(t, "after that: a request for a certificate", request(), "201")
	if problem := h.Status().Credential.Problem; problem != "" {
		t.Errorf("after that the status says %s", problem)
	}
}

// refused is an API server that knows no certificate, and keeps its connections.
type refused struct{ next http.Handler }

func refusing(next http.Handler) http.Handler { return refused{next} }

func (refused) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Audit-Id", "1")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusUnauthorized)
	if r.URL.Path != "/readyz" {
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`)
	}
}

// recorder notes who came over which connection.
type recorder struct {
	next http.Handler

	mu    sync.Mutex
	by    map[string][]string // connection: who
	paths map[string][]string // path: who
}

func record(next http.Handler) *recorder {
	return &recorder{next: next, by: map[string][]string{}, paths: map[string][]string{}}
}

func (c *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who := "nobody"
	if len(r.TLS.PeerCertificates) > 0 {
		who = r.TLS.PeerCertificates[0].Subject.CommonName + " " + r.TLS.PeerCertificates[0].SerialNumber.String()
	}
	if token := r.Header.Get("Authorization"); token != "" {
		who += " with a token"
	}
	c.mu.Lock()
	c.by[r.RemoteAddr] = append(c.by[r.RemoteAddr], who)
	c.paths[r.URL.Path] = append(c.paths[r.URL.Path], who)
	c.mu.Unlock()
	c.next.ServeHTTP(w, r)
}

func (c *recorder) who(path string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Compact(slices.Clone(c.paths[path]))
}

// TestNoSharedConnections: the node, a component with a certificate of its own
// and clients with tokens each leave over connections of their own, with their
// own credential and no other.
func TestNoSharedConnections(t *testing.T) {
	s := newSite(t)
	seen := record(s.api.Config.Handler)
	s.api.Config.Handler = seen
	proxy := s.issueFor("system:kube-proxy", "system:node-proxier", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	s.keep("proxy.pem", proxy)
	s.write("proxy.conf", fmt.Appendf(nil, `{
		"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority": "ca.pem"}}],
		"users": [{"name": "u", "user": {"client-certificate": "proxy.pem", "client-key": "proxy.pem"}}],
		"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}`, s.api.URL))
	h, stop := s.runWith(func(cfg *Config) { cfg.Identities = []string{"kube-proxy=" + s.path("proxy.conf")} })
	defer stop()
	base := "https://" + h.SecureAddr() + "/api/v1/namespaces/shop/configmaps/a"
	kubelet := s.client(s.ca.issue(t, "system:node:edge"))
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() { get(kubelet, base+"?x=node", "") })
		clients.Go(func() { get(s.client(proxy), base+"?x=proxy", "good") }) // the certificate comes first
		clients.Go(func() { get(s.client(), base+"?x=token", "good") })
	}
	clients.Wait()
	whos := map[string]bool{}
	for connection, by := range seen.by {
		slices.Sort(by)
		by = slices.Compact(by)
		// A probe of /readyz goes out as the node.
		if len(by) != 1 {
			t.Errorf("connection %s carried %q", connection, by)
		}
		name, _, _ := strings.Cut(by[0], " ")
		if strings.Contains(by[0], "token") != (name == "nobody") {
			t.Errorf("%q: a token and a certificate together, or neither", by[0])
		}
		whos[name] = true
	}
	for _, name := range []string{"system:node:edge", "system:kube-proxy", "nobody"} {
		if !whos[name] {
			t.Errorf("nothing came from %s", name)
		}
	}
	other := s.issueFor("system:kube-proxy", "system:masters", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	expect(t, "the same name in another group", get(s.client(other), base, ""), "403 HTTP/2")
	expect(t, "a component that the hub has no certificate of", get(s.client(s.issueFor("system:cni", "system:node-proxier", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))), base, ""), "403 HTTP/2")
}

// TestRotationDropsNothing: the kubelet replaces its certificate, and the hub
// follows without failing a request.
func TestRotationDropsNothing(t *testing.T) {
	s := newSite(t)
	seen := record(s.api.Config.Handler)
	s.api.Config.Handler = seen
	h, stop := s.run()
	defer stop()
	const path = "/api/v1/namespaces/shop/configmaps/a"
	var failed atomic.Pointer[string]
	done := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		kubelet := s.client(s.ca.issue(t, "system:node:edge"))
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := get(kubelet, "https://"+h.SecureAddr()+path, ""); !strings.HasPrefix(got, "200 ") {
					failed.Store(&got)
				}
			}
		})
	}
	for range 2 {
		next := s.issueFor("system:node:edge", "system:nodes", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
		s.keep("client.pem", next)
		who := "system:node:edge " + next.Leaf.SerialNumber.String()
		h.await(t, "the API server sees the new certificate", func() bool { return slices.Contains(seen.who(path), who) })
	}
	close(done)
	clients.Wait()
	if got := failed.Load(); got != nil {
		t.Errorf("a request failed: %s", *got)
	}
}

// TestClockThatIsWrongIsSaid: in the node's condition, as soon as an API server
// has said what time it is.
func TestClockThatIsWrongIsSaid(t *testing.T) {
	s := newSite(t)
	said := make(chan string, 1)
	next := s.api.Config.Handler
	s.api.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		if r.Method != http.MethodPatch || r.URL.Path != "/api/v1/nodes/edge/status" {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{}`)
		select {
		case said <- string(body):
		default:
		}
	})
	h, stop := s.run()
	defer stop()
	select {
	case first := <-said:
		expect(t, "before the time is known", first, `"reason":"YurtHubServes"`)
	case <-time.After(time.Minute):
		t.Fatal("the node's condition is not written")
	}
	h.await(t, "the clock is known to be wrong", func() bool { return h.problem() != nil })
	expect(t, "the problem", h.problem().Message, "behind the API server's")
}
