package gateway

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/offline"
)

var (
	errUnauthenticated = errors.New("no credential that the API server knows")
	errNotIdentified   = errors.New("whose token this is can't be learned now")
	errForeign         = errors.New("the client certificate is not this node's")
	errScheme          = errors.New("the Authorization header is not a bearer token")
)

// Identifier tells who a request comes from. On a TLS port a client certificate
// must be this node's kubelet's; it comes before a token, as at the API server. On
// the plain port a request without credentials is the node's: whoever reaches
// that port acts as the node. Whose a bearer token is only the API server knows;
// its word, asked for by TokenReview, is remembered under the token's hash and
// holds offline too.
type Identifier struct {
	Node     string
	Link     Link
	Upstream offline.Upstream
	Book     *offline.Book

	mu    sync.Mutex
	names map[string]string // by the token's hash
}

// namesLimit bounds the names kept in memory; the book has the others.
const namesLimit = 1024

const reviewTimeout = 5 * time.Second

// Identify returns as whom r acts. The error is errUnauthenticated if nobody
// vouches for the client, errForeign if it is somebody else; otherwise it is not
// known and may be later.
func (i *Identifier) Identify(r *http.Request) (credential.Credential, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return i.certificate(r.TLS.VerifiedChains[0][0])
	}
	header := r.Header.Get("Authorization")
	switch {
	case header == "" && r.TLS == nil:
		return credential.Credential{Identity: credential.Node}, nil
	case header == "":
		return credential.Credential{}, errUnauthenticated
	}
	token := credential.BearerToken(header)
	if token == "" {
		return credential.Credential{}, errScheme
	}
	hash := credential.TokenHash(token)
	i.mu.Lock()
	name, ok := i.names[hash]
	i.mu.Unlock()
	if !ok {
		var err error
		if name, err = i.learn(r.Context(), hash, token); err != nil {
			return credential.Credential{}, err
		}
	}
	return credential.Credential{Identity: credential.Identity{Name: name}, Token: token}, nil
}

// certificate accepts the kubelet of this node and nobody else: the hub can't
// act upstream as another.
func (i *Identifier) certificate(c *x509.Certificate) (credential.Credential, error) {
	if c.Subject.CommonName != "system:node:"+i.Node || !slices.Contains(c.Subject.Organization, "system:nodes") {
		return credential.Credential{}, errForeign
	}
	return credential.Credential{Identity: credential.Node}, nil
}

// learn asks whose a token is. The API server's word now is worth more than
// that of before, but not worth a long wait.
func (i *Identifier) learn(ctx context.Context, hash, token string) (string, error) {
	remembered, ok := i.Book.Recall(hash)
	patience := reviewTimeout
	if ok {
		patience = readDeadline
	}
	i.Link.WaitKnown(ctx)
	name, err := i.review(ctx, token, patience)
	switch {
	case errors.Is(err, errUnauthenticated):
		if ok {
			err = errors.Join(err, i.Book.Forget(context.WithoutCancel(ctx), hash))
		}
		return "", err
	case err != nil && !ok:
		return "", fmt.Errorf("%w: %w", errNotIdentified, err)
	case err != nil:
		name = string(remembered.Body)
	default:
		// Not being able to remember it is no reason to refuse it now.
		_ = i.Book.Keep(context.WithoutCancel(ctx), hash, offline.Answer{At: time.Now(), Body: []byte(name)})
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.names == nil || len(i.names) >= namesLimit {
		i.names = map[string]string{}
	}
	i.names[hash] = name
	return name, nil
}

// Forget drops what is known of a token, which the API server has refused.
func (i *Identifier) Forget(ctx context.Context, cred credential.Credential) error {
	if cred.Identity.IsNode() {
		return nil
	}
	hash := credential.TokenHash(cred.Token)
	i.mu.Lock()
	delete(i.names, hash)
	i.mu.Unlock()
	if _, ok := i.Book.Recall(hash); !ok {
		return nil
	}
	return i.Book.Forget(ctx, hash)
}

// review asks the API server whose token it is, as the node, which may create
// TokenReviews.
func (i *Identifier) review(ctx context.Context, token string, patience time.Duration) (string, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]string{"token": token},
	})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	resp, err := i.Upstream.RoundTrip(r, credential.Credential{Identity: credential.Node})
	if err != nil {
		return "", fmt.Errorf("review token: %w", err)
	}
	defer resp.Body.Close()
	var review struct {
		Status struct {
			Authenticated bool
			User          struct{ Username string }
		}
	}
	if resp.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("review token: the API server answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&review); err != nil {
		return "", fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated || review.Status.User.Username == "" {
		return "", errUnauthenticated
	}
	return review.Status.User.Username, nil
}
