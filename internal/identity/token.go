package identity

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"yurt/internal/credential"
	"yurt/internal/fairness"
	"yurt/internal/offline"
)

const (
	// reviewInterval is how long the API server's word holds while it can be
	// asked again.
	reviewInterval = time.Hour
	// retryInterval is how long an answer holds that it did not give.
	retryInterval = 10 * time.Second
	// podInterval is how often it is looked whether a token's pod is still there.
	podInterval = 5 * time.Second

	// maxSessions bounds what is held in memory; the book has the rest.
	maxSessions = 1024
)

// Authenticator tells who a request comes from.
type Authenticator struct {
	Node         string
	Reviewer     *Reviewer
	Certificates Certificates
	Tokens       *offline.Book // users, by their tokens' hash
	Own          *offline.Book // what the authenticator itself must not forget

	// HasPod tells whether this node has the pod, as far as is known here.
	HasPod func(namespace, name, uid string) bool
	// RootOfHost tells whether a connection to a local address comes from a
	// process of root outside of containers; nil: no.
	RootOfHost func(remote, local string) bool

	// Strangers bounds how often the API server is asked whose a token is that is
	// not known yet.
	Strangers fairness.Strangers

	reviews singleflight.Group

	mu              sync.Mutex
	key             []byte
	sessions        map[string]session   // by the token's hash
	refused         map[string]time.Time // until then the API server is not asked again
	lastCertificate string
}

// session is what is known of a token in use.
type session struct {
	caller   Caller
	until    time.Time // then it is asked for again
	podUntil time.Time // then it is looked for the pod again; zero: not at all
}

// record is a User as it is stored, with what the token says of itself.
type record struct {
	User
	Expires time.Time `json:"expires,omitzero"`
}

// Authenticate returns as whom r acts. The error is ErrUnauthenticated if nobody
// vouches for the client, ErrForeign if it is somebody else, and ErrUnknown if
// that can't be told now. A client certificate comes before a token, as at the
// API server.
func (a *Authenticator) Authenticate(r *http.Request, port Port) (Caller, error) {
	if port == Host && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.certificate(r.Context(), r.TLS.PeerCertificates[0])
	}
	header := r.Header.Get("Authorization")
	switch {
	case header == "" && (port == Plain || port == Host && a.rootOfHost(r)):
		return Caller{Credential: credential.Credential{Identity: credential.Node}}, nil
	case header == "":
		return Caller{}, ErrUnauthenticated
	}
	token := credential.BearerToken(header)
	if token == "" {
		return Caller{}, fmt.Errorf("%w: the Authorization header is not a bearer token", ErrUnauthenticated)
	}
	return a.bearer(r.Context(), token, r.RemoteAddr)
}

func callerOf(user User, token string) Caller {
	return Caller{
		Credential: credential.Credential{Identity: credential.Identity{Name: user.Name}, Token: token},
		User:       user, subject: user.subject(),
	}
}

// bearer returns whose a token is.
func (a *Authenticator) bearer(ctx context.Context, token, from string) (Caller, error) {
	hash, err := a.hash(ctx, token)
	if err != nil {
		return Caller{}, err
	}
	now := time.Now()
	a.mu.Lock()
	s, known := a.sessions[hash]
	refused := now.Before(a.refused[hash])
	a.mu.Unlock()
	switch {
	case refused:
		return Caller{}, ErrUnauthenticated
	case known && now.Before(s.until) && (s.podUntil.IsZero() || now.Before(s.podUntil)):
		return s.caller, nil
	case known && now.Before(s.until) && a.hasPod(s.caller.User):
		s.podUntil = now.Add(podInterval)
		a.remember(hash, s)
		return s.caller, nil
	}
	// Whoever asks first does so for all who wait; that it leaves is no reason
	// for the others to fail.
	learned, err, _ := a.reviews.Do(hash, func() (any, error) { return a.learn(context.WithoutCancel(ctx), hash, token, from) })
	if err != nil {
		return Caller{}, err
	}
	return learned.(Caller), nil //nolint:forcetypeassert // learn returns nothing else
}

// learn asks whose a token is. The API server's word now is worth more than
// that of before, but not worth a long wait.
func (a *Authenticator) learn(ctx context.Context, hash, token, from string) (Caller, error) {
	remembered, known := a.recall(hash)
	patience := reviewTimeout
	if known {
		patience = shortPatience
	} else {
		address, _, _ := net.SplitHostPort(from) // what is none is one stranger
		if err := a.Strangers.Ask(address); err != nil {
			return Caller{}, err
		}
		defer a.Strangers.Asked(address)
	}
	a.Reviewer.Link.WaitKnown(ctx)
	user, err := a.Reviewer.token(ctx, token, patience)
	now := time.Now()
	switch {
	case errors.Is(err, ErrUnauthenticated):
		return Caller{}, errors.Join(err, a.forget(ctx, hash))
	case err != nil && !known:
		return Caller{}, fmt.Errorf("whose token this is is %w: %w", ErrUnknown, err)
	case err != nil:
		if err := a.stillValid(remembered); err != nil {
			return Caller{}, err
		}
		caller := callerOf(remembered.User, token)
		a.remember(hash, session{caller: caller, until: now.Add(retryInterval)})
		return caller, nil
	}
	expires := expiry(token)
	s := session{caller: callerOf(user, token), until: now.Add(a.holdsFor(expires))}
	if user.pod().uid != "" {
		if s.podUntil = now.Add(podInterval); !a.hasPod(user) { // of another node, or not shown here yet
			s.podUntil, s.until = time.Time{}, now.Add(min(time.Minute, a.holdsFor(expires)))
		}
	}
	a.remember(hash, s)
	body, err := json.Marshal(record{User: user, Expires: expires})
	if err == nil {
		// Not being able to keep it is no reason to refuse it now.
		_ = a.Tokens.Keep(ctx, hash, offline.Answer{At: now, Body: body})
	}
	return s.caller, nil
}

// holdsFor is how long the API server's word on a token holds: not beyond the
// token's end. One that has ended by the clock here and not by the API server's
// is asked for again soon.
func (a *Authenticator) holdsFor(expires time.Time) time.Duration {
	if expires.IsZero() {
		return reviewInterval
	}
	return min(reviewInterval, max(retryInterval, expires.Sub(a.Reviewer.Clock.Now())))
}

// Issued notes a token that the API server has issued for a service account
// through this hub, bound to a pod of this node: the pod may show it for the first
// time in the dark. Its owner is who the pod's last token was, if that is known.
func (a *Authenticator) Issued(ctx context.Context, namespace, account string, t offline.Token) error {
	if t.UID == "" {
		return nil // without a pod it has no end here but its own, and its owner asks by itself
	}
	hash, err := a.hash(ctx, t.Token)
	if err != nil {
		return err
	}
	user := User{
		Name:   "system:serviceaccount:" + namespace + ":" + account,
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
		Extra:  map[string][]string{extraPodName: {t.Pod}, extraPodUID: {t.UID}},
	}
	for _, known := range a.Tokens.Questions("") {
		if r, ok := a.recall(known); ok && r.Name == user.Name && r.pod() == user.pod() {
			user = r.User
		}
	}
	body, err := json.Marshal(record{User: user, Expires: expiry(t.Token)})
	if err != nil {
		return err
	}
	return a.Tokens.Keep(ctx, hash, offline.Answer{At: time.Now(), Body: body})
}

// stillValid tells whether a token that was somebody's is so without the API
// server's word. One that is bound to a pod lives as long as the pod: the kubelet
// can't renew it in the dark.
func (a *Authenticator) stillValid(r record) error {
	if r.pod().uid != "" {
		if !a.hasPod(r.User) {
			return fmt.Errorf("%w: the token's pod is gone, or is %w", ErrUnknown, ErrUnknown)
		}
		return nil
	}
	if !r.Expires.IsZero() && a.Reviewer.Clock.Now().After(r.Expires) {
		return fmt.Errorf("%w: the token has expired on %s", ErrUnauthenticated, date(r.Expires))
	}
	return nil
}

func (a *Authenticator) hasPod(u User) bool {
	p := u.pod()
	return a.HasPod(p.namespace, p.name, p.uid)
}

func (a *Authenticator) recall(hash string) (record, bool) {
	answer, ok := a.Tokens.Recall(hash)
	if !ok {
		return record{}, false
	}
	var r record
	if err := json.Unmarshal(answer.Body, &r); err != nil || r.Name == "" {
		return record{}, false
	}
	return r, true
}

func (a *Authenticator) remember(hash string, s session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.refused, hash)
	if a.sessions == nil || len(a.sessions) >= maxSessions {
		a.sessions = map[string]session{}
	}
	a.sessions[hash] = s
}

// Confirmed tells whether a token that was refused is its owner's all the same:
// the word of an extension of the API is not the API server's. If it is not, or
// that can't be told, it is forgotten.
func (a *Authenticator) Confirmed(ctx context.Context, c credential.Credential) (bool, error) {
	if c.Token == "" {
		return true, nil
	}
	if _, err := a.Reviewer.token(ctx, c.Token, shortPatience); err == nil {
		return true, nil
	}
	hash, err := a.hash(ctx, c.Token)
	if err != nil {
		return false, err
	}
	return false, a.forget(ctx, hash)
}

func (a *Authenticator) forget(ctx context.Context, hash string) error {
	a.mu.Lock()
	delete(a.sessions, hash)
	if a.refused == nil || len(a.refused) >= maxSessions {
		a.refused = map[string]time.Time{}
	}
	a.refused[hash] = time.Now().Add(retryInterval)
	a.mu.Unlock()
	if _, ok := a.Tokens.Recall(hash); !ok {
		return nil
	}
	return a.Tokens.Forget(ctx, hash)
}

// doubt makes the next look at a token ask the API server.
func (a *Authenticator) doubt(ctx context.Context, c credential.Credential) {
	hash, err := a.hash(ctx, c.Token)
	if err != nil {
		return // then nothing is known under it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, hash)
}

const hashKey = "hash key"

// hash is under what a token is known: keyed, so that who gets hold of the
// store can't even tell whether a token that they have was used here.
func (a *Authenticator) hash(ctx context.Context, token string) (string, error) {
	a.mu.Lock()
	key := a.key
	a.mu.Unlock()
	if key == nil {
		var err error
		if key, err = a.makeKey(ctx); err != nil {
			return "", err
		}
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(token))
	return hex.EncodeToString(mac.Sum(nil)), nil
}

func (a *Authenticator) makeKey(ctx context.Context) ([]byte, error) {
	key, err, _ := a.reviews.Do(hashKey, func() (any, error) {
		answer, ok := a.Own.Recall(hashKey)
		key := answer.Body
		if !ok || len(key) != sha256.Size {
			key = make([]byte, sha256.Size)
			if _, err := rand.Read(key); err != nil {
				return nil, fmt.Errorf("make a key for tokens: %w", err)
			}
			// If it is not kept the tokens are asked for again after a restart.
			_ = a.Own.Keep(context.WithoutCancel(ctx), hashKey, offline.Answer{At: time.Now(), Body: key})
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.key = key
		return key, nil
	})
	if err != nil {
		return nil, err
	}
	return key.([]byte), nil //nolint:forcetypeassert // as above
}

// expiry is what a JSON Web Token (RFC 7519) says of its end; zero if it says
// nothing. It is read without looking at the signature: the API server has.
func expiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Expires == 0 {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0)
}

// serviceAccount reads a service account's user name.
func serviceAccount(user string) (namespace, name string) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", ""
	}
	namespace, name, _ = strings.Cut(rest, ":")
	return namespace, name
}
