// Package semantics holds YurtHub against a real API server: the same request is
// sent to both, and whoever asks must not be able to tell which of them has
// answered, with the link there, gone and back; and the clients of the field
// (client-go in all its modes, controller-runtime, kubectl) must end with the
// API server's state, however the link behaves meanwhile.
//
// It guarantees that what may differ is named in one place (normal_test.go) and
// that everything else is compared byte for byte. It never asks the hub's own
// code what an answer means: client-go and apimachinery are the judges.
package semantics

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/clustertest"
)

// site is an API server with its etcd, and nobody else who writes: nodes it has
// none, and the stock controllers are stopped once they have made what every
// namespace has. All tests share it, one after the other.
type site struct {
	*cluster.Cluster
	client  kubernetes.Interface
	dynamic dynamic.Interface
	tokens  map[string]string // by the name of the account
	dir     string            // files of the site, such as the hub's kubeconfig
}

// The accounts that ask: one may do anything, one reads the ConfigMaps of the
// namespace shop and nothing else.
const (
	administrator = "administrator"
	reader        = "reader"
)

var shared *site //nolint:gochecknoglobals // a cluster for the package, made by TestMain

func TestMain(m *testing.M) {
	code := clustertest.Suite{Name: "semantics", Up: func(ctx context.Context) (c *cluster.Cluster, err error) {
		if shared, err = up(ctx); err != nil {
			return nil, err
		}
		return shared.Cluster, nil
	}}.Run(m)
	if shared != nil {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, "semantics:", err)
		}
	}
	os.Exit(code)
}

func up(ctx context.Context) (*site, error) {
	c, err := cluster.Up(ctx, cluster.Config{Owned: true, Progress: &binaries.Progress{Out: os.Stderr}})
	if err != nil {
		return nil, err
	}
	s := &site{Cluster: c, tokens: map[string]string{}}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(err, c.Down())
	}
	return s, nil
}

func (s *site) prepare(ctx context.Context) error {
	var err error
	if s.client, err = s.Client(); err != nil {
		return err
	}
	if s.dynamic, err = dynamic.NewForConfig(s.RESTConfig()); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "yurt-semantics-"); err != nil {
		return err
	}
	if err := s.writeKubeconfig(); err != nil {
		return err
	}
	for _, name := range []string{administrator, reader} {
		if err := s.makeAccount(ctx, name); err != nil {
			return fmt.Errorf("make account %s: %w", name, err)
		}
	}
	return s.makeWorld(ctx)
}

// writeKubeconfig writes the one with which hubs reach the cloud: the
// administrator's.
func (s *site) writeKubeconfig() error {
	tls := s.RESTConfig().TLSClientConfig
	for name, data := range map[string][]byte{
		"ca.crt": tls.CAData, "client.crt": tls.CertData, "client.key": tls.KeyData,
		"kubeconfig": fmt.Appendf(nil, `{
			"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}}],
			"users": [{"name": "u", "user": {"client-certificate": "client.crt", "client-key": "client.key"}}],
			"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}`),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeAccount makes a service account with a token.
func (s *site) makeAccount(ctx context.Context, name string) error {
	accounts := s.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: metav1.NamespaceSystem, Name: name}}
	if name == administrator {
		_, err := s.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	} else if err := s.grant(ctx, subjects); err != nil {
		return err
	}
	day := int64(24 * 60 * 60)
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	s.tokens[name] = token.Status.Token
	return nil
}

// grant lets the reader read the ConfigMaps of shop.
func (s *site) grant(ctx context.Context, to []rbacv1.Subject) error {
	_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.client.RbacV1().Roles("shop").Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: reader},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "list", "watch"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	_, err = s.client.RbacV1().RoleBindings("shop").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: reader}, Subjects: to, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: reader},
	}, metav1.CreateOptions{})
	return err
}

// endpoint is where a client can send requests: the API server, or a hub.
type endpoint struct {
	url  string
	http *http.Client
}

// direct is the API server, by a way that is never cut.
func (s *site) direct(t *testing.T) endpoint {
	t.Helper()
	return endpoint{s.APIServerURLs()[0], client(t, s.RESTConfig().CAData, s.Cloud().Dial)}
}

// client trusts an authority and shows no certificate; it asks for what it asks
// for, and for no compression by itself.
func client(t *testing.T, ca []byte, dial dialer) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		t.Fatal("no certificate to trust")
	}
	transport := &http.Transport{
		DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true, DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// await polls done until it returns nil.
func await(t *testing.T, what string, within time.Duration, done func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := poll(ctx, done); err != nil {
		t.Fatalf("wait until %s: %v", what, err)
	}
}

func poll(ctx context.Context, done func(context.Context) error) error {
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
