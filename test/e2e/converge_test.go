package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/scenario"
)

// What the cloud decided during the cut happens on the node when the link
// returns, exactly that, and containers that it does not concern run on.
func TestConvergesAfterTheCut(t *testing.T) {
	s := begin(t)
	ctx := t.Context()
	before := s.running(t, s.edge)
	s.cutBoth(t)

	must(t, scenario.Decide(ctx, s.client, "edge"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := scenario.Undo(ctx, s.Cluster, "edge"); err != nil {
			t.Errorf("undo: %v", err)
		}
	})
	time.Sleep(3 * time.Second) // the controllers in the cloud act on it; the node must not hear of it
	s.unchanged(t, before)

	mark, err := s.AuditNow()
	must(t, err)
	cloudRevision := s.cloudRevision(t)
	healed := time.Now()
	must(t, s.edge.Heal(ctx))
	must(t, s.bare.Heal(ctx))
	s.checkCaughtUp(t, healed, cloudRevision, mark)

	await(t, "the node runs what the cloud decided", time.Minute, func(ctx context.Context) error {
		now, err := scenario.Running(ctx, s.edge)
		if err != nil {
			return err
		}
		return scenario.Decided(now, "edge")
	})
	t.Logf("converged %v after the heal", time.Since(healed).Round(100*time.Millisecond))
	after := s.running(t, s.edge)
	for name, pod := range before {
		if scenario.Concerned(name, "edge") {
			continue
		}
		if after[name] != pod {
			t.Errorf("%s was not concerned, and is another container: %+v, was %+v", name, after[name], pod)
		}
	}
	s.checkGreeting(t, after)
}

func (s *site) unchanged(t *testing.T, before map[string]scenario.Pod) {
	t.Helper()
	now := s.running(t, s.edge)
	if len(now) != len(before) {
		t.Errorf("the node runs %v in the dark, had %v", scenario.Names(now), scenario.Names(before))
	}
}

// checkGreeting: the new pods have the ConfigMap as it was changed in the dark.
func (s *site) checkGreeting(t *testing.T, pods map[string]scenario.Pod) {
	t.Helper()
	for _, pod := range scenario.Of(pods, scenario.Web("edge")) {
		await(t, pod.Name+" has the changed ConfigMap", 30*time.Second, func(ctx context.Context) error {
			got, err := scenario.Ask(ctx, s.edge, pod, "/file"+scenario.SettingsFile)
			if err != nil {
				return err
			}
			if got != scenario.ChangedGreeting {
				return fmt.Errorf("it has %q", got)
			}
			return nil
		})
	}
}

// cloudRevision returns the version that the cloud has reached.
func (s *site) cloudRevision(t *testing.T) uint64 {
	t.Helper()
	list, err := s.client.CoreV1().Pods(scenario.Namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	var newest uint64
	for _, pod := range list.Items {
		if pod.Spec.NodeName == "edge" {
			newest = max(newest, parse(t, pod.ResourceVersion))
		}
	}
	return newest
}

func parse(t *testing.T, version string) (n uint64) {
	t.Helper()
	if _, err := fmt.Sscan(version, &n); err != nil {
		t.Fatalf("parse resourceVersion %q: %v", version, err)
	}
	return n
}

// catchUp is how long the replica may take after the heal: 5 s, and the jitter
// of the feeds.
const catchUp = 6 * time.Second

// checkCaughtUp asserts that the replica of the node's pods is at the cloud's
// version soon after the heal, and that the hub has listed nothing for it: the
// API server still had the history.
func (s *site) checkCaughtUp(t *testing.T, healed time.Time, revision uint64, mark cluster.AuditMark) {
	t.Helper()
	await(t, fmt.Sprintf("the replica of the node's pods is at version %d", revision), 30*time.Second, func(ctx context.Context) error {
		status, err := s.hub(ctx)
		if err != nil {
			return err
		}
		for _, c := range status.Collections {
			if strings.HasPrefix(c.Path, "/api/v1/pods?") && c.Identity == "node" {
				if c.Revision >= revision {
					return nil
				}
				return fmt.Errorf("it is at %d, %s", c.Revision, c.Phase)
			}
		}
		return errors.New("there is no such replica")
	})
	took := time.Since(healed)
	t.Logf("the replica is at the cloud's version %v after the heal", took.Round(10*time.Millisecond))
	if took > catchUp {
		t.Errorf("the replica took %v to catch up, want at most %v", took, catchUp)
	}
	requests, err := s.AuditSince(mark)
	must(t, err)
	for _, r := range requests {
		if r.UserAgent == "yurthub" && r.Verb == "list" && !strings.Contains(r.RequestURI, "limit=1&") { // whether history goes on
			t.Errorf("the hub listed after the heal: %s", r.RequestURI)
		}
	}
}
