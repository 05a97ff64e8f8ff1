package condition

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"yurt/internal/credential"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api takes patches of the node edge.
type api struct {
	mu      sync.Mutex
	broken  bool
	patches []corev1.NodeCondition
}

func (*api) WaitUp(ctx context.Context) error { return ctx.Err() }

func (a *api) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.broken {
		return nil, errors.New("connection reset")
	}
	var node corev1.Node
	if err := json.NewDecoder(r.Body).Decode(&node); err != nil {
		return nil, err
	}
	code := http.StatusOK
	if !cred.Identity.IsNode() || r.Method != http.MethodPatch || r.URL.Path != "/api/v1/nodes/edge/status" || len(node.Status.Conditions) != 1 {
		code = http.StatusBadRequest
	}
	a.patches = append(a.patches, node.Status.Conditions...)
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

func (a *api) take() []corev1.NodeCondition {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.patches
	a.patches = nil
	return taken
}

// TestCondition: it follows the facts within a minute, and is otherwise silent
// but for a heartbeat each hour.
func TestCondition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud, heard := &api{}, 0
		var mu sync.Mutex
		var problem *Problem
		set := func(p *Problem) { mu.Lock(); defer mu.Unlock(); problem = p }
		p := &Publisher{
			Node: "edge", Upstream: cloud, Logger: slog.New(slog.DiscardHandler),
			Problem: func() *Problem { mu.Lock(); defer mu.Unlock(); return problem },
			Heard:   func(*http.Response) { heard++ },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		is := func(when string, n int, status corev1.ConditionStatus, reason string) corev1.NodeCondition {
			t.Helper()
			got := cloud.take()
			if len(got) != n {
				t.Fatalf("%s: %d patches, want %d: %+v", when, len(got), n, got)
			}
			if n == 0 {
				return corev1.NodeCondition{}
			}
			last := got[n-1]
			if last.Type != Type || last.Status != status || last.Reason != reason || last.Message == "" {
				t.Errorf("%s: %+v", when, last)
			}
			return last
		}
		time.Sleep(time.Second)
		first := is("at the start", 1, corev1.ConditionTrue, "YurtHubServes")
		time.Sleep(50 * time.Minute)
		is("nothing has changed", 0, "", "")
		time.Sleep(20 * time.Minute)
		if beat := is("an hour later", 1, corev1.ConditionTrue, "YurtHubServes"); !beat.LastTransitionTime.Equal(&first.LastTransitionTime) || !beat.LastHeartbeatTime.After(first.LastHeartbeatTime.Time) {
			t.Errorf("the heartbeat has %v and %v", beat.LastTransitionTime, beat.LastHeartbeatTime)
		}
		set(&Problem{Reason: "ClockWrong", Message: "ten years"})
		time.Sleep(interval)
		if bad := is("a problem", 1, corev1.ConditionFalse, "ClockWrong"); !bad.LastTransitionTime.After(first.LastTransitionTime.Time) {
			t.Error("the transition has no time of its own")
		}
		cloud.mu.Lock()
		cloud.broken = true
		cloud.mu.Unlock()
		set(nil)
		time.Sleep(10 * time.Minute)
		cloud.mu.Lock()
		cloud.broken = false
		cloud.mu.Unlock()
		time.Sleep(again)
		is("it is gone, and could not be said at once", 1, corev1.ConditionTrue, "YurtHubServes")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if heard != 4 {
			t.Errorf("heard %d answers", heard)
		}
	})
}
