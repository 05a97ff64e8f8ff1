package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/request"
	"yurt/internal/upstream"
)

// TestRandomLife lets everything happen in any order: changes in the cloud,
// cuts, broken and misread streams, compactions, full disks, restarts of the
// hub, clients that come, go and resume. Each client's picture is compared with
// the cloud's past at every version that it is told is complete, and at the end
// everybody agrees with the cloud.
//
// In a quiet life there are no relists, and then every single event must be the
// cloud's own, in order and without a gap.
//
// YURT_SEED=n repeats a life.
func TestRandomLife(t *testing.T) {
	lives := 24
	first := rand.Uint64() % 1_000_000
	if seed, err := strconv.ParseUint(os.Getenv("YURT_SEED"), 10, 64); err == nil {
		first, lives = seed, 1
	}
	for i := range lives {
		seed := first + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { life(t, seed) })
		})
	}
}

func life(t *testing.T, seed uint64) {
	w := &world{t: t, dir: t.TempDir(), cloud: newCloud(), watches: map[string]*client{}, mend: func() {}}
	w.seed = seed
	w.start()
	m := &model{world: w, t: t, r: rand.New(rand.NewPCG(seed, 0)), quiet: seed%2 == 0}
	for range 4 {
		m.observers = append(m.observers, &observer{model: m})
	}
	defer func() {
		for _, o := range m.observers {
			o.leave()
		}
		w.disk("sound")
		w.stop()
	}()
	for range 400 {
		m.step()
		if t.Failed() {
			return
		}
	}
	m.agree()
}

// model drives a world and knows what it should look like.
type model struct {
	*world
	t         *testing.T
	r         *rand.Rand
	quiet     bool
	observers []*observer
}

func (m *model) step() {
	c := m.cloud
	key := string(rune('a' + m.r.IntN(8)))
	switch n := m.r.IntN(100); {
	case n < 40:
		c.change("ADDED", key, strconv.Itoa(m.r.IntN(1000)), false)
	case n < 50:
		if c.has(key) {
			c.change("DELETED", key, "", false)
		}
	case n < 55:
		m.mood("bookmark")
	case n < 62:
		c.set([]upstream.State{upstream.Up, upstream.Down}[m.r.IntN(2)])
	case n < 66:
		m.mood("hangup")
	case n < 70:
		m.restart()
	case n < 78:
		m.observers[m.r.IntN(len(m.observers))].leave()
	case n < 84:
		time.Sleep(time.Duration(m.r.Int64N(int64(20 * time.Second))))
	case n < 85:
		m.burst(key)
	case n < 86:
		time.Sleep(time.Duration(m.r.Int64N(int64(20 * time.Minute))))
	case n < 88:
		m.disk([]string{"sound", "full", "flaky"}[m.r.IntN(3)])
	case m.quiet:
	case n < 90:
		m.mood("compact")
	case n < 92:
		m.mood("garbage")
	case n < 94:
		if c.has(key) {
			c.change("ADDED", key, "again", true)
		}
	default:
		m.list(true) // whatever comes of it
	}
	if m.r.IntN(3) > 0 { // otherwise the next thing happens before this one has been noticed
		rest()
	}
	m.look()
}

// burst makes changes faster than the disk takes them.
func (m *model) burst(key string) {
	for range 10 {
		m.cloud.change("ADDED", key, strconv.Itoa(m.r.IntN(1000)), false)
		time.Sleep(3 * time.Millisecond)
	}
}

func (m *model) mood(f ...string) {
	m.cloud.mu.Lock()
	defer m.cloud.mu.Unlock()
	m.cloud.mood(f)
}

func (m *model) restart() {
	for _, o := range m.observers {
		o.leave()
	}
	m.stop()
	m.start()
}

func (m *model) look() {
	for _, o := range m.observers {
		o.look()
	}
}

// agree ends all troubles, and compares.
func (m *model) agree() {
	m.disk("sound")
	m.cloud.set(upstream.Up)
	m.cloud.change("ADDED", "last", "1", false)
	for range 10 { // back-offs, and clients that begin anew
		time.Sleep(time.Minute)
		m.look()
	}
	rest()
	m.look()
	want := m.cloud.at(m.cloud.revision)
	for i, o := range m.observers {
		if diff := cmp.Diff(want, o.state); diff != "" {
			m.t.Errorf("observer %d differs from the cloud at the end (-cloud +observer):\n%s", i, diff)
		}
	}
	if got, want := m.list(false), m.cloud.text(); got != want {
		m.t.Errorf("a list has\n%s, the cloud has\n%s", got, want)
	}
}

func (c *cloud) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.objects[key]
	return ok
}

// at is what the cloud had at a version.
func (c *cloud) at(revision uint64) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := map[string]string{}
	for _, e := range c.past {
		switch {
		case e.body.Revision > revision:
			return state
		case e.typ == "DELETED":
			delete(state, e.key)
		case e.key != "":
			state[e.key] = e.body.Value + " of " + e.body.UID
		}
	}
	return state
}

// observer is a client that watches, resumes and keeps a picture, as a
// reflector does.
type observer struct {
	*model
	watch    *client // nil between two
	initial  bool    // the initial events are under way
	state    map[string]string
	revision uint64 // to resume from; 0: begin anew
}

// look takes in what has come, and begins the next watch after the end of one.
func (o *observer) look() {
	if o.watch == nil {
		o.begin()
		return
	}
	over := false
	select {
	case <-o.watch.done:
		over = true
	default:
	}
	o.takeIn()
	if over {
		o.watch = nil
		o.begin()
	}
}

func (o *observer) begin() {
	options := request.Options{AllowWatchBookmarks: true, ResourceVersion: strconv.FormatUint(o.revision, 10)}
	if o.initial = o.revision == 0; o.initial {
		yes := true
		options.ResourceVersion, options.SendInitialEvents = "", &yes
		o.state = map[string]string{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &client{header: http.Header{}, cancel: cancel, done: make(chan struct{})}
	o.watch = c
	go func() {
		defer close(c.done)
		collection, err := o.use()
		if err == nil {
			err = collection.Watch(ctx, c, options, nil)
		}
		c.err = err
	}()
}

func (o *observer) leave() {
	if o.watch == nil {
		return
	}
	o.watch.cancel()
	<-o.watch.done
	o.takeIn()
	o.watch = nil
}

func (o *observer) takeIn() {
	o.watch.mu.Lock()
	stream := bytes.Clone(o.watch.out.Bytes())
	o.watch.out.Reset()
	o.watch.mu.Unlock()
	for _, e := range parseEvents(stream) {
		if err := o.event(e); err != nil {
			o.t.Errorf("observer at version %d, event %+v: %v", o.revision, e, err)
			return
		}
	}
}

func (o *observer) event(e seen) error {
	if e.typ == "ERROR" {
		o.revision = 0
		if e.code != http.StatusGone || o.quiet {
			return fmt.Errorf("no reason to end the watch")
		}
		return nil
	}
	if !o.initial && e.revision < o.revision {
		return errors.New("time goes back")
	}
	object := e.value + " of " + e.uid
	before, known := o.state[e.name]
	switch e.typ {
	case "ADDED":
		if known {
			return fmt.Errorf("it is known as %q", before)
		}
		o.state[e.name] = object
	case "MODIFIED":
		if !known || before == object && o.quiet && !o.unchanged(e) {
			return fmt.Errorf("before it was %q", before)
		}
		o.state[e.name] = object
	case "DELETED":
		if !known {
			return errors.New("it is not known")
		}
		delete(o.state, e.name)
	case "BOOKMARK":
		if e.kind != "ConfigMap" {
			return errors.New("another kind")
		}
		if e.end != o.initial {
			return fmt.Errorf("the initial events are under way: %v", o.initial)
		}
		o.initial = false
	}
	if o.initial {
		return nil
	}
	if !o.quiet && e.typ != "BOOKMARK" {
		o.revision = e.revision
		return nil
	}
	if o.quiet && e.typ != "BOOKMARK" && e.revision == o.revision {
		return errors.New("a second event of one version")
	}
	o.revision = e.revision
	if diff := cmp.Diff(o.cloud.at(e.revision), o.state); diff != "" {
		return fmt.Errorf("this is not what the cloud had (-cloud +observer):\n%s", diff)
	}
	return nil
}

// unchanged tells whether the cloud really wrote the same value again.
func (o *observer) unchanged(e seen) bool {
	return cmp.Equal(o.cloud.at(e.revision-1), o.cloud.at(e.revision))
}
