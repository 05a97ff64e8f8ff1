package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
)

const (
	// backAfter is how soon a Service must answer once its servers run again.
	backAfter = 5 * time.Second
	// noticedAfter is how soon a server that is gone must get no requests: the
	// kubelet looks at its containers each second.
	noticedAfter = 5 * time.Second
	// reportedAfter is how soon the cloud must know what the node knows.
	reportedAfter = 15 * time.Second
)

// A Service and its name lead to the pods of their node through all that can
// happen to it in the dark, and the heal. On the node without the overlay the
// same Service is dead from the boot on.
func TestServicesThroughTheDark(t *testing.T) {
	s := up(t)
	for _, n := range s.Nodes() {
		own(n).settle(t, "the Services of "+n.Config.Name+" answer", 2*time.Minute, server(n.Config.Name, 0), server(n.Config.Name, 1))
	}
	t.Run("Reboot", s.testReboot)
	if !t.Failed() {
		t.Run("Neighbours", s.testNeighbours)
	}
}

func (s *site) testReboot(t *testing.T) {
	ctx, begun := t.Context(), time.Now()
	s.cut(t, s.edge)
	s.cut(t, s.off)
	time.Sleep(3 * time.Second)
	own(s.edge).neverFail(t, "from the cut on", begun, time.Now().Add(-time.Second))

	must(t, s.off.PowerCut())
	lost := s.reboot(t, s.edge)
	must(t, s.off.Boot(ctx))
	s.testCrash(t)
	s.testReadiness(t)
	begun = time.Now()
	must(t, s.edge.Kill(ctx, cluster.YurtHub, syscall.SIGKILL))
	time.Sleep(5 * time.Second)
	own(s.edge).neverFail(t, "while the hub is killed and starts again", begun, time.Now().Add(-time.Second))
	s.reboot(t, s.edge)
	s.checkLost(t, lost)

	begun = time.Now()
	must(t, s.edge.Heal(ctx))
	must(t, s.off.Heal(ctx))
	await(t, "the cloud knows what edge knows", reportedAfter, func(ctx context.Context) error { return s.ready(ctx, s.edge) })
	t.Logf("the cloud knows the pods' addresses and readiness %v after the heal", time.Since(begun).Round(100*time.Millisecond))
	await(t, "the slices have the addresses", 30*time.Second, func(ctx context.Context) error { return s.sliced(ctx, s.edge) })
	time.Sleep(5 * time.Second) // what shows by now is the cloud's
	own(s.edge).neverFail(t, "from the heal on", begun, time.Now().Add(-time.Second))
	own(s.off).settle(t, "the Services of off answer again", time.Minute)
}

// reboot takes a node's power in the dark and boots it, asserts that its
// Services are back in time and stay, and returns when it booted.
func (s *site) reboot(t *testing.T, n *cluster.Node) (booted time.Time) {
	t.Helper()
	must(t, n.PowerCut())
	booted = time.Now()
	must(t, n.Boot(t.Context()))
	var running time.Time
	await(t, "the servers run", time.Minute, func(ctx context.Context) (err error) {
		running, err = s.serversRunning(ctx, n)
		if err == nil && running.Before(booted) {
			err = errors.New("not since the boot")
		}
		return err
	})
	first := map[probe]attempt{}
	await(t, "the Services answer", time.Minute, func(context.Context) error {
		for _, p := range own(n) {
			a, err := p.first(booted)
			if err != nil {
				return err
			}
			first[p] = a
		}
		return nil
	})
	time.Sleep(6 * time.Second)
	for p, a := range first {
		t.Logf("%s: servers ran %v after the boot began, the first answer came %v after that", p, running.Sub(booted).Round(100*time.Millisecond), a.at.Sub(running).Round(100*time.Millisecond))
		if a.at.Sub(running) > backAfter {
			t.Errorf("%s: the first answer came %v after the servers ran, want at most %v", p, a.at.Sub(running), backAfter)
		}
		probes{p}.neverFail(t, "from the first answer after the boot on", a.at, time.Now().Add(-time.Second))
	}
	return booted
}

// testCrash: a server that crashes and does not come back gets no requests, and
// again when it does.
func (s *site) testCrash(t *testing.T) {
	t.Helper()
	crashing, other := server("edge", 0), server("edge", 1)
	down := s.edge.Path(controls + "/down-" + crashing)
	must(t, os.WriteFile(down, nil, 0o600))
	crashed := time.Now()
	s.post(t, crashing, "/exit")
	own(s.edge).settle(t, "the crashed server gets no requests", 30*time.Second, other)
	for _, p := range own(s.edge) {
		failed, of := p.failures(t, crashed, time.Now().Add(-time.Second))
		t.Logf("%s: %d of %d attempts failed since the crash", p, len(failed), of)
		if n := len(failed); n > 0 && failed[n-1].at.Sub(crashed) > noticedAfter {
			t.Errorf("%s: an attempt failed %v after the crash", p, failed[n-1].at.Sub(crashed))
		}
	}
	begun := time.Now()
	must(t, os.Remove(down))
	own(s.edge).settle(t, "the server that crashed is back", 2*time.Minute, crashing, other)
	own(s.edge).neverFail(t, "while the server comes back", begun, time.Now().Add(-time.Second))
}

// testReadiness: readiness probes are honoured in the dark.
func (s *site) testReadiness(t *testing.T) {
	t.Helper()
	begun, unready, other := time.Now(), server("edge", 1), server("edge", 0)
	s.post(t, unready, "/readyz?ready=false")
	own(s.edge).settle(t, "the server that is not ready gets no requests", 30*time.Second, other)
	s.post(t, unready, "/readyz?ready=true")
	own(s.edge).settle(t, "the server that is ready again gets requests", 30*time.Second, unready, other)
	own(s.edge).neverFail(t, "while a server was not ready", begun, time.Now().Add(-time.Second))
}

func (s *site) post(t *testing.T, pod, path string) {
	t.Helper()
	running, err := s.running(t.Context(), s.edge)
	must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+net.JoinHostPort(running[pod].PodIP, strconv.Itoa(port))+path, http.NoBody)
	must(t, err)
	client := s.edge.HTTP()
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil && path != "/exit" { // who exits may not answer
		t.Fatal(err)
	}
	if err == nil {
		must(t, resp.Body.Close())
	}
}

// checkLost asserts that on the node without the overlay no attempt has
// succeeded since a boot, though its servers run.
func (s *site) checkLost(t *testing.T, booted time.Time) {
	t.Helper()
	if _, err := s.serversRunning(t.Context(), s.off); err != nil {
		t.Errorf("off: %v", err)
	}
	for _, p := range own(s.off) {
		failed, of := p.failures(t, booted, time.Now())
		t.Logf("%s without the overlay: %d of %d attempts failed since the boot", p, len(failed), of)
		switch {
		case of == 0:
			t.Errorf("%s: nobody has asked since the boot: does the client's pod run on off?", p)
		case len(failed) < of:
			t.Errorf("%s: %d of %d attempts failed without the overlay: this test could not fail", p, len(failed), of)
		}
	}
}

// sliced tells what is missing until the cloud's slices have a node's servers
// where they are, ready.
func (s *site) sliced(ctx context.Context, n *cluster.Node) error {
	running, err := s.running(ctx, n)
	if err != nil {
		return err
	}
	slices, err := s.client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + web(n.Config.Name)})
	if err != nil {
		return err
	}
	ready := map[string]bool{}
	for _, slice := range slices.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready && len(e.Addresses) > 0 {
				ready[e.Addresses[0]] = true
			}
		}
	}
	for i := range servers {
		if name := server(n.Config.Name, i); !ready[running[name].PodIP] {
			return fmt.Errorf("%s is at %s, and ready are %v", name, running[name].PodIP, ready)
		}
	}
	return nil
}
