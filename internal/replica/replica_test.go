package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"yurt/internal/credential"
	"yurt/internal/failpoint"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReplica runs the scripts: a cloud, a replica of its ConfigMaps in the
// namespace shop, and clients that watch and list it. After each command, and the
// time that it says it lasts for, the world has come to rest.
func TestReplica(t *testing.T) {
	datadriven.Walk(t, "testdata", runScript)
}

// TestADamagedStoreNeverLies runs the script about damage: a record or a part of
// the log that can't be read makes its collection doubtful, and never shorter.
func TestADamagedStoreNeverLies(t *testing.T) { runScript(t, "testdata/damage") }

func runScript(t *testing.T, path string) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud(), watches: map[string]*client{}, mend: func() {}}
		w.start()
		defer w.stop()
		defer w.disk("sound")
		datadriven.RunTest(t, path, w.command)
	})
}

type world struct {
	t       *testing.T
	dir     string
	cloud   *cloud
	store   *store.Store
	set     *Set
	stopAll []func() // in this order
	watches map[string]*client
	token   string
	seed    uint64
	mend    func() // the disk
}

var shop = Key{Resource: request.Resource{Version: "v1", Resource: "configmaps"}, Namespace: "shop", Representation: wire.Representation{Preference: wire.OnlyJSON}}

func (w *world) start() {
	log := slog.New(slog.DiscardHandler)
	var err error
	if w.store, err = store.Open(w.dir, store.Options{Logger: log}); err != nil {
		w.t.Fatal(err)
	}
	if w.set, err = Open(w.store, w.cloud, log); err != nil {
		w.t.Fatal(err)
	}
	w.set.spread = func(most time.Duration) time.Duration { return most / 2 }
	w.stopAll = []func(){run(w.set.Run), run(w.store.Run)} // the store outlives those who commit to it
}

// run starts something that runs, and returns what stops it.
func run(what func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = what(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

func (w *world) stop() {
	for name, c := range w.watches {
		c.cancel()
		<-c.done
		delete(w.watches, name)
	}
	for _, stop := range w.stopAll {
		stop()
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
	w.cloud.mu.Lock()
	w.cloud.breakStreams(errors.New("the end"))
	w.cloud.mu.Unlock()
	synctest.Wait()
}

// rest waits until nothing happens any more. The store gathers events for a few
// milliseconds before it writes them.
func rest() {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

// client is one watch of the replica.
type client struct {
	mu     sync.Mutex
	out    bytes.Buffer
	header http.Header
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (c *client) Header() http.Header                { return c.header }
func (c *client) WriteHeader(int)                    {}
func (c *client) Flush()                             {}
func (c *client) SetWriteDeadline(t time.Time) error { return nil }
func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(b)
}

func (c *client) take() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := decodeEvents(c.out.Bytes())
	c.out.Reset()
	return text
}

func (w *world) command(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	arg := func(name string) (value string) {
		if d.HasArg(name) {
			d.ScanArgs(t, name, &value)
		}
		return value
	}
	switch d.Cmd {
	case "cloud":
		for line := range strings.Lines(d.Input) {
			w.cloudCommand(strings.Fields(line))
			rest()
		}
	case "sleep":
	case "restart":
		w.stop()
		w.start()
	case "watch":
		o := request.Options{ResourceVersion: arg("version"), AllowWatchBookmarks: true}
		if initial := d.HasArg("initial"); initial || d.HasArg("from-now") {
			o.SendInitialEvents = &initial
		}
		w.watch(arg("as"), o)
	case "unwatch":
		w.watches[arg("as")].cancel()
	case "list":
		fmt.Fprint(&out, w.list(d.HasArg("fresh")))
	case "token":
		w.token = arg("is")
	case "get":
		fmt.Fprint(&out, w.get(arg("name")))
	case "disk":
		w.disk(arg("is"))
	case "damage":
		w.damage(arg("text"))
	case "state":
		return w.state()
	case "count":
		n := len(w.cloud.takeRequests())
		if most, _ := strconv.Atoi(arg("most")); n > most {
			return fmt.Sprintf("%d requests\n", n)
		}
		return "few requests\n"
	case "requests":
		for _, r := range w.cloud.takeRequests() {
			fmt.Fprintln(&out, r)
		}
		return out.String()
	default:
		t.Fatalf("no command %s", d.Cmd)
	}
	if d.HasArg("for") {
		wait, err := time.ParseDuration(arg("for"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(wait)
	}
	rest()
	for _, name := range []string{"a", "b"} {
		c := w.watches[name]
		if c == nil {
			continue
		}
		for line := range strings.Lines(c.take()) {
			fmt.Fprintf(&out, "%s: %s", name, line)
		}
		select {
		case <-c.done:
			fmt.Fprintf(&out, "%s: the watch ends: %v\n", name, c.err)
			delete(w.watches, name)
		default:
		}
	}
	return out.String()
}

// disk makes writes of the store fail, or succeed again.
func (w *world) disk(is string) {
	w.mend()
	w.mend = func() {}
	switch is {
	case "flaky":
		var writes atomic.Uint64
		w.mend = failpoint.EnableFunc(failpoint.StoreBeforeWrite, func() error {
			time.Sleep(5 * time.Millisecond)
			if (writes.Add(1)+w.seed)%2 == 0 {
				return failpoint.ErrInjected
			}
			return nil
		})
	case "full":
		disable, err := failpoint.Enable(failpoint.StoreBeforeWrite, "error(ENOSPC)")
		if err != nil {
			w.t.Fatal(err)
		}
		w.mend = disable
	}
}

// damage changes a text wherever it stands in the store's files.
func (w *world) damage(text string) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(w.dir, e.Name())
		raw, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		changed := bytes.ReplaceAll(raw, []byte(text), bytes.ToUpper([]byte(text)))
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// get asks for an object as a get in the dark does, absence and all.
func (w *world) get(name string) string {
	for _, c := range w.set.Holding(shop.Identity, shop.Resource, "shop") {
		o, at, ok, err := c.Get("shop", name)
		switch {
		case err != nil:
			return fmt.Sprintf("error: %v\n", err)
		case ok:
			return fmt.Sprintf("%s of version %d\n", name, o.Revision)
		case c.Covers(shop.Resource, "shop", name):
			return fmt.Sprintf("no %s at version %d\n", name, at)
		}
	}
	return "not known\n"
}

func (w *world) state() string {
	var out strings.Builder
	for _, c := range w.set.All() {
		s := c.State()
		fmt.Fprintf(&out, "%s @%d: %d objects, %d watchers\n", s.Phase, s.Revision, s.Objects, s.Watchers)
	}
	return out.String()
}

func (w *world) cloudCommand(f []string) {
	c := w.cloud
	switch f[0] {
	case "put":
		c.change("ADDED", f[1], f[2], false)
	case "recreate":
		c.change("ADDED", f[1], f[2], true)
	case "delete":
		c.change("DELETED", f[1], "", false)
	case "cut":
		c.set(upstream.Down)
	case "heal":
		c.set(upstream.Up)
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.mood(f)
	}
}

func (c *cloud) mood(f []string) {
	switch f[0] {
	case "bookmark":
		c.revision++
		c.add(cloudEvent{"BOOKMARK", "", object{Revision: c.revision}})
	case "garbage":
		c.revision++
		c.add(cloudEvent{"GARBAGE", "", object{Revision: c.revision}})
	case "compact":
		c.floor, c.events = c.revision, nil
		c.breakStreams(errors.New("closed"))
	case "hangup":
		c.breakStreams(errors.New("closed"))
	case "restore": // from a backup: time goes back
		c.revision = 50
		c.floor, c.events, c.objects = 50, nil, map[string]object{"old": {UID: "uid-old", Revision: 40, Value: "1"}}
		c.breakStreams(errors.New("closed"))
	case "silence":
		c.silent = true
	case "speak":
		c.silent = false
	case "breathe":
		c.breathes = true
		c.breakStreams(io.EOF)
	case "forget":
		c.forgets = true
		c.breakStreams(io.EOF)
	case "behave":
		c.breathes, c.forgets = false, false
	case "expire":
		c.expired = f[1]
		c.breakStreams(errors.New("closed"))
	case "deny":
		c.deny = http.StatusForbidden
		c.breakStreams(errors.New("closed"))
	case "allow":
		c.deny = 0
	case "busy":
		c.busy, _ = strconv.Atoi(f[1])
		c.breakStreams(errors.New("closed"))
	case "truncate":
		c.truncate = 1
	case "whole":
		c.truncate = 0
	case "answer":
		c.mime, c.body = f[1], strings.Join(f[2:], " ")
		if c.body == "nothing" {
			c.body = "\x00"[:0] + " "
		}
	case "answer-properly":
		c.mime, c.body = "application/json", ""
	default:
		panic("no command " + f[0])
	}
}

func (w *world) use() (*Collection, error) {
	c, err := w.set.Use(shop, credential.Credential{Token: w.token}, 0)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c, c.Ready(ctx)
}

func (w *world) watch(name string, o request.Options) {
	ctx, cancel := context.WithCancel(context.Background())
	client := &client{header: http.Header{}, cancel: cancel, done: make(chan struct{})}
	w.watches[name] = client
	go func() {
		defer close(client.done)
		c, err := w.use()
		if err == nil {
			err = c.Watch(ctx, client, o, nil)
		}
		client.err = err
	}()
}

func (w *world) list(fresh bool) string {
	c, err := w.use()
	if err == nil && fresh {
		err = c.Refresh(context.Background(), time.Now())
	}
	client := &client{header: http.Header{}}
	if err == nil {
		err = c.List(client, nil)
	}
	if err != nil {
		return fmt.Sprintf("error: %v\n", err)
	}
	var list struct {
		Kind     string
		Metadata struct{ ResourceVersion string }
		Items    []struct {
			Metadata struct{ Name, ResourceVersion string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal(client.out.Bytes(), &list); err != nil {
		return fmt.Sprintf("not a list: %v\n", err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s @%s:", list.Kind, list.Metadata.ResourceVersion)
	for _, item := range list.Items {
		fmt.Fprintf(&out, " %s=%s", item.Metadata.Name, item.Data["v"])
	}
	return out.String() + "\n"
}
