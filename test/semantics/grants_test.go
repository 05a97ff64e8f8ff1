package semantics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rights are accounts and what they may do; nobody may do anything.
func rights() map[string][]rbacv1.PolicyRule {
	rule := func(resource, name string, verbs ...string) rbacv1.PolicyRule {
		r := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: verbs}
		if name != "" {
			r.ResourceNames = []string{name}
		}
		return r
	}
	return map[string][]rbacv1.PolicyRule{
		"all":     {rule("configmaps", "", "get", "list", "watch"), rule("secrets", "", "get", "list", "watch")},
		"lists":   {rule("secrets", "", "list")},
		"watches": {rule("secrets", "", "watch")},
		"gets":    {rule("secrets", "", "get")},
		"one":     {rule("secrets", "planted", "get", "list", "watch")}, // the kubelet's way: lists and watches of one name
		"other":   {rule("secrets", "other", "get", "list", "watch")},
		"maps":    {rule("configmaps", "", "get", "list", "watch")},
		"nobody":  nil,
	}
}

// reads are ways to get at what is planted.
func reads(namespace string) map[string]string {
	secrets := "/api/v1/namespaces/" + namespace + "/secrets"
	one := "fieldSelector=metadata.name%3Dplanted"
	return map[string]string{
		"list":                secrets,
		"list from a cache":   secrets + "?resourceVersion=0",
		"list of one":         secrets + "?" + one,
		"list of one, cached": secrets + "?resourceVersion=0&" + one,
		"watch":               secrets + "?watch=1&timeoutSeconds=1&resourceVersion=0",
		"WatchList":           secrets + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
		"watch of one":        secrets + "?watch=1&timeoutSeconds=1&resourceVersion=0&" + one,
		"get":                 secrets + "/planted",
		"map":                 "/api/v1/namespaces/" + namespace + "/configmaps/planted",
		"list of maps":        "/api/v1/namespaces/" + namespace + "/configmaps?resourceVersion=0",
	}
}

// makeRights makes the accounts in a namespace, and what is planted there. It
// returns their tokens.
func (s *site) makeRights(t *testing.T, namespace string) map[string]string {
	t.Helper()
	ctx := t.Context()
	_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(t, err)
	meta := metav1.ObjectMeta{Name: "planted"}
	_, err = s.client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = s.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	must(t, err)
	tokens := map[string]string{}
	for name, rules := range rights() {
		meta := metav1.ObjectMeta{Name: name}
		_, err := s.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
		must(t, err)
		_, err = s.client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
		must(t, err)
		_, err = s.client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: meta, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: name},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: name}},
		}, metav1.CreateOptions{})
		must(t, err)
		token, err := s.client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		must(t, err)
		tokens[name] = token.Status.Token
	}
	return tokens
}

// outcome is what a read got: the code, and whether it was what is planted.
type outcome struct {
	code  int
	found bool
}

func try(t *testing.T, at endpoint, path, token string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url+path, http.NoBody)
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := at.http.Do(r)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "stream error") { // a watch may be broken off
		must(t, err)
	}
	return outcome{resp.StatusCode, strings.Contains(string(body), `"data":{"k":`)}
}

// TestGrantsAreTheServers: accounts with all kinds of rights, in all ways to
// read. Online the hub says what the API server says. In the dark, and after a
// restart there, everybody has what they had and nothing else. What is withdrawn
// is gone, online, and in the dark after that.
func TestGrantsAreTheServers(t *testing.T) {
	const namespace = "rights"
	n := newNode(t)
	tokens := n.site.makeRights(t, namespace)
	direct := n.site.direct(t)
	had := map[string]outcome{}
	each := func(do func(t *testing.T, key, account, path string)) {
		t.Helper()
		for account := range rights() {
			for way, path := range reads(namespace) {
				do(t, account+": "+way, account, path)
			}
		}
	}
	each(func(t *testing.T, key, account, path string) {
		had[key] = try(t, direct, path, tokens[account])
		if got := try(t, n.endpoint(), path, tokens[account]); got != had[key] {
			t.Errorf("online, %s: the hub says %+v, the API server %+v", key, got, had[key])
		}
	})
	if had["all: WatchList"].code != http.StatusOK || !had["one: list of one"].found || had["lists: get"].code != http.StatusForbidden {
		t.Fatalf("the rights are not what they should be: %+v", had)
	}
	time.Sleep(3 * time.Second) // grants are asked for behind the answers
	dark := func(when string, revoked string) {
		t.Helper()
		found := 0
		each(func(t *testing.T, key, account, path string) {
			got := try(t, n.endpoint(), path, tokens[account])
			may := had[key].found && account != revoked
			switch {
			case got.found && !may:
				t.Errorf("%s, %s: got what it could not get before", when, key)
			case !got.found && may && account == "all":
				t.Errorf("%s, %s: got %d, and had it before", when, key, got.code)
			case got.code == http.StatusOK && !had[key].found, got.code == http.StatusNotFound:
				t.Errorf("%s, %s: got %d", when, key, got.code)
			}
			if got.found {
				found++
			}
		})
		t.Logf("%s: %d of %d reads are answered", when, found, len(had))
	}
	n.darken()
	dark("in the dark", "")
	n.restart()
	n.awaitLink("down")
	dark("after a restart in the dark", "")
	n.lighten()

	stream := n.followAs(t, tokens["all"], strings.Replace(reads(namespace)["watch"], "timeoutSeconds=1", "timeoutSeconds=600", 1))
	must(t, n.site.client.RbacV1().RoleBindings(namespace).Delete(t.Context(), "all", metav1.DeleteOptions{}))
	await(t, "nothing is answered that was revoked", time.Minute, func(context.Context) error {
		for way, path := range reads(namespace) {
			if got := try(t, n.endpoint(), path, tokens["all"]); got.found || got.code != http.StatusForbidden {
				return fmt.Errorf("%s: %+v", way, got)
			}
		}
		return nil
	})
	ended := time.AfterFunc(time.Minute, func() { t.Error("the stream outlives what it was granted") })
	for stream.lines.Scan() { // until it ends
	}
	if !ended.Stop() {
		return
	}
	n.darken()
	dark("in the dark after it was revoked", "all")
}
