package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/offline"
)

var (
	errUnauthenticated = errors.New("the API server does not know this token")
	errNotIdentified   = errors.New("whose token this is can't be learned while the cloud is away")
	errScheme          = errors.New("the Authorization header is not a bearer token")
)

// Identifier tells who a request comes from. A request without credentials is
// the node's: whoever reaches the plain loopback port acts as the node. Whose a
// bearer token is only the API server knows; its word, asked for by
// TokenReview, is remembered under the token's hash and holds offline too.
type Identifier struct {
	Upstream offline.Upstream
	Book     *offline.Book

	mu    sync.Mutex
	names map[string]string // by the token's hash
}

// namesLimit bounds the names kept in memory; the book has the others.
const namesLimit = 1024

const reviewTimeout = 5 * time.Second

// Identify returns as whom r acts. The error is errUnauthenticated if the API
// server refuses the token; otherwise it is not known and may be later.
func (i *Identifier) Identify(r *http.Request) (credential.Credential, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return credential.Credential{Identity: credential.Node}, nil
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

func (i *Identifier) learn(ctx context.Context, hash, token string) (string, error) {
	name, err := i.review(ctx, token)
	switch {
	case errors.Is(err, errUnauthenticated):
		return "", err
	case err != nil:
		a, ok := i.Book.Recall(hash)
		if !ok {
			return "", fmt.Errorf("%w: %w", errNotIdentified, err)
		}
		name = string(a.Body)
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

// review asks the API server whose token it is, as the node, which may create
// TokenReviews.
func (i *Identifier) review(ctx context.Context, token string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]string{"token": token},
	})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
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
