package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"yurt/internal/credential"
	"yurt/internal/offline"
	"yurt/internal/store"
	"yurt/internal/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a store, and an API server that answers reviews.
type node struct {
	t    testing.TB
	dir  string
	auth *Authenticator
	*Grants
	stop func()

	mu      sync.Mutex
	down    bool
	date    time.Time       // that the API server says it is; zero: the node's
	users   map[string]User // by token
	denied  map[string]bool // "user verb resource"
	pods    map[string]bool // uids of the node's
	certs   map[credential.Identity]*x509.Certificate
	reviews []string // since the last look
	under   int      // reviews under way
	most    int
	block   chan struct{} // reviews wait for it; nil: they don't
}

func newNode(t testing.TB) *node {
	n := &node{t: t, dir: t.TempDir(), users: map[string]User{}, denied: map[string]bool{}, pods: map[string]bool{}, certs: map[credential.Identity]*x509.Certificate{}}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) start() {
	n.t.Helper()
	log := slog.New(slog.DiscardHandler)
	st, err := store.Open(n.dir, store.Options{Logger: log})
	n.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	stored, renewed := make(chan error, 1), make(chan error, 1)
	go func() { stored <- st.Run(ctx) }()
	books := map[string]*offline.Book{}
	for _, name := range []string{"tokens", "own", "grants"} {
		books[name], err = offline.OpenBook(st, name)
		n.must(err)
	}
	reviewer := NewReviewer(n, n, OpenClock(books["own"]), log)
	n.auth = &Authenticator{Node: "edge", Reviewer: reviewer, Certificates: n, Tokens: books["tokens"], Own: books["own"], HasPod: n.hasPod}
	n.Grants = NewGrants(reviewer, n.auth, books["grants"], log)
	running, stopRunning := context.WithCancel(context.Background())
	go func() { renewed <- n.Run(running) }()
	n.stop = func() {
		stopRunning()
		n.must(<-renewed)
		cancel()
		n.must(<-stored)
		n.must(st.Close())
	}
}

func (n *node) restart() {
	n.stop()
	n.start()
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *node) hasPod(_, _, uid string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[uid]
}

func (n *node) Certificate(i credential.Identity) *x509.Certificate {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.certs[i]
}

func (n *node) WaitKnown(context.Context) {}

func (n *node) Link() upstream.Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		return upstream.Link{State: upstream.Down}
	}
	return upstream.Link{State: upstream.Up}
}

// RoundTrip answers a review.
func (n *node) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil || !cred.Identity.IsNode() {
		return nil, fmt.Errorf("a review that is not the node's: %w", err)
	}
	n.mu.Lock()
	block := n.block
	n.under++
	n.most = max(n.most, n.under)
	n.mu.Unlock()
	if block != nil {
		<-block
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.under--
	if n.down {
		return nil, upstream.ErrDown
	}
	var review struct {
		Spec struct {
			Token              string
			User               string
			ResourceAttributes struct{ Verb, Resource string }
		}
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, err
	}
	answer := httptest.NewRecorder()
	date := n.date
	if date.IsZero() {
		date = time.Now()
	}
	answer.Header().Set("Date", date.UTC().Format(http.TimeFormat))
	answer.WriteHeader(http.StatusCreated)
	status := map[string]any{}
	if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
		user, ok := n.users[review.Spec.Token]
		status["authenticated"], status["user"] = ok, user
		n.reviews = append(n.reviews, "who is "+review.Spec.Token)
	} else {
		what := review.Spec.User + " " + review.Spec.ResourceAttributes.Verb + " " + review.Spec.ResourceAttributes.Resource
		status["allowed"] = !n.denied[what]
		n.reviews = append(n.reviews, "may "+what)
	}
	if err := json.NewEncoder(answer).Encode(map[string]any{"status": status}); err != nil {
		return nil, err
	}
	return answer.Result(), nil
}

// asked is what the API server was asked since the last look.
func (n *node) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked := n.reviews
	n.reviews = nil
	return asked
}

func (n *node) as(token string) (Caller, error) {
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.Header.Set("Authorization", "Bearer "+token)
	return n.auth.Authenticate(r, Pods)
}

// inBubble runs a test with a time of its own, which begins in 2000.
func inBubble(t *testing.T, test func(*testing.T, *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newNode(t)) })
}

// jwt is a token that says when it ends.
func jwt(name string, expires time.Time) string {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":%q,"exp":%d}`, name, expires.Unix()))
	return "e30." + claims + ".c2ln"
}

func bound(uid string) User {
	return User{Name: "system:serviceaccount:shop:web", Extra: map[string][]string{extraPodName: {"web"}, extraPodUID: {uid}}}
}

func wants(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// TestTokensInTheDark: a token that was somebody's is so while its pod is there,
// however old it is; one without a pod until it ends.
func TestTokensInTheDark(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		pods, free := jwt("pod", time.Now().Add(time.Hour)), jwt("free", time.Now().Add(time.Hour))
		n.change(func() { n.users[pods], n.users[free], n.pods["u1"] = bound("u1"), User{Name: "free"}, true })
		for _, token := range []string{pods, free} {
			_, err := n.as(token)
			n.must(err)
		}
		n.change(func() { n.down = true })
		n.restart()
		for _, token := range []string{pods, free} {
			_, err := n.as(token)
			wants(t, "after a restart in the dark", err, nil)
		}
		_, err := n.as(pods + "x")
		wants(t, "a tampered token", err, ErrUnknown)
		_, err = n.as(jwt("other cluster's", time.Now().Add(time.Hour)))
		wants(t, "another cluster's token", err, ErrUnknown)
		time.Sleep(2 * time.Hour)
		_, err = n.as(pods)
		wants(t, "a pod's token that has expired", err, nil)
		_, err = n.as(free)
		wants(t, "a token without a pod that has expired", err, ErrUnauthenticated)
		n.change(func() { delete(n.pods, "u1"); n.pods["u2"] = true })
		time.Sleep(retryInterval)
		_, err = n.as(pods)
		wants(t, "a token whose pod is gone, and another has its name", err, ErrUnknown)
	})
}

// TestClockSetBackRevivesNothing: what API servers have said of the time holds
// when the node's clock says less, and over a restart.
func TestClockSetBackRevivesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		token := jwt("free", time.Now().AddDate(0, 0, 1))
		n.change(func() { n.users[token] = User{Name: "free"} })
		_, err := n.as(token)
		n.must(err)
		// Two days later the node boots, and its clock stands where it stood.
		n.change(func() { n.date = time.Now().AddDate(0, 0, 2); n.users["another"] = User{Name: "another"} })
		_, err = n.as("another")
		n.must(err)
		n.change(func() { n.down = true })
		n.restart()
		_, err = n.as(token)
		wants(t, "an expired token, by a clock that is set back", err, ErrUnauthenticated)
		if got := n.auth.Reviewer.Clock.Now(); got.Before(time.Now().AddDate(0, 0, 2).Add(-floorStep)) {
			t.Errorf("the time is %s", got)
		}
	})
}

// TestClockAheadIsNotRemembered: a clock that jumped ahead heals.
func TestClockAheadIsNotRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.date = time.Now().AddDate(-10, 0, 0); n.users["a"] = User{Name: "a"} })
		_, err := n.as("a")
		n.must(err)
		if skew := n.auth.Reviewer.Clock.Skew(); skew < 9*365*24*time.Hour {
			t.Errorf("the clock is %s ahead", skew)
		}
		n.restart()
		if got := n.auth.Reviewer.Clock.floor; got.After(time.Now().AddDate(-9, 0, 0)) {
			t.Errorf("the node's own clock, ten years ahead of the cloud's, has become the floor: %s", got)
		}
	})
}

// TestTokenHashIsKeyed: who has the store can't tell from it whether a token was
// used here.
func TestTokenHashIsKeyed(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["s3cret"] = User{Name: "a"} })
		_, err := n.as("s3cret")
		n.must(err)
		first := n.auth.Tokens.Questions("")
		sum := sha256.Sum256([]byte("s3cret"))
		if len(first) != 1 || strings.Contains(first[0], "s3cret") || first[0] == hex.EncodeToString(sum[:]) {
			t.Errorf("kept under %q", first)
		}
		n.restart()
		n.change(func() { n.down = true })
		_, err = n.as("s3cret")
		wants(t, "after a restart", err, nil)
		other := newNode(t)
		other.change(func() { other.users["s3cret"] = User{Name: "a"} })
		_, err = other.as("s3cret")
		other.must(err)
		if again := other.auth.Tokens.Questions(""); slices.Equal(first, again) {
			t.Error("two nodes keep the token under the same hash")
		}
	})
}

// TestFloodOfTokens: tokens that nobody knows don't become as many requests.
func TestFloodOfTokens(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.block = make(chan struct{}) })
		var clients sync.WaitGroup
		for i := range 200 {
			clients.Go(func() {
				_, err := n.as(fmt.Sprintf("guess-%d", i%100))
				if err == nil {
					t.Error("a guess is somebody's token")
				}
			})
		}
		synctest.Wait()
		n.change(func() { close(n.block); n.block = nil })
		clients.Wait()
		if n.most > maxReviews {
			t.Errorf("%d reviews at once, want %d at most", n.most, maxReviews)
		}
		n.asked()
		for range 100 {
			_, err := n.as("guess-1")
			wants(t, "a guess", err, ErrUnauthenticated)
		}
		if asked := n.asked(); len(asked) > 1 {
			t.Errorf("asked %d times about the same token", len(asked))
		}
	})
}

// TestTokenEndsInTime: what the API server said of a token does not outlast it,
// whether the cloud is there or not, and neither do its streams.
func TestTokenEndsInTime(t *testing.T) {
	for name, down := range map[string]bool{"online": false, "in the dark": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, n *node) {
				token := jwt("free", time.Now().Add(20*time.Minute))
				n.change(func() { n.users[token] = User{Name: "free"} })
				caller, err := n.as(token)
				n.must(err)
				n.must(n.Check(t.Context(), caller, secrets))
				held, release := n.Hold(t.Context(), caller, secrets)
				defer release()
				time.Sleep(19 * time.Minute)
				_, err = n.as(token)
				wants(t, "before its end", err, nil)
				n.change(func() {
					if n.down = down; !down {
						delete(n.users, token) // it has expired there, too
					}
				})
				time.Sleep(time.Minute + 2*retryInterval)
				_, err = n.as(token)
				wants(t, "after its end", err, ErrUnauthenticated)
				time.Sleep(2 * renewInterval)
				if held.Err() == nil {
					t.Error("its stream is still open")
				}
			})
		})
	}
}

// TestIssuedTokensAreKnown: a pod whose token was renewed through the hub shows
// the new one for the first time in the dark, and is who it was.
func TestIssuedTokensAreKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		user := bound("u1")
		user.UID, user.Groups = "account-uid", []string{"system:serviceaccounts", "system:authenticated"}
		user.Extra[extraCredentialID] = []string{"JTI=1"}
		n.change(func() { n.users["first"], n.pods["u1"], n.pods["u2"] = user, true, true })
		caller, err := n.as("first")
		n.must(err)
		n.must(n.Check(t.Context(), caller, secrets))
		issue := func(token, uid string) {
			n.must(n.auth.Issued(t.Context(), "shop", "web", offline.Token{Token: token, Pod: "web", UID: uid}))
		}
		issue("second", "u1")
		issue("another pod's", "u2")
		issue("gone pod's", "u3")
		issue("nobody's", "")
		n.change(func() { n.down = true })
		n.restart()
		caller, err = n.as("second")
		wants(t, "the pod with its new token", err, nil)
		wants(t, "what it was granted", n.Check(t.Context(), caller, secrets), nil)
		caller, err = n.as("another pod's")
		wants(t, "another pod, never seen before", err, nil)
		wants(t, "what its neighbour was granted", n.Check(t.Context(), caller, secrets), ErrUnknown)
		for _, token := range []string{"gone pod's", "nobody's"} {
			_, err = n.as(token)
			wants(t, token, err, ErrUnknown)
		}
	})
}

// TestExtensionsRefuseForThemselves: only the API server's word makes a token
// nobody's.
func TestExtensionsRefuseForThemselves(t *testing.T) {
	inBubble(t, func(t *testing.T, n *node) {
		n.change(func() { n.users["a"], n.users["b"], n.users["c"] = User{Name: "a"}, User{Name: "b"}, User{Name: "c"} })
		callers := map[string]Caller{}
		for _, token := range []string{"a", "b", "c"} {
			var err error
			callers[token], err = n.as(token)
			n.must(err)
		}
		confirmed := func(token string) bool {
			ok, err := n.auth.Confirmed(t.Context(), callers[token].Credential)
			n.must(err)
			return ok
		}
		if !confirmed("a") {
			t.Error("a token that is still its owner's was given up")
		}
		n.change(func() { delete(n.users, "b") })
		if confirmed("b") {
			t.Error("a token that is nobody's was kept")
		}
		n.change(func() { n.down = true })
		if confirmed("c") {
			t.Error("a refused token of which nothing could be learned was kept")
		}
		for token, want := range map[string]error{"a": nil, "b": ErrUnauthenticated, "c": ErrUnauthenticated} {
			_, err := n.as(token)
			wants(t, "in the dark, "+token, err, want)
		}
	})
}
