package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/proc"
	"yurt/internal/playground/scenario"
)

// Restarts in the dark cost nothing: no container restarts, nothing is lost.
func TestRestartsInTheDark(t *testing.T) {
	s := begin(t)
	ctx := t.Context()
	before := s.running(t, s.edge)
	s.cutBoth(t)
	restart := func(name string) func() error { return func() error { return s.edge.RestartService(ctx, name) } }
	kill := func() error { return s.edge.Kill(ctx, cluster.YurtHub, syscall.SIGKILL) }
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"kubelet restarts", restart(cluster.Kubelet)},
		{"hub is killed", kill},
		{"kube-proxy restarts", restart(cluster.KubeProxy)},
		{"all three at once", func() error { return errors.Join(kill(), restart(cluster.Kubelet)(), restart(cluster.KubeProxy)()) }},
	} {
		t.Log(step.what)
		must(t, step.do())
		s.awaitNodeWell(t)
		// The kubelet has seen its pods again and decided; give it the time to
		// decide wrongly.
		time.Sleep(3 * time.Second)
		if diff := cmp.Diff(before, s.running(t, s.edge)); diff != "" {
			t.Errorf("%s: containers changed (-before +after):\n%s", step.what, diff)
		}
	}
}

// awaitNodeWell waits until the edge node's services answer and the kubelet
// knows its pods.
func (s *site) awaitNodeWell(t *testing.T) {
	t.Helper()
	await(t, "the node's services answer", 30*time.Second, func(ctx context.Context) error {
		if _, err := s.hub(ctx); err != nil {
			return err
		}
		for _, url := range []string{"http://127.0.0.1:10248/healthz", "http://127.0.0.1:10256/livez"} {
			if _, err := scenario.Fetch(ctx, s.edge, url); err != nil {
				return err
			}
		}
		return nil
	})
}

// The founding scenario. Both nodes lose the link, then their power, and boot in
// the dark: every pod of the node behind the hub comes back, with its volumes,
// its environment and a token that the cloud accepts; the bare node gets its
// static pod and nothing else.
func TestPodsComeBackInTheDark(t *testing.T) {
	s := begin(t)
	ctx := t.Context()
	before := s.running(t, s.edge)
	s.cutBoth(t)
	for _, n := range s.Nodes() {
		must(t, n.PowerCut())
	}
	booted := time.Now()
	for _, n := range s.Nodes() {
		must(t, n.Boot(ctx))
	}
	after := s.awaitRunning(t, s.edge, scenario.PodsPerNode, time.Minute)
	took := time.Since(booted)
	t.Logf("all %d pods run %v after the boot began", scenario.PodsPerNode, took.Round(100*time.Millisecond))
	if took > 30*time.Second {
		t.Errorf("the last pod ran after %v, want at most 30s", took)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))); diff != "" {
		t.Errorf("other pods came back (-before +after):\n%s", diff)
	}
	token := s.checkContents(t, after)
	s.checkTables(t)
	s.checkBareLost(t)

	must(t, s.edge.Heal(ctx))
	must(t, s.bare.Heal(ctx))
	s.awaitLink(t, "up", 10*time.Second)
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	review, err := s.client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	must(t, err)
	if !review.Status.Authenticated {
		t.Errorf("the token that the pod got in the dark is not accepted: %s", review.Status.Error)
	}
	s.checkEventsReplayed(t, booted)
}

// checkContents looks at what a pod of the Deployment has, and returns its
// token.
func (s *site) checkContents(t *testing.T, pods map[string]scenario.Pod) (token string) {
	t.Helper()
	for _, pod := range scenario.Of(pods, scenario.Web("edge")) {
		for path, want := range map[string]string{
			"/file" + scenario.SettingsFile:   scenario.Greeting,
			"/file" + scenario.KeyFile:        scenario.KeyText,
			"/env/" + scenario.KeyVariable:    scenario.KeyText,
			"/env/KUBERNETES_SERVICE_HOST":    "", // any
			"/file" + scenario.TokenFile + "": "",
		} {
			var got string
			await(t, pod.Name+" answers", 20*time.Second, func(ctx context.Context) (err error) {
				got, err = scenario.Ask(ctx, s.edge, pod, path)
				return err
			})
			if want != "" && got != want || got == "" {
				t.Errorf("%s: %s = %q, want %q", pod.Name, path, got, want)
			}
			if strings.HasSuffix(path, scenario.TokenFile) {
				token = got
			}
		}
	}
	return token
}

// checkTables asserts that kube-proxy has made its tables from the replica, and
// that the bare node's has none.
func (s *site) checkTables(t *testing.T) {
	t.Helper()
	await(t, "kube-proxy on edge has its tables", 30*time.Second, func(ctx context.Context) error {
		return scenario.HasTables(ctx, s.edge)
	})
	if err := scenario.HasTables(t.Context(), s.bare); err == nil {
		t.Error("kube-proxy on the bare node has tables in the dark: this test could not fail")
	}
}

// checkBareLost asserts that the bare node has its static pod and no other. It
// is given as long as the node behind the hub had, and its kubelet is alive.
func (s *site) checkBareLost(t *testing.T) {
	t.Helper()
	pods := s.awaitRunning(t, s.bare, 1, 30*time.Second)
	if names := scenario.Names(pods); names[0] != scenario.Static("bare") {
		t.Errorf("the bare node runs %v", names)
	}
	time.Sleep(5 * time.Second)
	if names := scenario.Names(s.running(t, s.bare)); len(names) != 1 {
		t.Errorf("the bare node runs %v in the dark: this test could not fail", names)
	}
	status, err := s.bare.Service(t.Context(), cluster.Kubelet)
	must(t, err)
	if status.State != proc.Running {
		t.Errorf("the bare node's kubelet is %v", status.State)
	}
}

// checkEventsReplayed asserts that the cloud learns what happened in the dark:
// the kubelet's events, with the times at which they happened.
func (s *site) checkEventsReplayed(t *testing.T, booted time.Time) {
	t.Helper()
	await(t, "the events of the dark time are in the cloud", 30*time.Second, func(ctx context.Context) error {
		events, err := s.client.CoreV1().Events(scenario.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=Started"})
		if err != nil {
			return err
		}
		started := map[string]bool{}
		for _, e := range events.Items {
			if e.Source.Host == "edge" && e.LastTimestamp.After(booted.Add(-time.Second)) {
				started[e.InvolvedObject.Name] = true
			}
		}
		if len(started) < scenario.PodsPerNode-1 {
			return fmt.Errorf("Started is known of %v", slices.Sorted(maps.Keys(started)))
		}
		return nil
	})
	await(t, "the journal is replayed", 30*time.Second, func(ctx context.Context) error {
		status, err := s.hub(ctx)
		if err != nil {
			return err
		}
		if status.Journal.Pending != 0 {
			return fmt.Errorf("%+v", status.Journal)
		}
		if status.Journal.Dropped != 0 {
			t.Fatalf("events were dropped: %+v", status.Journal)
		}
		return nil
	})
}
