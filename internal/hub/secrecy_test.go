package hub

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"yurt/internal/keyring"
	"yurt/internal/store"
)

// What must not be found in clear. Each is planted in one place.
const (
	listedSecret   = "cGxhbnRlZC1saXN0ZWQtc2VjcmV0LTE" // in base64, as Secrets are
	watchedSecret  = "cGxhbnRlZC13YXRjaGVkLXNlY3JldC0y"
	fetchedSecret  = "cGxhbnRlZC1mZXRjaGVkLXNlY3JldC0z"
	podSecret      = "planted-environment-of-a-pod-4"
	issuedToken    = "planted.issued-token.5"
	clientToken    = "planted.client-token.6"
	eventText      = "planted text of an event 7"
	secrecyAddress = "HUB_TEST_SECRECY" // of the child: its directory
)

// stored is what a hub must remember to be of use in the dark, and so must be found where nothing is sealed.
func stored() []string {
	return []string{listedSecret, watchedSecret, fetchedSecret, podSecret, issuedToken, eventText}
}

// vault is an API server with secrets.
type vault struct{}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secret := func(name string, revision int, data string) string {
		return fmt.Sprintf(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":%q,"namespace":"shop","uid":%[1]q,"resourceVersion":"%d"},"data":{"password":%q}}`, name, revision, data)
	}
	pod := `{"metadata":{"name":"web","namespace":"shop","uid":"u2","resourceVersion":"7"},"spec":{"nodeName":"edge","containers":[{"name":"c","env":[{"name":"P","value":"` + podSecret + `"}]}]}}`
	w.Header().Set("Audit-Id", "1")
	w.Header().Set("Content-Type", "application/json")
	switch path := r.URL.Path; {
	case r.URL.Query().Has("watch"):
		_ = http.NewResponseController(w).Flush()
		if strings.HasSuffix(path, "/secrets") {
			fmt.Fprintf(w, `{"type":"MODIFIED","object":%s}`+"\n", secret("cache", 8, watchedSecret))
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
	case strings.HasSuffix(path, "/tokenreviews"):
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true,"user":{"username":"system:serviceaccount:shop:web"}}}`)
	case strings.HasSuffix(path, "/subjectaccessreviews"):
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","status":{"allowed":true}}`)
	case strings.HasSuffix(path, "/token"):
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{"name":"web","namespace":"shop"},"spec":{"audiences":["a"],"expirationSeconds":3600},"status":{"token":%q,"expirationTimestamp":%q}}`,
			issuedToken, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case strings.HasSuffix(path, "/secrets"):
		fmt.Fprintf(w, `{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[%s]}`, secret("db", 7, listedSecret))
	case strings.HasSuffix(path, "/secrets/other"):
		fmt.Fprint(w, secret("other", 6, fetchedSecret))
	case path == "/api/v1/pods":
		fmt.Fprintf(w, `{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[%s]}`, pod)
	case path == "/readyz":
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// secrecyChild is a hub as a process of its own, which can be made to die with all its goroutines in its last words.
func secrecyChild(dir string) {
	err := func() error {
		h, err := New(Config{
			Kubeconfig: filepath.Join(dir, "kubeconfig"), NodeName: "edge", RootDir: filepath.Join(dir, "root"), BindAddress: "127.0.0.1",
			Insecure: true, Version: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		if err != nil {
			return err
		}
		serving := h.plain.handler
		h.plain.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			serving.ServeHTTP(w, r)
			if r.Header.Get("X-Test-Panic") != "" {
				panic("a handler panics")
			}
		})
		fmt.Println(h.plain.Addr(), h.AdminAddr())
		return h.Run(context.Background())
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// TestNoSecretInClear: after a life with secrets, by day and in the dark, none of them is in a file but the keys', in a log
// at any level, in metrics, in the status, or in what a panic and a crash leave behind.
func TestNoSecretInClear(t *testing.T) {
	s := newSite(t)
	s.api.Config.Handler = &vault{}
	key, err := os.ReadFile(s.path("client.pem"))
	s.must(err)
	_, private, _ := strings.Cut(string(key), "-----BEGIN EC PRIVATE KEY-----\n")
	private, _, _ = strings.Cut(private, "\n")
	needles := append(stored(), clientToken, private)

	said := s.liveWithSecrets(t)
	for what, text := range said {
		for _, n := range found(text, needles) {
			t.Errorf("%s has %s in it", what, n)
		}
	}
	root := s.path("root")
	files := 0
	s.must(filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == keyring.LocalFile || filepath.Base(filepath.Dir(name)) == "pki" {
			return err
		}
		data, err := os.ReadFile(name)
		for _, n := range found(data, needles) {
			t.Errorf("%s has %s in it", name, n)
		}
		files++
		return err
	}))
	if files == 0 {
		t.Error("no file was looked at")
	}

	// All that could be found was there to be found: it is where the same records are not sealed.
	clear := t.TempDir()
	copyUnsealed(t, filepath.Join(root, "store"), clear, readRing(t, root))
	names, err := filepath.Glob(filepath.Join(clear, "*.seg"))
	s.must(err)
	var all []byte
	for _, name := range names {
		data, err := os.ReadFile(name)
		s.must(err)
		all = append(all, data...)
	}
	for _, n := range stored() {
		if len(found(all, []string{n})) == 0 {
			t.Errorf("%s was never stored: its absence proves nothing", n)
		}
	}
}

// found returns the needles that are in data, as they are or in base64.
func found(data []byte, needles []string) []string {
	var in []string
	for _, n := range needles {
		if bytes.Contains(data, []byte(n)) || slices.ContainsFunc(inBase64(n), func(b string) bool { return bytes.Contains(data, []byte(b)) }) {
			in = append(in, n)
		}
	}
	return in
}

// inBase64 returns what a text looks like in the middle of more that is in base64.
func inBase64(text string) []string {
	var all []string
	for shift := range 3 {
		coded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat(" ", shift) + text))
		coded = coded[(shift*8+5)/6:]
		if (shift+len(text))%3 != 0 {
			coded = coded[:len(coded)-1]
		}
		all = append(all, coded)
	}
	return all
}

// liveWithSecrets runs a hub as a process, plants all secrets, lets a handler panic and kills the hub by SIGQUIT. It
// returns what the hub has said.
func (s *site) liveWithSecrets(t *testing.T) map[string][]byte {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), secrecyAddress+"="+s.dir, "GOTRACEBACK=all")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	s.must(err)
	s.must(cmd.Start())
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatalf("the hub does not start: %s", stderr.String())
	}
	var plain, admin string
	if _, err := fmt.Sscan(lines.Text(), &plain, &admin); err != nil {
		t.Fatal(err)
	}
	c := secretClient{t: t, base: "http://" + plain}

	await := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	c.base = "http://" + admin
	link := func(state string) func() bool {
		return func() bool {
			_, status := c.do(http.MethodGet, "/status", "", "Accept", "application/json")
			return bytes.Contains(status, []byte(`"state":"`+state+`"`)) || bytes.Contains(status, []byte(`"state": "`+state+`"`))
		}
	}
	await("the link does not come up", link("up"))
	c.base = "http://" + plain

	const secrets = "/api/v1/namespaces/shop/secrets?labelSelector=a%3Db"
	c.must(http.StatusOK, http.MethodGet, "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge&resourceVersion=0", "")
	c.must(http.StatusOK, http.MethodGet, secrets+"&resourceVersion=0", "")
	c.watchFor(secrets+"&watch=true&resourceVersion=7", watchedSecret)
	c.must(http.StatusOK, http.MethodGet, "/api/v1/namespaces/shop/secrets/other", "")
	request := `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{"audiences":["a"],"expirationSeconds":3600}}`
	c.must(http.StatusCreated, http.MethodPost, "/api/v1/namespaces/shop/serviceaccounts/web/token", request)
	c.must(http.StatusOK, http.MethodGet, "/api/v1/namespaces/shop/secrets/other", "", "Authorization", "Bearer "+clientToken)
	c.must(http.StatusOK, http.MethodGet, secrets+"&resourceVersion=0", "", "Authorization", "Bearer "+clientToken)
	_, _ = c.try(http.MethodGet, "/api/v1/namespaces/shop/secrets/other", "", "X-Test-Panic", "1", "Authorization", "Bearer "+clientToken)

	s.api.CloseClientConnections()
	s.api.Listener.Close()
	s.api.CloseClientConnections()
	c.base = "http://" + admin
	await("the link does not go down", link("down"))
	c.base = "http://" + plain
	event := `{"kind":"Event","apiVersion":"v1","metadata":{"name":"e","namespace":"shop"},"involvedObject":{"kind":"Pod","name":"web","namespace":"shop"},"reason":"Failed","message":"` + eventText + `"}`
	c.must(http.StatusCreated, http.MethodPost, "/api/v1/namespaces/shop/events", event)
	c.must(http.StatusCreated, http.MethodPost, "/api/v1/namespaces/shop/serviceaccounts/web/token", request)
	c.must(http.StatusOK, http.MethodGet, "/api/v1/namespaces/shop/secrets/other", "")

	said := map[string][]byte{}
	c.base = "http://" + admin
	_, said["/metrics"] = c.do(http.MethodGet, "/metrics", "")
	_, said["/status as text"] = c.do(http.MethodGet, "/status", "", "Accept", "text/plain")
	_, said["/status as JSON"] = c.do(http.MethodGet, "/status", "", "Accept", "application/json")
	s.must(cmd.Process.Signal(syscall.SIGQUIT))
	for lines.Scan() {
	}
	_ = cmd.Wait() // it was killed
	ended = true
	log := stderr.Bytes()
	for _, want := range []string{"level=DEBUG", "a handler panics", "SIGQUIT", "goroutine "} {
		if !bytes.Contains(log, []byte(want)) {
			t.Errorf("the log and the crash have no %q: not what this test is about", want)
		}
	}
	said["the log and the crash"] = log
	return said
}

type secretClient struct {
	t    *testing.T
	base string
}

func (c *secretClient) try(method, path, body string, headers ...string) (int, []byte) {
	r, err := http.NewRequest(method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body) // what there is
	return resp.StatusCode, data
}

func (c *secretClient) do(method, path, body string, headers ...string) (int, []byte) {
	c.t.Helper()
	code, data := c.try(method, path, body, headers...)
	if code == 0 {
		c.t.Fatalf("%s %s: no answer", method, path)
	}
	return code, data
}

func (c *secretClient) must(want int, method, path, body string, headers ...string) {
	c.t.Helper()
	if code, data := c.do(method, path, body, headers...); code != want {
		c.t.Fatalf("%s %s: %d, want %d: %s", method, path, code, want, data)
	}
}

// watchFor reads a watch until it has brought a text.
func (c *secretClient) watchFor(path, text string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, http.NoBody)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	c.t.Fatalf("watch %s: it ends without %s", path, text)
}

func readRing(t *testing.T, root string) *keyring.Ring {
	t.Helper()
	ring, err := keyring.Open(keyring.Places{Dir: root}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// copyUnsealed copies all records of a store into one that has no key.
func copyUnsealed(t *testing.T, from, to string, ring *keyring.Ring) {
	t.Helper()
	src, err := store.Open(from, store.Options{Keys: func() ([][]byte, error) { return ring.Keys, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := store.Open(to, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dst.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		dst.Close()
	}()
	for _, name := range src.Tables() {
		table, err := src.Table(name, store.KeepHistory)
		if err != nil {
			table, err = src.Table(name, store.NoHistory)
		}
		if err != nil {
			t.Fatal(err)
		}
		copied, err := dst.Table(name, store.NoHistory)
		if err != nil {
			t.Fatal(err)
		}
		copyTable(t, dst, table, copied)
	}
}

func copyTable(t *testing.T, dst *store.Store, from, to *store.Table) {
	t.Helper()
	view := from.View()
	defer view.Release()
	var b store.Batch
	for r, err := range view.Records("") {
		if err != nil {
			t.Fatal(err)
		}
		b.Put(to, r)
	}
	if err := dst.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
}
