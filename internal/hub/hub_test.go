package hub

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"yurt/internal/adminapi"
	"yurt/internal/credential"
	"yurt/internal/upstream"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(secrecyAddress); dir != "" {
		secrecyChild(dir)
	}
	goleak.VerifyTestMain(m)
}

// site is an API server, the cluster's authority for clients, and a node's
// directory.
type site struct {
	t   *testing.T
	dir string
	api *httptest.Server
	ca  authority

	mu   sync.Mutex
	asks []string
}

// seen returns what the API server was asked since the last call, but for the
// hub's own questions: method, target, and the token if there was one.
func (s *site) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asks := s.asks
	s.asks = nil
	return asks
}

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/readyz" && !strings.HasSuffix(r.URL.Path, "reviews") {
		ask := r.Method + " " + r.RequestURI
		if token := credential.BearerToken(r.Header.Get("Authorization")); token != "" {
			ask += " token " + token
		}
		for name := range r.Header {
			if strings.HasPrefix(name, "X-Remote-") || strings.HasPrefix(name, "Sec-Websocket-") {
				ask += " with " + name
			}
		}
		s.mu.Lock()
		s.asks = append(s.asks, ask)
		s.mu.Unlock()
	}
	serveAPI(w, r)
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), ca: newAuthority(t)}
	s.api = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.api.EnableHTTP2 = true
	s.api.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.api.StartTLS()
	t.Cleanup(func() { s.api.CloseClientConnections(); s.api.Close() })
	bundle := append(pemOf("CERTIFICATE", s.api.Certificate().Raw), pemOf("CERTIFICATE", s.ca.certificate.Raw)...)
	s.write("ca.pem", bundle)
	client := s.ca.issue(t, "system:node:edge")
	key, err := x509.MarshalECPrivateKey(client.PrivateKey.(*ecdsa.PrivateKey))
	s.must(err)
	s.write("client.pem", append(pemOf("CERTIFICATE", client.Certificate[0]), pemOf("EC PRIVATE KEY", key)...))
	s.write("kubeconfig", fmt.Appendf(nil, `{
		"clusters": [{"name": "c", "cluster": {"server": %q, "certificate-authority": "ca.pem"}}],
		"users": [{"name": "u", "user": {"client-certificate": "client.pem", "client-key": "client.pem"}}],
		"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}]}`, s.api.URL))
	return s
}

// serveAPI is an API server with one ConfigMap, that knows the token "good".
func serveAPI(w http.ResponseWriter, r *http.Request) {
	const item = `"metadata":{"name":"a","namespace":"shop","uid":"u","resourceVersion":"7"},"data":{"x":"y"}}`
	w.Header().Set("Audit-Id", "1")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Header.Get("Upgrade") != "":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(io.Discard, rw) // until the other side ends it
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"status":{"authenticated":%t,"user":{"username":"alice"}}}`, strings.Contains(string(body), `"good"`))
	case strings.HasSuffix(r.URL.Path, "/subjectaccessreviews"):
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"status":{"allowed":true}}`)
	case r.Method == http.MethodPost:
		w.WriteHeader(http.StatusCreated)
		_, _ = io.Copy(w, r.Body)
	case r.URL.Path == "/api/v1/namespaces/shop/configmaps" && r.URL.Query().Has("watch"):
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case r.URL.Path == "/api/v1/namespaces/shop/configmaps":
		fmt.Fprint(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{`+item+`]}`)
	case r.URL.Path == "/api/v1/namespaces/shop/configmaps/a":
		fmt.Fprint(w, `{"kind":"ConfigMap","apiVersion":"v1",`+item)
	case r.URL.Path == "/readyz":
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name string, data []byte) {
	s.t.Helper()
	s.must(os.WriteFile(s.path(name), data, 0o600))
}

func (s *site) config() Config {
	return Config{
		Kubeconfig: s.path("kubeconfig"), NodeName: "edge", RootDir: s.path("root"), BindAddress: "127.0.0.1",
		Insecure: true, Version: "test", Logger: slog.New(slog.DiscardHandler),
	}
}

// run starts a hub. stop ends it, and fails the test if that takes long.
func (s *site) run() (hub *Hub, stop func()) {
	s.t.Helper()
	return s.runWith(func(*Config) {})
}

func (s *site) runWith(change func(*Config)) (hub *Hub, stop func()) {
	s.t.Helper()
	cfg := s.config()
	change(&cfg)
	h, err := New(cfg)
	s.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	// A hub that does not know its link yet answers without it after a moment,
	// which may be over before a busy machine has tried.
	for {
		changed := h.pool.Changed()
		if h.pool.Link().State != upstream.Connecting {
			break
		}
		select {
		case <-changed:
		case <-time.After(30 * time.Second):
			s.t.Fatal("the hub does not find out whether there is a link")
		}
	}
	return h, sync.OnceFunc(func() {
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
		if err := h.Close(); err != nil {
			s.t.Errorf("Close: %v", err)
		}
		if took := time.Since(began); took > 10*time.Second { // on a busy machine
			s.t.Errorf("the hub took %s to end", took)
		}
	})
}

// authority is the cluster's certificate authority.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := authority{certificate: template}
	made := a.sign(t, template)
	a.key = made.PrivateKey.(*ecdsa.PrivateKey)
	a.certificate = made.Leaf
	return a
}

// issue makes a certificate as the cluster gives it to a kubelet.
func (a authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	return a.sign(t, &x509.Certificate{
		SerialNumber: nextSerial(), Subject: pkix.Name{CommonName: name, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a authority) sign(t *testing.T, template *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func nextSerial() *big.Int { return big.NewInt(time.Now().UnixNano()) }

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// client trusts the hub by its published authority.
func (s *site) client(certificates ...tls.Certificate) *http.Client {
	s.t.Helper()
	trusted, err := os.ReadFile(s.path("root/pki/" + credential.AuthorityFile))
	s.must(err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(trusted) {
		s.t.Fatal("the hub's authority is no certificate")
	}
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// get returns "CODE BODY", shortened, or the error.
func get(client *http.Client, url, token string) string {
	r, err := http.NewRequest(http.MethodGet, url, http.NoBody)
	if err != nil {
		return err.Error()
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d HTTP/%d %s", resp.StatusCode, resp.ProtoMajor, body)
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %s, want %s", what, got, want)
	}
}

// TestIdentity: who is who on the TLS port.
func TestIdentity(t *testing.T) {
	s := newSite(t)
	h, stop := s.run()
	defer stop()
	url := "https://" + h.SecureAddr() + "/api/v1/namespaces/shop/configmaps/a"
	expect(t, "the node", get(s.client(s.ca.issue(t, "system:node:edge")), url, ""), `200 HTTP/2 {"kind":"ConfigMap"`)
	expect(t, "another node", get(s.client(s.ca.issue(t, "system:node:other")), url, ""), "403 HTTP/2")
	expect(t, "another node with a token", get(s.client(s.ca.issue(t, "system:node:other")), url, "good"), "403 HTTP/2")
	expect(t, "nobody", get(s.client(), url, ""), "401 HTTP/2")
	expect(t, "a token", get(s.client(), url, "good"), "200 HTTP/2")
	expect(t, "an unknown token", get(s.client(), url, "bad"), "401 HTTP/2")
	// The handshake fails; in TLS 1.3 the client learns it with the first bytes
	// that it reads, and words it as it likes.
	if got := get(s.client(newAuthority(t).issue(t, "system:node:edge")), url, ""); strings.Contains(got, "HTTP/2 ") {
		t.Errorf("another cluster's node: got %s, want no answer", got)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	expect(t, "plain text on the TLS port", get(plain, "http"+strings.TrimPrefix(url, "https"), ""), "HTTP request to an HTTPS server")
	expect(t, "the plain port", get(plain, "http://"+h.plain.Addr().String()+"/api/v1/namespaces/shop/configmaps/a", ""), "200 HTTP/1")
}

// TestRestart: Run ends at once, with streams open, and what was known is known
// again, without a cloud.
func TestRestart(t *testing.T) {
	s := newSite(t)
	h, stop := s.run()
	client := s.client(s.ca.issue(t, "system:node:edge"))
	paths := []string{"/api/v1/namespaces/shop/configmaps/a", "/api/v1/namespaces/shop/configmaps?resourceVersion=0"}
	for _, path := range paths {
		expect(t, path, get(client, "https://"+h.SecureAddr()+path, ""), "200 ")
	}
	watch, err := client.Get("https://" + h.SecureAddr() + "/api/v1/namespaces/shop/configmaps?watch=1&resourceVersion=7")
	s.must(err)
	defer watch.Body.Close()
	conn, err := net.Dial("tcp", h.plain.Addr().String())
	s.must(err)
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/namespaces/shop/pods/p/exec HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	upgraded, err := http.ReadResponse(bufio.NewReader(conn), nil)
	s.must(err)
	defer upgraded.Body.Close()
	if upgraded.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("upgrade: %s", upgraded.Status)
	}
	stop()
	if _, err := io.ReadAll(watch.Body); err != nil {
		t.Logf("the watch ended with %v", err) // either way the client watches again
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("an upgraded connection outlived the hub")
	}
	s.api.CloseClientConnections()
	s.api.Close()
	trusted, err := os.ReadFile(s.path("root/pki/ca.crt"))
	s.must(err)

	h, stop = s.run()
	defer stop()
	again, err := os.ReadFile(s.path("root/pki/ca.crt"))
	s.must(err)
	if diff := cmp.Diff(string(trusted), string(again)); diff != "" {
		t.Errorf("the hub's authority changed (-before +after):\n%s", diff)
	}
	for _, path := range paths {
		expect(t, path+" without a cloud", get(client, "https://"+h.SecureAddr()+path, ""), `"x":"y"`)
	}
}

// TestAdmin: the status document says what happens, and the probes answer.
func TestAdmin(t *testing.T) {
	s := newSite(t)
	h, stop := s.run()
	defer stop()
	expect(t, "a list", get(s.client(s.ca.issue(t, "system:node:edge")), "https://"+h.SecureAddr()+"/api/v1/namespaces/shop/configmaps?resourceVersion=0", ""), "200 ")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]string{
		"/livez": "200 HTTP/1 ok", "/readyz": "200 HTTP/1 ok", "/metrics": `yurthub_requests_total{route="list"} 1`, "/metrics?": `yurthub_replica_age_seconds{client="node",resource="configmaps"} `, "/status": "200 HTTP/1 yurthub test on edge", "/nothing": "404 ", "/": "404 ",
	} {
		expect(t, path, get(client, "http://"+h.AdminAddr()+path, ""), want)
	}
	status, err := adminapi.Get(t.Context(), client, h.AdminAddr())
	s.must(err)
	if status.Version != "test" || status.Node != "edge" || status.Link.State != "up" || status.Process.ResidentBytes == 0 || status.Store.Records == 0 {
		t.Errorf("status: %+v", status)
	}
	if servers := status.Link.Servers; len(servers) != 1 || servers[0].Health != "up" || servers[0].Address != s.api.URL {
		t.Errorf("servers: %+v", servers)
	}
	for side, rows := range map[string][]adminapi.Traffic{"clients": status.Clients, "upstream": status.Upstream} {
		at := slices.IndexFunc(rows, func(r adminapi.Traffic) bool { return r.Client == "node" && r.Resource == "configmaps" })
		if at < 0 || rows[at].Sent+rows[at].Received < 100 {
			t.Errorf("traffic of %s: %+v", side, rows)
		}
	}
	if len(status.Collections) != 1 {
		t.Fatalf("collections: %+v", status.Collections)
	}
	c := status.Collections[0]
	want := adminapi.Collection{
		Path: "/api/v1/namespaces/shop/configmaps", Representation: "json", Identity: "node",
		Phase: c.Phase, Since: c.Since, FreshAt: c.FreshAt, Populated: true, Revision: 7, Objects: 1, Bytes: c.Bytes,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("collection (-want +got):\n%s", diff)
	}
	if _, err := adminapi.Get(t.Context(), client, h.SecureAddr()); err == nil {
		t.Error("a status was read from another port")
	}
}

// TestNewRefuses: one clear line, and nothing created or changed.
func TestNewRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for _, tc := range []struct {
		name   string
		change func(s *site, c *Config)
		want   string
	}{
		{"no kubeconfig", func(_ *site, c *Config) { c.Kubeconfig = "" }, "--kubeconfig is required"},
		{"missing kubeconfig", func(s *site, c *Config) { c.Kubeconfig = s.path("missing") }, "missing: no such file or directory"},
		{"broken kubeconfig", func(s *site, _ *Config) { s.write("kubeconfig", []byte("{")) }, "read kubeconfig"},
		{"missing client certificate", func(s *site, _ *Config) { s.must(os.Remove(s.path("client.pem"))) }, "client-certificate"},
		{"no root directory", func(_ *site, c *Config) { c.RootDir = "" }, "--root-dir"},
		{"bad server", func(_ *site, c *Config) { c.Servers = []string{"http://10.0.0.1"} }, "--server-addr"},
		{"bad retention", func(_ *site, c *Config) { c.Retention = time.Second }, "--retention 1s"},
		{"a store too small", func(_ *site, c *Config) { c.MaxBytes = 1 << 20 }, "--store-max-bytes 1048576"},
		{"bad mode", func(_ *site, c *Config) { c.LBMode = "random" }, "--lb-mode"},
		{"bad address", func(_ *site, c *Config) { c.BindAddress = "here" }, "--bind-address"},
		{"an address of everybody's", func(_ *site, c *Config) { c.BindAddress = "0.0.0.0" }, "loopback only"},
		{"bad port", func(_ *site, c *Config) { c.AdminPort = 70000 }, "--serve-port 70000"},
		{"TLS port taken", func(_ *site, c *Config) { c.SecurePort = port }, "open the TLS port"},
		{"admin port taken", func(_ *site, c *Config) { c.AdminPort = port }, "open the admin port"},
		{"plain port taken", func(_ *site, c *Config) { c.ProxyPort = port }, "open the plain port"},
		{"root directory below a file", func(s *site, c *Config) { c.RootDir = s.path("kubeconfig/x") }, "not a directory"},
		{"a directory of something else", func(s *site, _ *Config) {
			s.must(os.MkdirAll(s.path("root/store"), 0o755))
			s.write("root/store/photo.jpg", []byte("x"))
		}, "directory is not a store"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			cfg := s.config()
			tc.change(s, &cfg)
			before := listing(t, s.dir)
			h, err := New(cfg)
			if err == nil {
				t.Fatal(h.Close())
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, tc.want)
			}
			if diff := cmp.Diff(before, listing(t, s.dir)); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}

// TestSecondHub: the store belongs to one process.
func TestSecondHub(t *testing.T) {
	s := newSite(t)
	_, stop := s.run()
	defer stop()
	before := listing(t, s.path("root/pki"))
	_, err := New(s.config())
	if err == nil || !strings.Contains(err.Error(), "store is in use by another process") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, listing(t, s.path("root/pki"))); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

// listing is every file below dir, with its mode and contents.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[path] = info.Mode().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files[path] += " " + string(data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestNodeName: the host's name, as the kubelet registers it.
func TestNodeName(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ flag, want string }{{"Edge", "Edge"}, {"", strings.ToLower(host)}} {
		got, err := (&Config{NodeName: tc.flag}).nodeName()
		if err != nil || got != tc.want {
			t.Errorf("--node-name=%q: got %q, %v", tc.flag, got, err)
		}
	}
}
