// Package condition tells the cloud how the hub stands, as a condition of the
// node: YurtHubHealthy is True while nothing is wrong with the hub, its credential,
// its clock and its disk, and False with the first reason otherwise. What ended
// while the cloud could not be told is not told.
//
// It guarantees that the condition is what the node's own facts say within a
// minute of the link's being up, or five if that is refused, and that nothing is written while nothing has
// changed but a heartbeat each hour. It never touches another condition.
package condition

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/backoff"
	"yurt/internal/credential"
)

// Type is the condition's.
const Type corev1.NodeConditionType = "YurtHubHealthy"

const (
	interval  = time.Minute
	again     = 5 * time.Minute // after a refusal: the node may not be registered yet
	heartbeat = time.Hour
	timeout   = 10 * time.Second
)

// Problem is what is wrong.
type Problem struct {
	Reason  string // one word, as conditions have it
	Message string
}

// Upstream sends a request to an API server as somebody.
type Upstream interface {
	RoundTrip(*http.Request, credential.Credential) (*http.Response, error)
	WaitUp(context.Context) error
}

// Publisher keeps the condition of one node.
type Publisher struct {
	Node     string
	Upstream Upstream
	Problem  func() *Problem      // the first there is; nil: none
	Heard    func(*http.Response) // what an API server has answered; nil: nobody wants to know
	Logger   *slog.Logger

	said     corev1.NodeCondition // last
	complain string               // the last error, said once
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	for {
		if p.Upstream.WaitUp(ctx) != nil {
			return nil //nolint:nilerr // it ends with ctx
		}
		pause := interval
		if next, due := p.next(time.Now()); due && !p.publish(ctx, next) {
			pause = again
		}
		if backoff.Sleep(ctx, pause) != nil {
			return nil //nolint:nilerr // as above
		}
	}
}

// next is what is to be said, and whether it is to be said now.
func (p *Publisher) next(now time.Time) (corev1.NodeCondition, bool) {
	next := corev1.NodeCondition{
		Type: Type, Status: corev1.ConditionTrue, Reason: "YurtHubServes",
		Message: "the node's hub serves, and knows of nothing that is wrong with it",
	}
	if problem := p.Problem(); problem != nil {
		next.Status, next.Reason, next.Message = corev1.ConditionFalse, problem.Reason, problem.Message
	}
	next.LastHeartbeatTime, next.LastTransitionTime = metav1.NewTime(now), p.said.LastTransitionTime
	if next.Status != p.said.Status {
		next.LastTransitionTime = next.LastHeartbeatTime
	}
	same := next.Status == p.said.Status && next.Reason == p.said.Reason && next.Message == p.said.Message
	return next, !same || now.Sub(p.said.LastHeartbeatTime.Time) >= heartbeat
}

func (p *Publisher) publish(ctx context.Context, next corev1.NodeCondition) (done bool) {
	err := p.patch(ctx, next)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		p.said, p.complain = next, ""
	case err.Error() != p.complain:
		p.complain = err.Error()
		p.Logger.Warn("the node's condition could not be written", "condition", Type, "error", err)
	}
	return err == nil
}

// patch merges the condition into the node's by its type.
func (p *Publisher) patch(ctx context.Context, next corev1.NodeCondition) error {
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{next}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPatch, "/api/v1/nodes/"+url.PathEscape(p.Node)+"/status", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/strategic-merge-patch+json")
	r.Header.Set("Accept", "application/vnd.kubernetes.protobuf, application/json")
	r.Header.Set("User-Agent", "yurthub")
	resp, err := p.Upstream.RoundTrip(r, credential.Credential{Identity: credential.Node})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
		return err
	}
	if p.Heard != nil {
		p.Heard(resp)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("patch the status of node %s: the API server answers %s", p.Node, resp.Status)
	}
	return nil
}
