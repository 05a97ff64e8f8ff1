package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"yurt/internal/adminapi"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/scenario"
)

const (
	patience = time.Minute      // for what is expected to happen
	lookout  = 10 * time.Second // for what is expected not to
)

// story is the founding scenario, told on a board.
type story struct {
	*board
	c          *cluster.Cluster
	client     kubernetes.Interface
	edge, bare *cluster.Node
	booted     time.Time // in the dark
	edgeBack   string    // how long all of its pods took then
	facts      []fact
}

func newStory(c *cluster.Cluster, b *board) (*story, error) {
	s := &story{board: b, c: c}
	var err error
	if s.client, err = c.Client(); err != nil {
		return nil, err
	}
	if s.edge, err = c.Node("edge"); err != nil {
		return nil, err
	}
	s.bare, err = c.Node("bare")
	return s, err
}

func (s *story) fact(what, edge, bare string) {
	s.facts = append(s.facts, fact{what, edge, bare})
}

func (s *story) tell(ctx context.Context) error {
	s.act("a real Kubernetes is up: control plane, two nodes")
	for _, chapter := range []func(context.Context) error{s.open, s.cut, s.takePower, s.heal} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// open starts the site on both nodes.
func (s *story) open(ctx context.Context) error {
	s.act("the site opens: a Deployment, a DaemonSet, a bare and a static pod each")
	if err := scenario.Open(ctx, s.c); err != nil {
		return err
	}
	return s.both(ctx, func(ctx context.Context, n *cluster.Node, say say) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if _, err := scenario.AwaitRunning(ctx, n, scenario.PodsPerNode); err != nil {
			return err
		}
		say("%d of %d pods run", scenario.PodsPerNode, scenario.PodsPerNode)
		return scenario.Await(ctx, "kube-proxy has its tables", func(ctx context.Context) error { return scenario.HasTables(ctx, n) })
	})
}

// cut takes the link, and decides in the cloud what the nodes can't hear.
func (s *story) cut(ctx context.Context) error {
	time.Sleep(3 * time.Second) // the hub takes in what the site has just become
	s.act("CUT: the link of both nodes is gone")
	for _, n := range s.c.Nodes() {
		if err := n.Cut(ctx); err != nil {
			return err
		}
	}
	if err := s.awaitLink(ctx, "down"); err != nil {
		return err
	}
	s.board.edge("YurtHub knows, and goes on serving")
	s.act("the cloud decides for edge: new ConfigMap, image, replicas, pods")
	return scenario.Decide(ctx, s.client, "edge")
}

// takePower kills everything on both nodes, and boots them in the dark.
func (s *story) takePower(ctx context.Context) error {
	s.act("POWER CUT: everything on both nodes dies, YurtHub too")
	for _, n := range s.c.Nodes() {
		if err := n.PowerCut(); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	s.act("BOOT in the dark")
	s.booted = time.Now()
	var mu sync.Mutex
	back := map[string]string{}
	err := s.both(ctx, func(ctx context.Context, n *cluster.Node, say say) error {
		if err := n.Boot(ctx); err != nil {
			return err
		}
		want := scenario.PodsPerNode
		took, count, err := returns(ctx, n, want, s.booted, say)
		mu.Lock()
		defer mu.Unlock()
		back[n.Config.Name] = fmt.Sprintf("%d of %d", count, want)
		if n == s.edge && count == want {
			s.edgeBack = fmt.Sprintf("%.1f s", took.Seconds())
		}
		return err
	})
	if err != nil {
		return err
	}
	s.fact("pods back in the dark", back["edge"], back["bare"])
	s.fact("tables of kube-proxy in the dark", s.tables(ctx, s.edge), s.tables(ctx, s.bare))
	return nil
}

// returns tells of each pod as it comes back, and counts them: until all are
// there, or nothing more has come for a while.
func returns(ctx context.Context, n *cluster.Node, want int, booted time.Time, say say) (time.Duration, int, error) {
	seen := map[string]bool{}
	last := time.Now()
	var took time.Duration
	for len(seen) < want && time.Since(last) < lookout {
		pods, err := scenario.Running(ctx, n)
		if ctx.Err() != nil {
			return 0, 0, ctx.Err()
		}
		if err == nil { // the runtime itself is just starting
			for _, name := range scenario.Names(pods) {
				if !seen[name] {
					seen[name] = true
					last, took = time.Now(), time.Since(booted)
					say("+ %s", name)
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(seen) < want {
		say("nothing more for %.0f s", lookout.Seconds())
		say("%d of %d pods are back", len(seen), want)
		return 0, len(seen), nil
	}
	say("all %d pods are back in %.1f s", want, took.Seconds())
	return took, len(seen), nil
}

func (s *story) tables(ctx context.Context, n *cluster.Node) string {
	ctx, cancel := context.WithTimeout(ctx, lookout)
	defer cancel()
	if err := scenario.Await(ctx, "tables", func(ctx context.Context) error { return scenario.HasTables(ctx, n) }); err != nil {
		return "none"
	}
	return "complete"
}

// heal gives the link back.
func (s *story) heal(ctx context.Context) error {
	before, err := scenario.Running(ctx, s.edge)
	if err != nil {
		return err
	}
	token, err := s.podToken(ctx, before)
	if err != nil {
		return err
	}
	mark, err := s.c.AuditNow()
	if err != nil {
		return err
	}
	s.act("HEAL: the link is back")
	healed := time.Now()
	for _, n := range s.c.Nodes() {
		if err := n.Heal(ctx); err != nil {
			return err
		}
	}
	if err := s.awaitLink(ctx, "up"); err != nil {
		return err
	}
	s.board.edge("YurtHub is back in touch after %.1f s", time.Since(healed).Seconds())
	if err := s.converge(ctx, healed); err != nil {
		return err
	}
	if err := s.checkKept(ctx, before); err != nil {
		return err
	}
	if err := s.checkToken(ctx, token); err != nil {
		return err
	}
	return s.report(ctx, mark)
}

// podToken returns the token that a pod got in the dark.
func (s *story) podToken(ctx context.Context, pods map[string]scenario.Pod) (token string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	web := scenario.Of(pods, scenario.Web("edge"))
	if len(web) == 0 {
		return "", errors.New("no pod of the Deployment came back")
	}
	err = scenario.Await(ctx, "a pod shows its token", func(ctx context.Context) (err error) {
		token, err = scenario.Ask(ctx, s.edge, web[0], "/file"+scenario.TokenFile)
		return err
	})
	return token, err
}

// converge waits until edge runs what the cloud decided, and bare runs all of its
// pods again.
func (s *story) converge(ctx context.Context, healed time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var edge, bare time.Duration // since the heal, since the boot
	err := s.both(ctx, func(ctx context.Context, n *cluster.Node, say say) error {
		if n == s.bare {
			_, err := scenario.AwaitRunning(ctx, n, scenario.PodsPerNode)
			bare = time.Since(s.booted)
			say("%d of %d pods run again", scenario.PodsPerNode, scenario.PodsPerNode)
			return err
		}
		err := scenario.Await(ctx, "edge runs what the cloud decided", func(ctx context.Context) error {
			pods, err := scenario.Running(ctx, n)
			if err != nil {
				return err
			}
			return scenario.Decided(pods, n.Config.Name)
		})
		edge = time.Since(healed)
		say("runs what the cloud decided")
		return err
	})
	s.fact("boot to all pods running", s.edgeBack, fmt.Sprintf("%.1f s, by the heal", bare.Seconds()))
	s.fact("heal to what the cloud decided", fmt.Sprintf("%.1f s", edge.Seconds()), "(nothing decided)")
	return err
}

func (s *story) checkKept(ctx context.Context, before map[string]scenario.Pod) error {
	after, err := scenario.Running(ctx, s.edge)
	if err != nil {
		return err
	}
	kept, all := 0, 0
	for name, pod := range before {
		if scenario.Concerned(name, "edge") {
			continue
		}
		all++
		if after[name] == pod {
			kept++
		}
	}
	s.fact("containers not concerned that ran on", fmt.Sprintf("%d of %d", kept, all), "-")
	if kept != all {
		return fmt.Errorf("%d of %d containers that were not concerned were restarted", all-kept, all)
	}
	return nil
}

func (s *story) checkToken(ctx context.Context, token string) error {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	review, err := s.client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	s.fact("token that a pod got in the dark", map[bool]string{true: "accepted by the cloud", false: "refused"}[review.Status.Authenticated], "-")
	if !review.Status.Authenticated {
		return errors.New("the cloud does not accept the token that a pod got in the dark")
	}
	return nil
}

// report closes with what it cost.
func (s *story) report(ctx context.Context, mark cluster.AuditMark) error {
	requests, err := s.c.AuditSince(mark)
	if err != nil {
		return err
	}
	lists := 0
	for _, r := range requests {
		// With one object it asks whether the cloud's history goes on, and keeps nothing of the answer.
		if r.UserAgent == "yurthub" && r.Verb == "list" && !strings.Contains(r.RequestURI, "limit=1") {
			lists++
		}
	}
	status, err := s.hub(ctx)
	if err != nil {
		return err
	}
	s.fact("events of the dark told to the cloud", fmt.Sprintf("%d, lost %d", status.Journal.Replayed, status.Journal.Dropped), "-")
	s.fact("lists YurtHub made after the heal", fmt.Sprint(lists), "-")
	s.fact("memory of YurtHub (VmRSS, RssAnon)", fmt.Sprintf("%.1f, %.1f MiB", mib(status.Process.ResidentBytes), mib(status.Process.AnonymousBytes)), "-")
	s.act("the end")
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func (s *story) hub(ctx context.Context) (*adminapi.Status, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: s.edge.Dial}}
	defer client.CloseIdleConnections()
	return adminapi.Get(ctx, client, "127.0.0.1:10267")
}

func (s *story) awaitLink(ctx context.Context, state string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return scenario.Await(ctx, "YurtHub's link is "+state, func(ctx context.Context) error {
		status, err := s.hub(ctx)
		if err != nil {
			return err
		}
		if status.Link.State != state {
			return fmt.Errorf("it is %s", status.Link.State)
		}
		return nil
	})
}

// say prints in a node's column.
type say func(format string, args ...any)

// both does something on both nodes at once.
func (s *story) both(ctx context.Context, do func(context.Context, *cluster.Node, say) error) error {
	errs := make(chan error, 2)
	go func() { errs <- do(ctx, s.edge, s.board.edge) }()
	go func() { errs <- do(ctx, s.bare, s.board.bare) }()
	return errors.Join(<-errs, <-errs)
}
