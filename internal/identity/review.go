package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"yurt/internal/credential"
	"yurt/internal/upstream"
)

const (
	// reviewTimeout is how long an answer is waited for that is needed.
	reviewTimeout = 5 * time.Second
	// shortPatience is how long one is waited for if what was said before will do.
	shortPatience = 2 * time.Second
	// maxReviews bounds the reviews under way: what clients send must not become
	// as many requests to the cloud.
	maxReviews = 8
)

// Upstream sends a request to an API server as somebody.
type Upstream interface {
	RoundTrip(*http.Request, credential.Credential) (*http.Response, error)
}

// Link tells whether the cloud can be reached.
type Link interface {
	Link() upstream.Link
	WaitKnown(context.Context)
}

// Reviewer asks the API server, as the node, which may create TokenReviews and
// SubjectAccessReviews.
type Reviewer struct {
	Upstream Upstream
	Link     Link
	Clock    *Clock
	Logger   *slog.Logger

	slots chan struct{}

	mu      sync.Mutex
	refused time.Time // since when the node's own credential is; zero: it is not
}

// NewReviewer returns a reviewer.
func NewReviewer(up Upstream, link Link, clock *Clock, log *slog.Logger) *Reviewer {
	return &Reviewer{Upstream: up, Link: link, Clock: clock, Logger: log, slots: make(chan struct{}, maxReviews)}
}

func (r *Reviewer) up() bool { return r.Link.Link().State == upstream.Up }

// NoteNode takes note of what an API server has answered to a request that went
// out as the node.
func (r *Reviewer) NoteNode(code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case code != http.StatusUnauthorized:
		r.refused = time.Time{}
	case r.refused.IsZero():
		r.refused = time.Now()
		r.Logger.Error("the API server no longer takes this node's own credential; what is known here is served")
	}
}

// NodeRefused is since when the API server has not taken the node's own
// credential; zero if it does.
func (r *Reviewer) NodeRefused() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// token asks whose a token is. The error is ErrUnauthenticated if it is
// nobody's.
func (r *Reviewer) token(ctx context.Context, token string, patience time.Duration) (User, error) {
	var review struct {
		Status struct {
			Authenticated bool `json:"authenticated"`
			User          User `json:"user"`
		} `json:"status"`
	}
	err := r.ask(ctx, "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]string{"token": token},
	}, &review, patience)
	if err != nil {
		return User{}, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated || review.Status.User.Name == "" {
		return User{}, ErrUnauthenticated
	}
	return review.Status.User, nil
}

// access asks whether somebody may do something.
func (r *Reviewer) access(ctx context.Context, user User, a Attributes, patience time.Duration) (allowed bool, err error) {
	var review struct {
		Status struct {
			Allowed bool `json:"allowed"`
			Denied  bool `json:"denied"`
		} `json:"status"`
	}
	spec := a.spec()
	spec["user"], spec["uid"], spec["groups"], spec["extra"] = user.Name, user.UID, user.Groups, user.Extra
	err = r.ask(ctx, "/apis/authorization.k8s.io/v1/subjectaccessreviews", map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec,
	}, &review, patience)
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}

// ask posts a review and reads its answer.
func (r *Reviewer) ask(ctx context.Context, path string, review, answer any, patience time.Duration) error {
	body, err := json.Marshal(review)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case r.slots <- struct{}{}:
		defer func() { <-r.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := r.Upstream.RoundTrip(req, credential.Credential{Identity: credential.Node})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.NoteNode(resp.StatusCode)
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("the API server answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(answer); err != nil {
		return err
	}
	if err := r.Clock.Note(context.WithoutCancel(ctx), resp); err != nil {
		r.Logger.Warn("a clock that is set back may revive tokens that have expired", "error", err)
	}
	return nil
}
