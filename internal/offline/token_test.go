package offline

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// uids stands for what the gateway knows: the uids of pods by name.
type uids map[string]string

func (u uids) Known(_ credential.Identity, _ request.Resource, namespace, name string, _ wire.Encoding) ([]byte, bool) {
	uid, ok := u[namespace+"/"+name]
	return fmt.Appendf(nil, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":%q,"uid":%q}}`, name, namespace, uid), ok
}

// TestTokensAreKept: per service account, audience, lifetime and bound pod; for
// as long as they are valid and, for a pod that is there, beyond.
func TestTokensAreKept(t *testing.T) {
	inDesk(t, func(t *testing.T, d *Desk) {
		there := uids{"shop/a": "1", "shop/b": "1"}
		d.Objects = there
		hour := int64(3600)
		ask := func(pod, uid, audience string, lifetime int64) Write {
			w := writeOf(t, "POST", "/api/v1/namespaces/shop/serviceaccounts/s/token", wire.JSON, tokenType, &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{
					Audiences: []string{audience}, ExpirationSeconds: &lifetime,
					BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod, UID: types.UID(uid)},
				},
			})
			return w
		}
		issue := func(w Write, pod, uid, token string) {
			t.Helper()
			answer := writeOf(t, "POST", "/", wire.JSON, tokenType, &authenticationv1.TokenRequest{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "s"},
				Spec:       authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", Name: pod, UID: types.UID(uid)}},
				Status:     authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))},
			})
			if err := d.Asked(t.Context(), w, "application/json", answer.Body); err != nil {
				t.Fatal(err)
			}
		}
		tokens := func(questions ...Write) (got []string) {
			for _, w := range questions {
				r := d.Serve(t.Context(), w, outage)
				if r.Code != http.StatusCreated {
					got = append(got, "none")
					continue
				}
				issued, err := decodeToken(Answer{ContentType: r.ContentType, Body: r.Body})
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, issued.Status.Token)
			}
			return got
		}
		expect := func(when string, want []string, questions ...Write) {
			t.Helper()
			if got := tokens(questions...); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}

		a, b := ask("a", "1", "api", hour), ask("b", "1", "api", hour)
		vault, longer, next := ask("a", "1", "vault", hour), ask("a", "1", "api", 2*hour), ask("b", "2", "api", hour)
		issue(a, "a", "1", "of a")
		issue(b, "b", "1", "of b")
		issue(vault, "a", "1", "for the vault")
		expect("kept apart", []string{"of a", "of b", "for the vault", "none", "none"}, a, b, vault, longer, next)

		issue(a, "a", "1", "of a, renewed")
		expect("the newest", []string{"of a, renewed"}, a)

		there["shop/b"] = "2" // a StatefulSet's next pod has the same name
		issue(next, "b", "2", "of the next b")
		expect("valid ones stay", []string{"of b", "of the next b"}, b, next)

		time.Sleep(2 * time.Hour)
		expect("an expired one is better than none", []string{"of a, renewed", "of b"}, a, b)
		issue(vault, "a", "1", "for the vault, renewed")
		expect("those of a pod that has gone are dropped, those of one that is there are not",
			[]string{"of a, renewed", "none", "of the next b", "for the vault, renewed"}, a, b, next, vault)
	})
}
