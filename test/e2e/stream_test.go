package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"yurt/internal/playground/component"
)

// Twenty cuts in a row, of random length, while objects change: a client that
// watches through the hub sees every event that a client of the API server
// sees, once, in the same order; and in the end both have the same.
func TestWatchesOutliveOutages(t *testing.T) {
	s := begin(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	namespace := s.namespace(t, "flapping")
	token := s.token(t)
	maps := s.client.CoreV1().ConfigMaps(namespace)
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "first"}}, metav1.CreateOptions{})
	must(t, err)

	list := "/api/v1/namespaces/" + namespace + "/configmaps"
	direct := record(t, s.directClient(t), s.APIServerURLs()[0]+list, "")
	inside := record(t, s.nodeClient(t), component.YurtHubURL+list, token)
	defer direct.stop()
	defer inside.stop()

	ctx, stopWriting := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() { s.churn(ctx, t, namespace, rand.New(rand.NewPCG(seed, 1))) })
	for range 20 {
		must(t, s.edge.Cut(t.Context()))
		time.Sleep(cutLength(random))
		must(t, s.edge.Heal(t.Context()))
		time.Sleep(time.Duration(500+random.IntN(1500)) * time.Millisecond)
	}
	stopWriting()
	writer.Wait()
	last, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "last"}}, metav1.CreateOptions{})
	must(t, err)
	for _, r := range []*recorder{direct, inside} {
		await(t, "the last event has arrived", 30*time.Second, func(context.Context) error { return r.has(last.ResourceVersion) })
	}
	want, got := direct.events(), inside.events()
	t.Logf("%d events", len(want))
	if len(want) < 100 {
		t.Errorf("only %d events: too few to show anything", len(want))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the client behind the hub saw other events (-API server +hub):\n%s", diff)
	}
	if n := inside.connections(); n != 1 {
		t.Errorf("the watch through the hub broke: %d connections, want 1", n)
	}
}

// cutLength is between 0.5 s and 20 s, mostly short.
func cutLength(random *rand.Rand) time.Duration {
	return 500*time.Millisecond + time.Duration(random.Float64()*random.Float64()*random.Float64()*19.5*float64(time.Second))
}

// churn changes ConfigMaps until ctx ends.
func (s *site) churn(ctx context.Context, t *testing.T, namespace string, random *rand.Rand) {
	maps := s.client.CoreV1().ConfigMaps(namespace)
	for n := 0; ctx.Err() == nil; n++ {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%d", random.IntN(20))}, Data: map[string]string{"n": fmt.Sprint(n)}}
		var err error
		switch random.IntN(4) {
		case 0:
			err = maps.Delete(ctx, object.Name, metav1.DeleteOptions{})
		case 1:
			_, err = maps.Create(ctx, object, metav1.CreateOptions{})
		default:
			_, err = maps.Update(ctx, object, metav1.UpdateOptions{})
		}
		var status interface{ Status() metav1.Status } // AlreadyExists and NotFound are part of it
		if err != nil && ctx.Err() == nil && !errors.As(err, &status) {
			t.Errorf("change %s: %v", object.Name, err)
			return
		}
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
	}
}

// recorder is a client that watches as simply as can be: it lists once, and
// notes every event; when the watch ends it goes on from the last version.
type recorder struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex
	log   []string
	last  string
	seen  map[string]bool
	conns int
	err   error
}

func record(t *testing.T, client *http.Client, list, token string) *recorder {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &recorder{cancel: cancel, done: make(chan struct{}), seen: map[string]bool{}}
	body := fetch(t, client, list, token)
	var head struct{ Metadata metav1.ListMeta }
	must(t, json.Unmarshal(body, &head))
	r.last = head.Metadata.ResourceVersion
	go func() {
		defer close(r.done)
		for ctx.Err() == nil {
			if err := r.watch(ctx, client, list, token); err != nil {
				r.mu.Lock()
				r.err = err
				r.mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	return r
}

func (r *recorder) watch(ctx context.Context, client *http.Client, list, token string) error {
	r.mu.Lock()
	r.conns++
	query := url.Values{"watch": {"1"}, "resourceVersion": {r.last}, "timeoutSeconds": {"3600"}}
	r.mu.Unlock()
	resp, err := send(ctx, client, list+"?"+query.Encode(), token, "application/json")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Type   string
			Object struct {
				Metadata metav1.ObjectMeta
				Data     map[string]string
			}
		}
		if err := decoder.Decode(&e); err != nil {
			return err
		}
		m := e.Object.Metadata
		r.mu.Lock()
		r.last = m.ResourceVersion
		r.seen[m.ResourceVersion] = true
		r.log = append(r.log, fmt.Sprintf("%s %s n=%s @%s", e.Type, m.Name, e.Object.Data["n"], m.ResourceVersion))
		r.mu.Unlock()
	}
}

func (r *recorder) stop() {
	r.cancel()
	<-r.done
}

func (r *recorder) has(version string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.seen[version] {
		return fmt.Errorf("at %s, last error %w", r.last, r.err)
	}
	return nil
}

func (r *recorder) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.log...)
}

func (r *recorder) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns
}

func send(ctx context.Context, client *http.Client, target, token, accept string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", accept)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		return nil, &statusError{resp.StatusCode, string(body)}
	}
	return resp, nil
}

type statusError struct {
	code int
	body string
}

func (e *statusError) Error() string { return fmt.Sprintf("answer %d: %s", e.code, e.body) }

func fetch(t *testing.T, client *http.Client, target, token string) []byte {
	t.Helper()
	resp, err := send(t.Context(), client, target, token, "application/json")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return body
}

// directClient is the administrator's, to the API server itself.
func (s *site) directClient(t *testing.T) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(s.RESTConfig())
	must(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// namespace makes a namespace that goes with the test.
func (s *site) namespace(t *testing.T, name string) string {
	t.Helper()
	namespaces := s.client.CoreV1().Namespaces()
	_, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	await(t, "the namespace is complete", 20*time.Second, func(ctx context.Context) error {
		_, err := s.client.CoreV1().ConfigMaps(name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() {
		if err := namespaces.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace: %v", err)
		}
	})
	return name
}

// token returns the token of an operator who may do everything: what kubectl
// on the node brings.
func (s *site) token(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	const name = "operator"
	accounts := s.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault)
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	ignoreExisting(t, err)
	_, err = s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: metav1.NamespaceDefault}},
	}, metav1.CreateOptions{})
	ignoreExisting(t, err)
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	return token.Status.Token
}

func ignoreExisting(t *testing.T, err error) {
	t.Helper()
	if !apierrors.IsAlreadyExists(err) {
		must(t, err)
	}
}

// The link is cut while the first list of a new collection is still arriving:
// the client gets an error or waits, and never a part for the whole.
func TestCutDuringTheFirstList(t *testing.T) {
	s := begin(t)
	const objects = 400 // and the one that every namespace has
	namespace := s.namespace(t, "large")
	filler := strings.Repeat("0123456789abcdef", 1024) // gzip must not make it small
	random := rand.New(rand.NewPCG(1, 2))
	for n := range objects {
		noise := make([]byte, 6000)
		for i := range noise {
			noise[i] = filler[random.IntN(len(filler))]
		}
		_, err := s.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%03d", n)}, Data: map[string]string{"noise": string(noise)},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	token := s.token(t)
	client := s.nodeClient(t)
	target := component.YurtHubURL + "/api/v1/namespaces/" + namespace + "/configmaps?resourceVersion=0"
	must(t, s.edge.Slow(t.Context(), 2000)) // kbit/s: the list takes several seconds
	answer := make(chan error, 1)
	go func() {
		items, err := countItems(t.Context(), client, target, token)
		if err == nil {
			err = fmt.Errorf("an answer with %d items", items)
		}
		answer <- err
	}()
	await(t, "the list is arriving", 20*time.Second, func(ctx context.Context) error {
		status, err := s.hub(ctx)
		if err != nil {
			return err
		}
		for _, c := range status.Collections {
			if strings.Contains(c.Path, namespace) && c.Phase == "listing" {
				return nil
			}
		}
		return errors.New("no collection is being listed")
	})
	time.Sleep(time.Second)
	must(t, s.edge.Cut(t.Context()))
	var refused *statusError
	if err := <-answer; !errors.As(err, &refused) || refused.code != http.StatusServiceUnavailable {
		t.Errorf("the client got: %v; want 503", err)
	}
	if items, err := countItems(t.Context(), client, target, token); err == nil {
		t.Errorf("a second client got a list of %d items in the dark", items)
	}
	must(t, s.edge.Heal(t.Context()))
	await(t, "the whole list is answered", time.Minute, func(ctx context.Context) error {
		items, err := countItems(ctx, client, target, token)
		if err == nil && items != objects+1 {
			t.Fatalf("a list of %d items, want %d", items, objects+1)
		}
		return err
	})
}

func countItems(ctx context.Context, client *http.Client, target, token string) (int, error) {
	resp, err := send(ctx, client, target, token, "application/json")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var list struct{ Items []json.RawMessage }
	if err := json.NewDecoder(bufio.NewReader(resp.Body)).Decode(&list); err != nil {
		return 0, err
	}
	return len(list.Items), nil
}

func equalBytes(t *testing.T, what string, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	from := max(0, at-60)
	t.Errorf("%s: %d bytes, the API server sends %d; they differ at %d:\nAPI server %q\nhub        %q",
		what, len(got), len(want), at, want[from:min(len(want), at+60)], got[from:min(len(got), at+60)])
}
