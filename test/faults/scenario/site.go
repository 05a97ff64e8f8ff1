package scenario

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"yurt/internal/adminapi"
	"yurt/test/faults/fault"
	"yurt/test/faults/history"
	"yurt/test/faults/traffic"
)

// site is an API server, a node's clients and its disk. The hub comes and goes.
type site struct {
	program, kubeconfig string
	env                 []string
	disk                Disk
	server              *traffic.Server
	world               *traffic.World
	rec                 *history.Recorder
	rand                *rand.Rand
	watchers            []*watcher
	notes               int
	extra               int      // collections that only one life asks for
	logs                []string // of the hub, by life
}

// Disk is what a hub's root directory is on: one of the fault package's.
type Disk interface {
	Dir() string
	CutAt(n int, atSync bool)
	OnCut(f func())
	Cut()
	Release()
	Files(f func(path string, content []byte))
	Fail(p fault.Policy)
	Kind(l fault.Loss) string
	Boot(s fault.Survival) error
	Close() error
}

// watcher is a client that watches one collection for ever, over cuts.
type watcher struct {
	name       string
	collection history.Collection
	last       uint64 // what it has been told; 0: it has to list
	rand       *rand.Rand
}

func newSite(program, dir string, d Disk, seed uint64, env ...string) (*site, error) {
	r := newRand(seed, 1)
	s := &site{program: program, env: env, disk: d, rec: history.NewRecorder(), rand: r}
	s.world = traffic.NewWorld(s.rec, r)
	var err error
	if s.server, err = traffic.NewServer(s.world, s.rec); err != nil {
		return nil, err
	}
	if s.kubeconfig, err = s.server.WriteKubeconfig(dir); err != nil {
		s.server.Close()
		return nil, err
	}
	for i, path := range traffic.Paths() {
		s.watchers = append(s.watchers, &watcher{name: fmt.Sprintf("watcher%d", i), collection: history.Collection(path), rand: newRand(seed, uint64(20+i))})
	}
	return s, nil
}

// plan is what a life is like.
type plan struct {
	dark    bool
	cutAt   int // change of the disk; 0: after the traffic
	atSync  bool
	forget  bool
	changes int // by the API server, while the hub runs
	before  int // and while it does not
	drain   bool
}

// draw decides on the next life. The first ones of a site are with a cloud, so that there is something to lose.
func (s *site) draw(life int) plan {
	p := plan{dark: life > 2 && s.rand.IntN(2) == 0, changes: 5 + s.rand.IntN(40), before: s.rand.IntN(10)}
	switch s.rand.IntN(4) {
	case 0:
		p.cutAt = 1 + s.rand.IntN(8) // while it starts, or soon after
	case 1, 2:
		p.cutAt = 6 + s.rand.IntN(40)
	}
	p.atSync = s.rand.IntN(2) == 0
	p.forget = s.rand.IntN(6) == 0
	p.drain = !p.dark && s.rand.IntN(12) == 0
	return p
}

// live runs the hub from a boot to a cut.
func (s *site) live(ctx context.Context, p plan) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	life := s.rec.Begin(p.dark)
	s.disk.OnCut(func() { s.rec.Stop(); end() })
	s.disk.CutAt(p.cutAt, p.atSync)
	for range p.before {
		s.change()
	}
	if p.forget {
		s.world.Forget()
	}
	s.server.SetLink(!p.dark)
	hub, err := startHub(s.program, s.kubeconfig, filepath.Join(s.disk.Dir(), "yurthub"), s.env...)
	if err != nil {
		return err
	}
	started := hub.awaitReady(ctx)
	if started == nil && ctx.Err() == nil {
		s.traffic(ctx, p, hub, life)
		if hub.gone() && ctx.Err() == nil {
			started = hub.lastWords()
		}
	}
	end()
	s.disk.Cut()
	err = hub.kill()
	s.disk.Release()
	<-hub.ended
	s.server.SetLink(false)
	s.logs = append(s.logs, hub.said())
	s.rec.Ended(started, s.inClear())
	return err
}

func (s *site) change() {
	paths := traffic.Paths()
	s.world.Change(paths[s.rand.IntN(len(paths))], s.rand)
}

// inClear names the files of the disk in which a secret is found.
func (s *site) inClear() []string {
	var found []string
	s.disk.Files(func(path string, content []byte) {
		if containsMarker(content) {
			found = append(found, path)
		}
	})
	return found
}

// pending is how many events the hub says it has yet to tell.
func pending(ctx context.Context, client *http.Client, hub *hubProcess) (int, error) {
	status, err := adminapi.Get(ctx, client, hub.admin)
	if err != nil {
		return 0, err
	}
	return status.Journal.Pending, nil
}

func (s *site) close() error {
	s.server.Close()
	return s.disk.Close()
}

// tempDir makes a directory whose name says what it is for.
func tempDir(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return dir, nil
}

const (
	// quiet is how long the clients of a life without a cloud listen for what must not come.
	quiet = 20 * time.Millisecond
	// trafficPatience bounds what a life waits for: a hub that says nothing is found out by its next lists.
	trafficPatience = 20 * time.Second
)
