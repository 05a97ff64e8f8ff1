package semantics

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
)

// stream is a watch that is open, as simply as it can be read.
type stream struct {
	resp  *http.Response
	lines *bufio.Scanner
}

func (n *node) follow(t *testing.T, path string) *stream {
	t.Helper()
	return n.followAs(t, n.site.tokens[administrator], path)
}

func (n *node) followAs(t *testing.T, token, path string) *stream {
	t.Helper()
	at := n.endpoint()
	ctx, cancel := context.WithCancel(context.Background())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url+path, http.NoBody)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := at.http.Do(r)
	must(t, err)
	t.Cleanup(func() {
		cancel()
		resp.Body.Close()
	})
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	return &stream{resp, bufio.NewScanner(resp.Body)}
}

// until reads the stream up to an event of an object. It fails when the stream
// ends, or nothing comes.
func (s *stream) until(t *testing.T, name string) {
	t.Helper()
	stop := time.AfterFunc(time.Minute, func() { s.resp.Body.Close() })
	defer stop.Stop()
	for s.lines.Scan() {
		var event struct {
			Object struct{ Metadata metav1.ObjectMeta }
		}
		must(t, json.Unmarshal(s.lines.Bytes(), &event))
		if event.Object.Metadata.Name == name {
			return
		}
	}
	t.Fatalf("the watch ends before it tells of %s: %v", name, s.lines.Err())
}

func (s *site) makeMap(t *testing.T, namespace, name string) {
	t.Helper()
	_, err := s.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
}

// TestWatchSurvivesTheServer: the same stream goes on when the API server is
// restarted, and when it is to be found at another address.
func TestWatchSurvivesTheServer(t *testing.T) {
	s, n := shared, newNode(t)
	const path = "/api/v1/namespaces/shop/configmaps?watch=1"
	w := n.follow(t, path)
	w.until(t, "m00")
	s.makeMap(t, "shop", "before-the-restart")
	w.until(t, "before-the-restart")
	must(t, s.Cloud().RestartService(t.Context(), cluster.APIServer(0)))
	s.awaitServer(t)
	s.makeMap(t, "shop", "after-the-restart")
	w.until(t, "after-the-restart")

	// Another address: the hub knows both, and this one is gone for good.
	moved := s.newLink(t)
	n.stop()
	n.servers = append(n.servers, moved.url())
	n.start()
	n.awaitLink("up")
	w = n.follow(t, path)
	w.until(t, "m00")
	n.set(cut)
	s.makeMap(t, "shop", "after-the-move")
	w.until(t, "after-the-move")
}

// awaitServer waits until the API server serves again.
func (s *site) awaitServer(t *testing.T) {
	t.Helper()
	await(t, "the API server serves", 2*time.Minute, func(ctx context.Context) error {
		if _, err := s.revision(ctx); err != nil {
			return err
		}
		_, err := s.dynamic.Resource(mice).List(ctx, metav1.ListOptions{Limit: 1})
		return err
	})
}

// backup copies etcd's files while it stands still.
func (s *site) backup(t *testing.T) (restore func()) {
	t.Helper()
	data, copied := s.Cloud().Path("var/lib/etcd"), filepath.Join(t.TempDir(), "etcd")
	s.standstill(t, func() { must(t, os.CopyFS(copied, os.DirFS(data))) })
	return func() {
		t.Helper()
		s.standstill(t, func() {
			must(t, os.RemoveAll(data))
			must(t, os.CopyFS(data, os.DirFS(copied)))
			must(t, os.Chmod(data, 0o700))
		})
	}
}

// standstill does something while neither API server nor etcd run.
func (s *site) standstill(t *testing.T, do func()) {
	t.Helper()
	// By itself the API server would wait for its watches to end.
	must(t, s.Cloud().Kill(t.Context(), cluster.APIServer(0), syscall.SIGKILL))
	for _, service := range []string{cluster.APIServer(0), cluster.Etcd} {
		must(t, s.Cloud().StopService(t.Context(), service))
	}
	do()
	must(t, s.Cloud().Boot(t.Context(), cluster.APIServer(0)))
	s.awaitServer(t)
}

// TestRestoredFromABackup: etcd is restored from a backup, so that versions begin
// anew behind those that the node knows, and nothing is written afterwards. The
// hub finds out, says so loudly, and all clients get what there is now.
func TestRestoredFromABackup(t *testing.T) {
	const namespace = "restored"
	s, n := shared, newNode(t)
	s.makeAnchors(t, namespace)
	s.makeMap(t, namespace, "goes")
	restore := s.backup(t)
	n.awaitLink("up")
	var followers []*follower
	for _, f := range flavors() {
		w, err := f.start(n.config(administrator), namespace)
		must(t, err)
		t.Cleanup(w.stop)
		followers = append(followers, w)
	}
	maps := s.client.CoreV1().ConfigMaps(namespace)
	must(t, maps.Delete(t.Context(), "goes", metav1.DeleteOptions{}))
	s.makeMap(t, namespace, "comes")
	must(t, s.makeMouse(t.Context(), namespace, "comes", ""))
	for range 20 { // the node must not be reached again by chance
		_, err := maps.Update(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: anchor(0)}, Data: map[string]string{"at": time.Now().String()}}, metav1.UpdateOptions{})
		must(t, err)
	}
	want := s.has(t, namespace)
	for _, w := range followers {
		await(t, w.name+" has what is to be lost", time.Minute, func(context.Context) error { return same(w.wants(want), w.holds()) })
	}
	restore()
	want = s.has(t, namespace)
	if want.configMaps["goes"] == "" || want.configMaps["comes"] != "" {
		t.Fatalf("etcd is not what it was: %v", want.configMaps)
	}
	for _, w := range followers {
		await(t, w.name+" has what was restored", 2*time.Minute, func(context.Context) error { return same(w.wants(want), w.holds()) })
	}
	await(t, "the hub has said so", 10*time.Second, func(context.Context) error {
		said, err := os.ReadFile(n.log.Name())
		if err == nil && !strings.Contains(string(said), "level=ERROR msg=\"the API server has gone back in time") {
			err = errors.New("there is nothing in its log")
		}
		return err
	})
	s.makeMap(t, namespace, "later")
	want = s.has(t, namespace)
	for _, w := range followers {
		await(t, fmt.Sprintf("%s goes on", w.name), time.Minute, func(context.Context) error { return same(w.wants(want), w.holds()) })
	}
}
