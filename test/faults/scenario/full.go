package scenario

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"yurt/internal/adminapi"
	"yurt/test/faults/fault"
	"yurt/test/faults/history"
	"yurt/test/faults/traffic"
)

// Full is a run in which the disk fails for a while, and the link with it, and then both are well again.
type Full struct {
	Program string
	Dir     string
	Seed    uint64
	Policy  fault.Policy
	// Silent: the disk takes what the hub writes in that time, late or for want of a new file: it has nothing to say.
	Silent bool
}

// healPatience is how long after the disk and the link are well the hub may take to be.
const healPatience = 60 * time.Second

// Run returns what went wrong, as text, and the result for the validator's part.
func (f Full) Run(ctx context.Context) (problems []string, r *Result, err error) {
	s, err := Cuts{Program: f.Program, Dir: f.Dir, Seed: f.Seed}.open()
	if err != nil {
		return nil, nil, err
	}
	r = &Result{}
	problems, err = f.run(ctx, s)
	err = errors.Join(err, s.close())
	r.judge(s)
	r.Row.Faults, r.Row.Kinds = 1, map[string]int{f.Policy.Name: 1}
	return problems, r, err
}

func (f Full) run(ctx context.Context, s *site) ([]string, error) {
	life := s.rec.Begin(false)
	alive, end := context.WithCancel(ctx)
	defer end()
	s.disk.OnCut(func() { s.rec.Stop(); end() })
	s.server.SetLink(true)
	hub, err := startHub(s.program, s.kubeconfig, filepath.Join(s.disk.Dir(), "yurthub"), s.env...)
	if err != nil {
		return nil, err
	}
	v := &visit{site: s, hub: hub, life: life}
	if err := hub.awaitReady(alive); err != nil {
		v.complain("the hub does not start: %v", err)
	} else {
		v.see(alive, f)
	}
	end()
	s.disk.Cut()
	err = hub.kill()
	s.disk.Release()
	<-hub.ended
	s.server.SetLink(false)
	s.logs = append(s.logs, hub.said())
	s.rec.Ended(nil, s.inClear())
	if err != nil {
		return v.problems, err
	}
	if err := s.disk.Boot(fault.Survival{Loss: fault.LoseAll, Rand: s.rand}); err != nil {
		return v.problems, err
	}
	return v.problems, s.live(ctx, plan{dark: true})
}

// visit is somebody who looks whether the hub keeps its word while its disk fails.
type visit struct {
	*site
	hub       *hubProcess
	life      int
	transport http.Transport
	problems  []string
}

func (v *visit) complain(format string, args ...any) {
	v.problems = append(v.problems, fmt.Sprintf(format, args...))
}

func (v *visit) client(name string, dark bool) *traffic.Client {
	return &traffic.Client{Name: name, Rec: v.rec, HTTP: &http.Client{Transport: &v.transport, Timeout: 20 * time.Second}, Hub: v.hub.plain, Life: v.life, Dark: dark}
}

// see goes through the times: well, failing with a link, failing without, and well again.
func (v *visit) see(ctx context.Context, f Full) {
	watching, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer v.transport.CloseIdleConnections()
	defer clients.Wait()
	defer stop()
	for _, w := range v.watchers {
		clients.Go(func() { w.run(watching, v.client(w.name, false), false) })
	}
	v.changes(10)
	v.await(ctx, "before", func() string { return v.behind(ctx) })

	v.disk.Fail(f.Policy)
	v.changes(20)
	v.online(ctx)
	if !f.Silent {
		v.await(ctx, "while the disk fails", func() string {
			if status, err := adminapi.Get(ctx, &http.Client{Transport: &v.transport}, v.hub.admin); err != nil || status.Store.Error == "" {
				return fmt.Sprintf("/status does not say that the disk fails: %v", err)
			}
			if metrics := v.metrics(ctx); !strings.Contains(metrics, "\nyurthub_store_failing 1\n") {
				return "the metric yurthub_store_failing does not say that the disk fails"
			}
			return ""
		})
	}
	v.server.SetLink(false)
	v.offline(ctx)

	v.disk.Fail(fault.Policy{})
	v.server.SetLink(true)
	v.changes(5)
	v.await(ctx, "when all is well again", func() string { return v.behind(ctx) })
	v.await(ctx, "when all is well again", func() string {
		status, err := adminapi.Get(ctx, &http.Client{Transport: &v.transport}, v.hub.admin)
		if err != nil || status.Store.Error != "" {
			return fmt.Sprintf("/status says %q, %v", status.Store.Error, err)
		}
		return ""
	})
	if v.hub.gone() {
		v.complain("the hub has ended: %v", v.hub.lastWords())
	}
}

func (v *visit) changes(n int) {
	for range n {
		v.change()
	}
}

// await complains if a problem is still there after a time that is more than enough.
func (v *visit) await(ctx context.Context, when string, problem func() string) {
	deadline := time.Now().Add(healPatience)
	for {
		p := problem()
		if p == "" || ctx.Err() != nil {
			return
		}
		if time.Now().After(deadline) {
			v.complain("%s: %s", when, p)
			return
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// behind says which collection the hub shows older than the API server has it.
func (v *visit) behind(ctx context.Context) string {
	for _, path := range traffic.Paths() {
		if got, want := v.client("follower", false).List(ctx, history.Collection(path)), v.world.Newest(path); got < want {
			return fmt.Sprintf("%s is at %d, the API server at %d", path, got, want)
		}
	}
	return ""
}

func (v *visit) metrics(ctx context.Context) string {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+v.hub.admin+"/metrics", http.NoBody)
	if err != nil {
		return err.Error()
	}
	resp, err := (&http.Client{Transport: &v.transport}).Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

// online: reads and writes get to the API server and back.
func (v *visit) online(ctx context.Context) {
	reader := v.client("reader", false)
	for _, path := range traffic.Paths() {
		if got, want := reader.ListFresh(ctx, history.Collection(path)), v.world.Newest(path); got < want {
			v.complain("while the disk fails: a consistent list of %s is at %d, the API server at %d", path, got, want)
		}
	}
	if code, err := reader.Note(ctx, "online"); code != http.StatusCreated {
		v.complain("while the disk fails: a write is answered %d, %v", code, err)
	}
	for _, path := range traffic.Paths() {
		if v.client("neighbour", false).List(ctx, history.Collection(path)) == 0 {
			v.complain("while the disk fails: no list of %s", path)
		}
	}
}

// offline: what is stored can be read.
func (v *visit) offline(ctx context.Context) {
	for _, path := range traffic.Paths() {
		if v.client("neighbour", true).List(ctx, history.Collection(path)) == 0 {
			v.complain("while the disk fails, in the dark: no list of %s", path)
		}
	}
}
