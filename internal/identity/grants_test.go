package identity

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/request"
)

var secrets = Attributes{Verb: request.Watch, Resource: request.Resource{Version: "v1", Resource: "secrets"}, Namespace: "shop"}

// TestGrantsAreRenewed: hourly, for who is there, in both ways to read; a denial
// ends the stream.
func TestGrantsAreRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["a"] = User{Name: "a"} })
		caller, err := n.as("a")
		n.must(err)
		n.must(n.Check(t.Context(), caller, secrets))
		held, release := n.Hold(t.Context(), caller, secrets)
		defer release()
		time.Sleep(10 * time.Second)
		n.asked()
		time.Sleep(5 * time.Hour)
		counts := map[string]int{}
		for _, what := range n.asked() {
			counts[what]++
		}
		for _, what := range []string{"who is a", "may a watch secrets", "may a list secrets"} {
			if counts[what] < 4 || counts[what] > 5 {
				t.Errorf("asked %q %d times in five hours", what, counts[what])
			}
		}
		if held.Err() != nil {
			t.Error("the stream ended without a denial")
		}
		n.change(func() { n.denied["a watch secrets"] = true })
		time.Sleep(2 * reviewInterval)
		if held.Err() == nil {
			t.Error("the stream outlives the grant")
		}
		n.change(func() { n.down = true })
		n.restart()
		wants(t, "in the dark after the denial", n.Check(t.Context(), caller, secrets), ErrUnknown)
		list := secrets
		list.Verb = request.List
		wants(t, "in the dark what was not denied", n.Check(t.Context(), caller, list), nil)
	})
}

// TestTokenEndsItsStreams: when its owner, or its pod, is gone.
func TestTokenEndsItsStreams(t *testing.T) {
	for name, tc := range map[string]struct {
		end    func(*node, Caller)
		within time.Duration
	}{
		"revoked":              {func(n *node, _ Caller) { n.change(func() { delete(n.users, "t") }) }, 2 * reviewInterval},
		"refused to a feed":    {func(n *node, c Caller) { n.change(func() { delete(n.users, "t") }); n.Doubt(c.Credential) }, 5 * time.Second},
		"another's now":        {func(n *node, _ Caller) { n.change(func() { n.users["t"] = User{Name: "b"} }) }, 2 * reviewInterval},
		"pod gone":             {func(n *node, _ Caller) { n.change(func() { delete(n.users, "t"); delete(n.pods, "u1") }) }, 2 * renewInterval},
		"pod gone in the dark": {func(n *node, _ Caller) { n.change(func() { n.down = true; delete(n.pods, "u1") }) }, 2 * renewInterval},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *node) {
				n.change(func() { n.users["t"], n.pods["u1"] = bound("u1"), true })
				caller, err := n.as("t")
				n.must(err)
				n.must(n.Check(t.Context(), caller, secrets))
				held, release := n.Hold(t.Context(), caller, secrets)
				defer release()
				time.Sleep(30 * time.Minute)
				if held.Err() != nil {
					t.Fatal("the stream has ended without a reason")
				}
				tc.end(n, caller)
				time.Sleep(tc.within)
				if held.Err() == nil {
					t.Errorf("the stream is still open after %s", tc.within)
				}
			})
		})
	}
}

// TestHoldAfterTheEnd: a grant that ends between the look at it and the stream's
// beginning ends the stream.
func TestHoldAfterTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["t"] = User{Name: "a"} })
		caller, err := n.as("t")
		n.must(err)
		n.must(n.Check(t.Context(), caller, secrets))
		n.must(n.Withdraw(t.Context(), caller, secrets))
		held, release := n.Hold(t.Context(), caller, secrets)
		defer release()
		if held.Err() == nil {
			t.Error("the stream is open")
		}
	})
}

// TestHeldGrantIsNotForgotten: streams end with their grants, also when others
// have asked for so much that these went out of memory.
func TestHeldGrantIsNotForgotten(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["t"] = User{Name: "a"} })
		caller, err := n.as("t")
		n.must(err)
		n.must(n.Check(t.Context(), caller, secrets))
		held, release := n.Hold(t.Context(), caller, secrets)
		defer release()
		for i := range maxGrants + 1 {
			n.note(fmt.Sprint("another's ", i), grant{})
		}
		n.change(func() { n.denied["a "+string(secrets.Verb)+" secrets"] = true })
		time.Sleep(2 * reviewInterval)
		if held.Err() == nil {
			t.Error("the stream is still open")
		}
	})
}

// TestRolledBackStore: an old copy of the store revives no grant while the API
// server can be asked.
func TestRolledBackStore(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["a"] = User{Name: "a"} })
		caller, err := n.as("a")
		n.must(err)
		n.must(n.Check(t.Context(), caller, secrets))
		n.change(func() { n.denied["a watch secrets"] = true; delete(n.users, "a") })
		n.restart() // with what was granted before
		wants(t, "a revoked grant", n.Check(t.Context(), caller, secrets), ErrDenied)
		_, err = n.as("a")
		wants(t, "a revoked token", err, ErrUnauthenticated)
		n.change(func() { n.down = true })
		time.Sleep(time.Minute)
		wants(t, "in the dark after that", n.Check(t.Context(), caller, secrets), ErrUnknown)
	})
}

// TestAttributes: as the API server's RequestInfoFactory has them.
func TestAttributes(t *testing.T) {
	pods := request.Resource{Version: "v1", Resource: "pods"}
	namespaces := request.Resource{Version: "v1", Resource: "namespaces"}
	for url, want := range map[string]Attributes{
		"/api/v1/namespaces/shop/pods/web/log": {Verb: request.Get, Resource: pods, Subresource: "log", Namespace: "shop", Name: "web"},
		"/api/v1/pods?watch=1&labelSelector=a": {Verb: request.Watch, Resource: pods, LabelSelector: "a"},
		"/api/v1/namespaces/shop/pods?fieldSelector=metadata.name%3Dweb,spec.nodeName%3Dedge": {
			Verb: request.List, Resource: pods, Namespace: "shop", Name: "web", FieldSelector: "metadata.name=web,spec.nodeName=edge",
		},
		"/api/v1/namespaces/shop": {Verb: request.Get, Resource: namespaces, Namespace: "shop", Name: "shop"},
		"/api/v1/namespaces?fieldSelector=metadata.name%3Dshop": {
			Verb: request.List, Resource: namespaces, Name: "shop", FieldSelector: "metadata.name=shop",
		},
		"/version": {Verb: request.Get, Path: "/version"},
	} {
		r := httptest.NewRequest(http.MethodGet, url, http.NoBody)
		if got := AttributesOf(request.Parse(r), r.URL.Path); got != want {
			t.Errorf("%s: got %+v, want %+v", url, got, want)
		}
	}
}

// TestLateGrant: a review that was under way when the API server refused the very
// request brings nothing back.
func TestLateGrant(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["a"] = User{Name: "a"} })
		caller, err := n.as("a")
		n.must(err)
		gate := make(chan struct{})
		n.change(func() { n.block = gate })
		checked := make(chan error, 1)
		go func() { checked <- n.Check(t.Context(), caller, secrets) }()
		synctest.Wait()
		time.Sleep(time.Second)
		n.must(n.Withdraw(t.Context(), caller, secrets))
		n.change(func() { n.block = nil })
		close(gate)
		wants(t, "a review that is older than the refusal", <-checked, ErrDenied)
		n.change(func() { n.down = true })
		time.Sleep(time.Minute)
		wants(t, "in the dark after that", n.Check(t.Context(), caller, secrets), ErrUnknown)
		n.change(func() { n.down = false })
		wants(t, "a review after the refusal", n.Check(t.Context(), caller, secrets), nil)
	})
}
