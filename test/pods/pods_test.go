// Package pods tells on a real cluster that programs in pods use the hub as they
// would use the API server, unmodified: by their environment, by the Service's name
// and by its address, through a cut, a boot in the dark, and the heal.
package pods

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"yurt/internal/credential"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
	"yurt/internal/playground/component"
	"yurt/internal/playground/scenario"
)

const (
	namespace = metav1.NamespaceDefault
	greeting  = "greeting"
	logs      = "/var/log/api"
	byName    = "https://kubernetes.default.svc"
)

type site struct {
	client    kubernetes.Interface
	edge      *cluster.Node
	byAddress string
}

// TestPodsUseTheHub: a pod's client-go and a client with nothing but the mounted
// token and certificate read and watch whatever happens to the link and the node.
func TestPodsUseTheHub(t *testing.T) {
	s := up(t)
	ctx := t.Context()
	ways := []string{"env", byName, s.byAddress}
	begun := time.Now()
	s.await(t, "all ways lead to the API", begun, "1", append(ways, "watch")...)
	s.checkTokensOnly(t)
	begun = time.Now()
	s.greet(t, "2")
	s.await(t, "a change is seen", begun, "2", append(ways, "watch")...)

	must(t, s.edge.Cut(ctx))
	s.awaitLink(t, "down")
	s.await(t, "all ways are open in the dark", time.Now(), "2", ways...)

	must(t, s.edge.PowerCut())
	booted := time.Now()
	must(t, s.edge.Boot(ctx))
	s.await(t, "all ways are open after a boot in the dark", booted, "2", append(ways, "watch")...)

	healed := time.Now()
	must(t, s.edge.Heal(ctx))
	s.awaitLink(t, "up")
	s.greet(t, "3")
	s.await(t, "a change is seen after the heal", healed, "3", append(ways, "watch")...)
}

func up(t *testing.T) *site {
	t.Helper()
	c := clustertest.Up(t, cluster.Config{
		DNS:               true,
		Nodes:             []cluster.NodeConfig{{Name: "edge", Hub: true, HubArgs: []string{"--enable-dummy-if"}}},
		TolerationSeconds: 3600,
	})
	s := &site{}
	var err error
	s.client, err = c.Client()
	must(t, err)
	s.edge, err = c.Node("edge")
	must(t, err)
	ctx := t.Context()
	service, err := s.client.CoreV1().Services(namespace).Get(ctx, "kubernetes", metav1.GetOptions{})
	must(t, err)
	s.byAddress = "https://" + service.Spec.ClusterIP
	_, err = s.client.CoreV1().ConfigMaps(namespace).Create(ctx, newGreeting("1"), metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: greeting},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: greeting},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: greeting},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "default", Namespace: namespace}},
	}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Spec: corev1.PodSpec{
			NodeName:                      "edge",
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers: []corev1.Container{{
				Name: "main", Image: cluster.WorkloadImage, ImagePullPolicy: corev1.PullNever,
				Args:         []string{"api", namespace, greeting, logs + "/reader", byName, s.byAddress},
				VolumeMounts: []corev1.VolumeMount{{Name: "logs", MountPath: logs}},
			}},
			Volumes: []corev1.Volume{{Name: "logs", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: logs, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	return s
}

// checkTokensOnly: on the pods' address there is nothing to be had without a token,
// not even with the kubelet's certificate and by root.
func (s *site) checkTokensOnly(t *testing.T) {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(s.edge.Path(component.KubeletCert), s.edge.Path(component.KubeletCert))
	must(t, err)
	ca, err := os.ReadFile(s.edge.Path(component.YurtHubRoot + "/pki/" + credential.PodAuthorityFile))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for what, shown := range map[string][]tls.Certificate{"nothing": nil, "the kubelet's certificate": {certificate}} {
		client := s.edge.HTTP()
		transport, ok := client.Transport.(*http.Transport)
		if !ok {
			t.Fatalf("a client with a %T", client.Transport)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: shown}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://169.254.2.1:10268/api/v1/nodes/edge", http.NoBody)
		must(t, err)
		resp, err := client.Do(req)
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("with %s: %s", what, resp.Status)
		}
		client.CloseIdleConnections()
	}
}

func newGreeting(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: greeting, Namespace: namespace}, Data: map[string]string{"greeting": text}}
}

func (s *site) greet(t *testing.T, text string) {
	t.Helper()
	_, err := s.client.CoreV1().ConfigMaps(namespace).Update(t.Context(), newGreeting(text), metav1.UpdateOptions{})
	must(t, err)
}

// await waits until the newest that each way has told is this greeting, since a
// time.
func (s *site) await(t *testing.T, what string, since time.Time, text string, ways ...string) {
	t.Helper()
	begun := time.Now()
	within(t, what, 90*time.Second, func(context.Context) error {
		newest, err := s.newest(since)
		if err != nil {
			return err
		}
		var errs []error
		for _, way := range ways {
			if want := fmt.Sprintf("ok %q", text); newest[way] != want {
				errs = append(errs, fmt.Errorf("%s: %s", way, newest[way]))
			}
		}
		return errors.Join(errs...)
	})
	t.Logf("%s: after %v", what, time.Since(begun).Round(100*time.Millisecond))
}

// newest returns what each way has told last of what began since a time.
func (s *site) newest(since time.Time) (map[string]string, error) {
	f, err := os.Open(s.edge.Path(logs + "/reader"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	newest := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		parts := strings.SplitN(lines.Text(), " ", 4)
		if len(parts) != 4 {
			continue // a power cut may leave half a line
		}
		at, err := time.Parse(time.RFC3339, parts[0])
		_, quoted := strconv.Unquote(parts[3])
		if err == nil && quoted == nil && !at.Before(since.Truncate(time.Millisecond)) {
			newest[parts[1]] = parts[2] + " " + parts[3]
		}
	}
	return newest, lines.Err()
}

func (s *site) awaitLink(t *testing.T, state string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, scenario.AwaitLink(ctx, s.edge, state))
}

func within(t *testing.T, what string, limit time.Duration, done func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	must(t, scenario.Await(ctx, what, done))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
