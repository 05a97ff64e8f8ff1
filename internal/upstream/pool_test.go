package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"yurt/internal/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cloud is an API server behind a cable that can be cut silently.
type cloud struct {
	*httptest.Server
	cable                         *cable
	ready                         atomic.Bool
	broken                        atomic.Bool // a load balancer answers in its place
	fails                         atomic.Bool // requests, not probes, are answered 500
	hold                          atomic.Bool // requests get no answer
	slow                          atomic.Int64
	probes, held, writes, watches atomic.Int32
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	c := &cloud{}
	c.ready.Store(true)
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		c.probes.Add(1)
		if !c.ready.Load() {
			http.Error(w, "not ready", http.StatusInternalServerError)
			return
		}
	})
	mux.HandleFunc("/whoami", func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s token=%q proto=%d", name, r.Header.Get("Authorization"), r.ProtoMajor)
	})
	mux.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, c.Listener.Addr())
	})
	mux.HandleFunc("/watch", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		c.watches.Add(1)
		<-r.Context().Done()
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		c.writes.Add(1)
		_, _ = io.Copy(w, r.Body)
	})
	c.Server = httptest.NewUnstartedServer(c.between(mux))
	c.EnableHTTP2 = true
	c.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	c.StartTLS()
	t.Cleanup(c.Close)
	c.cable = newCable(t, c.Listener.Addr().String())
	return c
}

// cable is a TCP proxy that can stop carrying without closing anything.
type cable struct {
	net.Listener
	dead atomic.Bool
	wg   sync.WaitGroup
	mu   sync.Mutex
	open []net.Conn
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cable{Listener: l}
	w.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, in, out)
			w.mu.Unlock()
			w.wg.Go(func() { w.carry(in, out) })
			w.wg.Go(func() { w.carry(out, in) })
		}
	})
	t.Cleanup(w.close)
	return w
}

func (w *cable) carry(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		if w.dead.Load() {
			continue
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (w *cable) close() {
	w.Close()
	w.mu.Lock()
	for _, c := range w.open {
		c.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}

// newPool runs a pool whose kubeconfig leads to the cloud's cable as edge.
func newPool(t *testing.T, c *cloud) (*Pool, string) {
	t.Helper()
	dir := t.TempDir()
	writeKubeconfig(t, dir, c, c.cable.Addr().String())
	return start(t, Config{Kubeconfig: filepath.Join(dir, "kubeconfig"), Logger: slog.New(slog.DiscardHandler)}), dir
}

func writeCA(t *testing.T, dir string, c *cloud) {
	t.Helper()
	write(t, filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw}))
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeClient(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "client.pem"), append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...))
}

func get(ctx context.Context, p *Pool, path string, cred credential.Credential) (string, error) {
	r := (&http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}, Header: http.Header{}}).WithContext(ctx)
	resp, err := p.RoundTrip(r, cred)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// patience is how long a test waits for what happens soon on an idle machine.
const patience = 30 * time.Second

func waitState(t *testing.T, p *Pool, want State, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		changed := p.Changed()
		if p.Link().State == want {
			return time.Since(start)
		}
		select {
		case <-changed:
		case <-time.After(within - time.Since(start)):
			t.Fatalf("link is %s (%s) after %v, want %s", p.Link().State, p.Link().Reason, within, want)
		}
	}
}

// One connection never carries two identities: the node's certificate and a
// client's token do not meet.
func TestCertificateAndTokenNeverShareAConnection(t *testing.T) {
	t.Parallel()
	p, _ := newPool(t, newCloud(t))
	waitState(t, p, Up, patience)
	for _, tc := range []struct {
		cred credential.Credential
		want string
	}{
		{credential.Credential{}, `edge token="" proto=2`},
		{credential.Credential{Identity: credential.Identity{Name: "pod"}, Token: "t"}, `nobody token="Bearer t" proto=2`},
		{credential.Credential{}, `edge token="" proto=2`},
	} {
		got, err := get(t.Context(), p, "/whoami", tc.cred)
		if err != nil || got != tc.want {
			t.Errorf("as %v: %q, %v; want %q", tc.cred, got, err, tc.want)
		}
	}
}

func TestDownIsAnsweredAtOnceAndEndsByItself(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	c.ready.Store(false)
	p.Suspect()
	waitState(t, p, Down, patience)
	fastest := time.Hour // a busy machine may hold one up
	for range 10 {
		start := time.Now()
		if _, err := get(t.Context(), p, "/whoami", credential.Credential{}); !errors.Is(err, ErrDown) {
			t.Errorf("while down: %v, want ErrDown", err)
		}
		fastest = min(fastest, time.Since(start))
	}
	if fastest > 50*time.Millisecond {
		t.Errorf("refusing took %v at least", fastest)
	}
	c.ready.Store(true)
	waitState(t, p, Up, patience)
	if _, err := get(t.Context(), p, "/whoami", credential.Credential{}); err != nil {
		t.Errorf("after the return: %v", err)
	}
}

// A half-open connection carries nothing and says nothing. A watch on it must
// not wait for TCP to find out.
func TestBlackHoleIsNoticed(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	p, _ := newPool(t, c)
	waitState(t, p, Up, patience)
	watch := make(chan error, 1)
	go func() {
		_, err := get(t.Context(), p, "/watch", credential.Credential{})
		watch <- err
	}()
	time.Sleep(200 * time.Millisecond) // the watch stands
	c.cable.dead.Store(true)
	if took := waitState(t, p, Down, patience); took > pingAfter+pingPatience+3*time.Second {
		t.Errorf("noticed after %v, want about %v", took, pingAfter+pingPatience)
	}
	if err := <-watch; err == nil {
		t.Error("the watch ended without an error")
	}
	c.cable.dead.Store(false)
	waitState(t, p, Up, patience)
}

func TestRotatedCertificateIsUsed(t *testing.T) {
	t.Parallel()
	p, dir := newPool(t, newCloud(t))
	waitState(t, p, Up, patience)
	writeClient(t, dir, "edge-rotated")
	deadline := time.Now().Add(kubeconfigInterval + patience)
	for {
		got, err := get(t.Context(), p, "/whoami", credential.Credential{})
		if err != nil {
			t.Fatalf("a request failed during the rotation: %v", err)
		}
		if got == `edge-rotated token="" proto=2` {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %q", got)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A caller that gives up says nothing about the link.
func TestCancelledRequestDoesNotTakeTheLinkDown(t *testing.T) {
	t.Parallel()
	p, _ := newPool(t, newCloud(t))
	waitState(t, p, Up, patience)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := get(ctx, p, "/watch", credential.Credential{}); err == nil {
		t.Error("the watch ended without an error")
	}
	if link := p.Link(); link.State != Up {
		t.Errorf("link is %s: %s", link.State, link.Reason)
	}
}
