package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
	"yurt/internal/wire"
)

// kubectl returns a run of kubectl on the edge node, through the hub.
func (s *site) kubectl(ctx context.Context, t *testing.T, token string, args ...string) *exec.Cmd {
	t.Helper()
	argv := append([]string{"kubectl", "--server=" + component.YurtHubURL, "--certificate-authority=" + component.YurtHubCA,
		"--token=" + token, "--namespace=" + scenario.Namespace}, args...)
	cmd, err := s.edge.Command(ctx, argv...)
	must(t, err)
	return cmd
}

// Online nobody can tell the hub from the API server: what kubectl does goes
// through it.
func TestKubectlCannotTell(t *testing.T) {
	s := begin(t)
	token := s.token(t)
	pod := scenario.Solo("edge")
	run := func(stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := s.kubectl(ctx, t, token, args...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("kubectl %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	contains := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want it to contain %q", got, want)
		}
	}
	contains(run("", "get", "pods", "-o", "wide"), pod)
	contains(run("", "logs", pod), "serving on :8080")
	contains(run("", "exec", pod, "--", "/workload", "env"), "HOSTNAME="+pod)
	contains(run("", "exec", "-i", pod, "--", "/workload", "cat", scenario.TokenFile), "ey")
	contains(run(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"1"}}`, "apply", "-f", "-"), "created")
	contains(run(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied"},"data":{"a":"2"}}`, "apply", "-f", "-"), "configured")
	contains(run("", "get", "configmap", "applied", "-o", "jsonpath={.data.a}"), "2")
	contains(run("", "describe", "pod", pod), "already present on machine") // an event
	contains(run("", "delete", "configmap", "applied"), "deleted")
	s.checkGetWatch(t, token)
	s.checkPortForward(t, token, pod)
}

// checkGetWatch: kubectl get -w sees a change as it happens.
func (s *site) checkGetWatch(t *testing.T, token string) {
	t.Helper()
	for _, output := range []string{"wide", "json"} { // a Table, and objects from the replica
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		cmd := s.kubectl(ctx, t, token, "get", "configmaps", "-w", "-o", output)
		var out bytes.Buffer
		cmd.Stdout = &lockedWriter{w: &out}
		must(t, cmd.Start())
		time.Sleep(2 * time.Second)
		name := "watched-" + output
		created := s.kubectl(ctx, t, token, "create", "configmap", name)
		must(t, created.Run())
		err := scenario.Await(ctx, "kubectl get -w -o "+output+" shows the new object", func(context.Context) error {
			if !strings.Contains(cmd.Stdout.(*lockedWriter).String(), name) {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil {
			t.Errorf("%v; it printed %s", err, cmd.Stdout.(*lockedWriter).String())
		}
		must(t, s.client.CoreV1().ConfigMaps(scenario.Namespace).Delete(ctx, name, metav1.DeleteOptions{}))
		cancel()
		_ = cmd.Wait() // it was killed
	}
}

func (s *site) checkPortForward(t *testing.T, token, pod string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := s.kubectl(ctx, t, token, "port-forward", pod, "18080:8080")
	must(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer cancel()
	err := scenario.Await(ctx, "the forwarded port answers", func(ctx context.Context) error {
		got, err := scenario.Fetch(ctx, s.edge, "http://127.0.0.1:18080/")
		if err == nil && !strings.HasPrefix(got, pod) {
			return fmt.Errorf("it answers %q", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// crontabs is a custom resource whose objects have fields that no Go type
// knows, and whose list kind is no word with List at its end.
var crontabs = schema.GroupVersionResource{Group: "stable.example.com", Version: "v1", Resource: "crontabs"}

const crontabDefinition = `{
  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
  "metadata": {"name": "crontabs.stable.example.com"},
  "spec": {
    "group": "stable.example.com", "scope": "Namespaced",
    "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabsOfAllKinds"},
    "versions": [{"name": "v1", "served": true, "storage": true,
      "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]
  }}`

// Objects pass byte for byte: of built-in types in protobuf and JSON, and of a
// custom resource with fields that nobody knows; as an object, in a list and in
// a watch.
func TestBytesInBytesOut(t *testing.T) {
	s := begin(t)
	s.makeCrontabs(t)
	token := s.token(t)
	direct, inside := s.directClient(t), s.nodeClient(t)
	const (
		protobuf = "application/vnd.kubernetes.protobuf"
		jsonType = "application/json"
		metadata = ";as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1"
	)
	list := func(accept, transform string) string {
		if transform == "" {
			return accept
		}
		return accept + fmt.Sprintf(transform, "List")
	}
	crontab := "/apis/stable.example.com/v1/namespaces/" + scenario.Namespace + "/crontabs"
	pods := "/api/v1/namespaces/" + scenario.Namespace + "/pods"
	for _, tc := range []struct{ path, accept, transform string }{
		{crontab, jsonType, ""},
		{crontab, protobuf + "," + jsonType, ""},
		{pods, protobuf, ""},
		{pods, jsonType, ""},
		{"/apis/apps/v1/namespaces/" + scenario.Namespace + "/deployments", protobuf, ""},
		{"/api/v1/namespaces/" + scenario.Namespace + "/secrets", jsonType, ""},
		{"/apis/rbac.authorization.k8s.io/v1/clusterroles", protobuf, ""},
		{"/apis/rbac.authorization.k8s.io/v1/clusterroles", jsonType, ""},
		{"/apis/storage.k8s.io/v1/csidrivers", protobuf, ""}, // empty
		{"/apis/storage.k8s.io/v1/csidrivers", jsonType, ""},
		{pods, jsonType, metadata},
		{pods, protobuf, metadata},
		{crontab, jsonType, metadata},
	} {
		name := tc.path + " as " + tc.accept + tc.transform
		// From now on the collection is known, and its lists come from the
		// replica, consistent ones too.
		raw(t, inside, component.YurtHubURL+tc.path+"?resourceVersion=0", token, list(tc.accept, tc.transform))
		got, want, header, wantHeader := sameVersion(t,
			func() ([]byte, http.Header) {
				return raw(t, inside, component.YurtHubURL+tc.path, token, list(tc.accept, tc.transform))
			},
			func() ([]byte, http.Header) {
				return raw(t, direct, s.APIServerURLs()[0]+tc.path, "", list(tc.accept, tc.transform))
			})
		equalBytes(t, "list "+name, want, got)
		if header.Get("Content-Type") != wantHeader.Get("Content-Type") {
			t.Errorf("list %s: Content-Type %q, want %q", name, header.Get("Content-Type"), wantHeader.Get("Content-Type"))
		}
		if tc.path == crontab && tc.transform != "" {
			continue // the API server itself ends such a watch before its bookmark
		}
		// And the initial events of a WatchList.
		accept := tc.accept
		if tc.transform != "" {
			accept += fmt.Sprintf(tc.transform, "")
		}
		query := "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
		got, err := initialEvents(t, inside, component.YurtHubURL+tc.path+query, token, accept)
		must(t, err)
		await(t, "the API server sends all initial events", time.Minute, func(ctx context.Context) (err error) {
			// It waits until its cache is where etcd is, ends the watch if that takes 3 s, and nothing tells its cache of
			// a custom resource but a change of that resource.
			if tc.path == crontab {
				if err := s.makeCrontabElsewhere(ctx); err != nil {
					return err
				}
			}
			want, err = initialEvents(t, direct, s.APIServerURLs()[0]+tc.path+query, "", accept)
			return err
		})
		equalBytes(t, "watch "+name, want, got)
	}
}

// sameVersion makes two consistent lists until both are of the same version:
// somebody always renews a lease.
func sameVersion(t *testing.T, a, b func() ([]byte, http.Header)) (bodyA, bodyB []byte, headerA, headerB http.Header) {
	t.Helper()
	for range 100 {
		bodyA, headerA = a()
		bodyB, headerB = b()
		if headerA.Get("X-List-Version") == headerB.Get("X-List-Version") {
			return bodyA, bodyB, headerA, headerB
		}
	}
	t.Fatal("a hundred pairs of lists, and no two of the same version")
	return nil, nil, nil, nil
}

// raw fetches a list as it comes over the wire; the header X-List-Version tells
// its version.
func raw(t *testing.T, client *http.Client, target, token, accept string) ([]byte, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := send(ctx, client, target, token, accept)
	for refused := (*statusError)(nil); errors.As(err, &refused) && refused.code == http.StatusTooManyRequests; {
		time.Sleep(200 * time.Millisecond) // the storage of a new custom resource is being made
		resp, err = send(ctx, client, target, token, accept)
	}
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	resp.Header.Set("X-List-Version", listVersion(t, resp.Header.Get("Content-Type"), body))
	return body, resp.Header
}

// initialEvents reads a watch up to the bookmark that ends its initial events.
// That itself may differ: in its version, and in the empty fields of the kind,
// which the hub knows only once the API server has sent a bookmark.
func initialEvents(t *testing.T, client *http.Client, target, token, accept string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	resp, err := send(ctx, client, target, token, accept)
	must(t, err)
	defer resp.Body.Close()
	encoding, _ := wire.ParseContentType(resp.Header.Get("Content-Type"))
	var stream bytes.Buffer
	decoder := wire.NewWatchDecoder(io.TeeReader(resp.Body, &stream), encoding, 1<<20)
	for {
		event, err := decoder.Next()
		if err != nil {
			return nil, err
		}
		if event.Type == wire.Bookmark && event.InitialEventsEnd {
			return stream.Bytes()[:max(0, bytes.LastIndex(stream.Bytes(), []byte("BOOKMARK"))-len(`{"type":"`))], nil
		}
	}
}

func listVersion(t *testing.T, contentType string, body []byte) string {
	t.Helper()
	encoding, _ := wire.ParseContentType(contentType)
	l, err := wire.ReadList(bytes.NewReader(body), encoding, len(body)+1, func(wire.Item) error { return nil })
	must(t, err)
	return l.ResourceVersion
}

// makeCrontabElsewhere changes the resource, and nothing in the site's namespace.
func (s *site) makeCrontabElsewhere(ctx context.Context) error {
	client, err := dynamic.NewForConfig(s.RESTConfig())
	if err != nil {
		return err
	}
	object := unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": map[string]any{"generateName": "elsewhere-"},
	}}
	_, err = client.Resource(crontabs).Namespace(metav1.NamespaceDefault).Create(ctx, &object, metav1.CreateOptions{})
	return err
}

func (s *site) makeCrontabs(t *testing.T) {
	t.Helper()
	client, err := dynamic.NewForConfig(s.RESTConfig())
	must(t, err)
	var definition unstructured.Unstructured
	must(t, json.Unmarshal([]byte(crontabDefinition), &definition.Object))
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	_, err = definitions.Create(t.Context(), &definition, metav1.CreateOptions{})
	ignoreExisting(t, err)
	for n := range 3 {
		object := unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "stable.example.com/v1", "kind": "CronTab",
			"metadata": map[string]any{"name": fmt.Sprintf("tab-%d", n)},
			"unheard":  map[string]any{"of": []any{"<&>", "\u2028 ü 🚲", 1.5e300, nil, int64(n), map[string]any{"kind": "Trap", "metadata": map[string]any{"name": "x"}}}},
			"items":    []any{map[string]any{"metadata": 7}},
		}}
		await(t, "the custom resource can be created", 20*time.Second, func(ctx context.Context) error {
			_, err := client.Resource(crontabs).Namespace(scenario.Namespace).Create(ctx, &object, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
	}
}

// lockedWriter is a buffer that is read while it is written.
type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (l *lockedWriter) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.String()
}
