package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata/scripts/*.txt: what the store does, told as text. The commands are the methods of world.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		w := &world{t: t, cursors: map[string]*Cursor{}, views: map[string]*View{}, stages: map[string]*Stage{}}
		defer w.leave()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t, w.d = t, d
			w.out.Reset()
			w.run()
			if w.out.Len() == 0 {
				return "ok"
			}
			return w.out.String()
		})
	})
}

type world struct {
	t       *testing.T
	d       *datadriven.TestData
	out     strings.Builder
	dir     string
	opts    Options
	store   *running
	cursors map[string]*Cursor
	views   map[string]*View
	stages  map[string]*Stage
}

func (w *world) leave() {
	if w.store != nil {
		if err := w.store.stop(); err != nil {
			w.t.Error(err)
		}
		w.store = nil
	}
	clear(w.cursors)
	clear(w.views)
	clear(w.stages)
}

func (w *world) print(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

// arg returns the nth positional argument.
func (w *world) arg(n int) string {
	if n >= len(w.d.CmdArgs) {
		w.d.Fatalf(w.t, "missing argument %d", n)
	}
	return w.d.CmdArgs[n].Key
}

func (w *world) number(n int) uint64 {
	v, err := strconv.ParseUint(w.arg(n), 10, 64)
	if err != nil {
		w.d.Fatalf(w.t, "%v", err)
	}
	return v
}

func (w *world) option(name string, value int) int {
	w.d.MaybeScanArgs(w.t, name, &value)
	return value
}

func (w *world) run() {
	commands := map[string]func(){
		"open": w.open, "reopen": w.reopen, "crash": w.crash, "close": w.leave,
		"commit": w.commit, "fill": w.fill, "table": w.table, "tables": w.tables, "drop": w.drop,
		"view": w.view, "release": w.release, "since": w.since, "next": w.next, "cursor": w.cursor,
		"stage": w.stage, "add": w.add, "swap": w.swap, "reset": w.reset, "abort": w.abort,
		"compact": w.compacted, "files": w.files, "damage": w.damage, "sealed": w.sealed, "raw": w.raw,
	}
	if w.store == nil && !strings.Contains("open reopen files damage", w.d.Cmd) {
		w.d.Fatalf(w.t, "no store is open")
	}
	c, ok := commands[w.d.Cmd]
	if !ok {
		w.d.Fatalf(w.t, "unknown command %s", w.d.Cmd)
	}
	c()
}

// keys takes the keys that the store is opened with from now on, as letters, the newest first: keys=ba
func (w *world) keys() {
	if !w.d.HasArg("keys") {
		return
	}
	letters := ""
	w.d.MaybeScanArgs(w.t, "keys", &letters)
	w.opts.Keys = testKeys(letters)
}

// sealed waits until everything is sealed by the newest key, and tells what can't be opened.
func (w *world) sealed() {
	for end := time.Now().Add(time.Minute); w.store.Stats().Stale > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.d.Fatalf(w.t, "%d segments are still to be sealed", w.store.Stats().Stale)
		}
	}
	u := w.store.Unopened()
	w.print("%d records can't be opened, %d keys are missing", u.Records, len(u.Keys))
}

// raw TEXT...: which of the texts are in the files as they are. The store is closed in good order first, and opened again.
func (w *world) raw() {
	w.leave()
	for _, arg := range w.d.CmdArgs {
		found := "not found"
		for _, name := range w.segments() {
			data, err := os.ReadFile(name)
			if err != nil {
				w.d.Fatalf(w.t, "%v", err)
			}
			if bytes.Contains(data, []byte(arg.Key)) {
				found = "FOUND"
			}
		}
		w.print("%s %s", arg.Key, found)
	}
	w.start()
}

// open [history=N] [segment=BYTES] [keys=LETTERS]
func (w *world) open() {
	w.leave()
	w.dir = w.t.TempDir()
	w.opts = Options{
		HistoryPerTable: w.option("history", 0), SegmentBytes: int64(w.option("segment", 64<<10)),
		CompactAbove: 1 << 40, RecentBytes: 1,
	}
	w.keys()
	w.start()
}

func (w *world) start() {
	s, err := tryStart(w.dir, w.opts)
	if err != nil {
		w.print("%v", strings.ReplaceAll(err.Error(), w.dir, "DIR"))
		return
	}
	w.store = s
}

// reopen [keys=LETTERS] closes the store in good order and opens it again.
func (w *world) reopen() {
	w.leave()
	w.keys()
	w.start()
}

// crash opens what is in the files now, as a killed process leaves them.
func (w *world) crash() {
	dir := w.dir
	w.dir = copyDir(w.t, dir)
	w.leave()
	w.start()
}

// lookup returns a table; "plain" ones are those without history.
func (w *world) lookup(name string) *Table {
	h := KeepHistory
	if strings.HasPrefix(name, "plain") {
		h = NoHistory
	}
	return mustTable(w.t, w.store.Store, name, h)
}

// commit: one line for each change of the batch:
// put TABLE KEY REVISION VALUE [uid=ID] | delete TABLE KEY REVISION [LAST] | revision TABLE REVISION | meta TABLE TEXT
func (w *world) commit() {
	var b Batch
	for line := range strings.Lines(w.d.Input) {
		f := append(strings.Fields(line), "", "", "", "")
		t := w.lookup(f[1])
		revision := func(n int) uint64 {
			v, err := strconv.ParseUint(f[n], 10, 64)
			if err != nil {
				w.d.Fatalf(w.t, "%s: %v", line, err)
			}
			return v
		}
		switch f[0] {
		case "put":
			b.Put(t, Record{Key: f[2], Revision: revision(3), Value: []byte(f[4]), Identity: strings.TrimPrefix(f[5], "uid=")})
		case "delete":
			var last []byte
			if f[4] != "" {
				last = []byte(f[4])
			}
			b.Delete(t, f[2], revision(3), last)
		case "revision":
			b.SetRevision(t, revision(2))
		case "meta":
			b.SetMeta(t, []byte(f[2]))
		default:
			w.d.Fatalf(w.t, "unknown change %q", line)
		}
	}
	if err := w.store.Commit(context.Background(), &b); err != nil {
		w.print("%v", err)
	}
}

// fill TABLE FROM TO [size=BYTES] [key=KEY]: one commit for each revision, each putting a key of that number, or KEY.
func (w *world) fill() {
	t := w.lookup(w.arg(0))
	size := w.option("size", 100)
	key := ""
	w.d.MaybeScanArgs(w.t, "key", &key)
	for r := w.number(1); r <= w.number(2); r++ {
		k := key
		if k == "" {
			k = fmt.Sprintf("k%04d", r)
		}
		var b Batch
		b.Put(t, Record{Key: k, Revision: r, Value: bytes.Repeat([]byte{byte('a' + r%26)}, size)})
		if err := w.store.Commit(context.Background(), &b); err != nil {
			w.print("%v", err)
			return
		}
	}
}

func (w *world) table() {
	t := w.lookup(w.arg(0))
	v := t.View()
	defer v.Release()
	w.print("revision %d, %d records, %d bytes, meta %q", v.Revision(), v.Len(), v.Size(), v.Meta())
	if v.Doubt() != nil {
		w.print("in doubt: %v", v.Doubt())
	}
}

func (w *world) tables() { w.print("%s", strings.Join(w.store.Tables(), " ")) }

func (w *world) drop() {
	if err := w.store.Drop(context.Background(), w.arg(0)); err != nil {
		w.print("%v", err)
	}
}

func short(value []byte) string {
	if len(value) > 20 {
		return fmt.Sprintf("%s…(%d)", value[:3], len(value))
	}
	return string(value)
}

// view TABLE [from=KEY] [as=NAME: keep it] | view NAME
func (w *world) view() {
	v := w.views[w.arg(0)]
	if v == nil {
		v = w.lookup(w.arg(0)).View()
		var name, from string
		w.d.MaybeScanArgs(w.t, "as", &name)
		w.d.MaybeScanArgs(w.t, "from", &from)
		if name != "" {
			w.views[name] = v
			return
		}
		defer v.Release()
		w.records(v, from)
		return
	}
	w.records(v, "")
}

func (w *world) records(v *View, from string) {
	for r, err := range v.Records(from) {
		if err != nil {
			w.print("%s@%d %v", r.Key, r.Revision, err)
			continue
		}
		w.print("%s@%d %s", r.Key, r.Revision, short(r.Value))
	}
	w.print("(revision %d)", v.Revision())
}

func (w *world) release() {
	w.views[w.arg(0)].Release()
	delete(w.views, w.arg(0))
}

// since TABLE REVISION [as=NAME: keep the cursor, print nothing]
func (w *world) since() {
	c, err := w.lookup(w.arg(0)).Since(w.number(1))
	if err != nil {
		w.print("%v", err)
		return
	}
	var name string
	w.d.MaybeScanArgs(w.t, "as", &name)
	if name != "" {
		w.cursors[name] = c
		return
	}
	w.events(c, 100)
}

// cursor VIEW NAME
func (w *world) cursor() { w.cursors[w.arg(1)] = w.views[w.arg(0)].Cursor() }

// next NAME [max=N]
func (w *world) next() { w.events(w.cursors[w.arg(0)], w.option("max", 100)) }

func (w *world) events(c *Cursor, limit int) {
	events, err := c.Next(limit)
	for _, e := range events {
		w.print("%s %s@%d %s", e.Type, e.Key, e.Revision, short(e.Value))
	}
	if err != nil {
		w.print("%v", err)
		return
	}
	w.print("(complete to %d)", c.Revision())
}

// stage TABLE NAME
func (w *world) stage() { w.stages[w.arg(1)] = w.lookup(w.arg(0)).Stage() }

// add NAME: lines of KEY REVISION VALUE [uid=ID]
func (w *world) add() {
	g := w.stages[w.arg(0)]
	for line := range strings.Lines(w.d.Input) {
		f := append(strings.Fields(line), "", "")
		revision, _ := strconv.ParseUint(f[1], 10, 64)
		r := Record{Key: f[0], Revision: revision, Value: []byte(f[2]), Identity: strings.TrimPrefix(f[3], "uid=")}
		if err := g.Add(context.Background(), r); err != nil {
			w.print("%v", err)
		}
	}
	if w.d.HasArg("flush") {
		if err := errors.Join(g.flush(context.Background()), g.settle(context.Background())); err != nil {
			w.print("%v", err)
		}
	}
}

// swap NAME REVISION [META]
func (w *world) swap() {
	diff, err := w.stages[w.arg(0)].Swap(context.Background(), w.number(1), w.meta())
	w.outcome(diff, err)
}

// reset NAME REVISION [META]
func (w *world) reset() {
	diff, err := w.stages[w.arg(0)].Reset(context.Background(), w.number(1), w.meta())
	w.outcome(diff, err)
}

func (w *world) meta() []byte {
	if len(w.d.CmdArgs) > 2 {
		return []byte(w.arg(2))
	}
	return nil
}

func (w *world) outcome(d Diff, err error) {
	if err != nil {
		w.print("%v", err)
		return
	}
	w.print("added %d, modified %d, deleted %d, unchanged %d", d.Added, d.Modified, d.Deleted, d.Unchanged)
}

func (w *world) abort() { w.stages[w.arg(0)].Abort() }

// compact [N]: removes the N oldest segments, whatever the size of the log.
func (w *world) compacted() {
	n := 1
	if len(w.d.CmdArgs) > 0 {
		n = int(w.number(0))
	}
	c := &compactor{store: w.store.Store}
	for range n {
		if err := c.compactOldest(context.Background()); err != nil {
			w.print("%v", err)
		}
	}
}

func (w *world) segments() []string {
	names, err := filepath.Glob(filepath.Join(w.dir, "*"))
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(n string) bool { return filepath.Base(n) == lockName })
}

func (w *world) files() {
	for _, name := range w.segments() {
		w.print("%s", strings.TrimLeft(filepath.Base(name), "0"))
	}
}

// damage WHAT closes the store in good order, breaks something, and opens it again:
// value TABLE KEY (a bit of it) | byte SEGMENT OFFSET | zero SEGMENT FROM TO | truncate SEGMENT SIZE | remove SEGMENT |
// append SEGMENT TEXT | create NAME
// SEGMENT is a number, counted from the oldest as 0. "crash" as last argument: the store was not closed.
func (w *world) damage() {
	var at location
	if w.arg(0) == "value" {
		at = w.lookup(w.arg(1)).now.get(w.arg(2)).at
	}
	dir := w.dir
	if w.arg(len(w.d.CmdArgs)-1) == "crash" {
		w.dir = copyDir(w.t, dir)
	}
	w.leave()
	w.breakIt(at)
	w.start()
}

func (w *world) breakIt(at location) {
	change := func(name string, f func([]byte) []byte) {
		data, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, f(data), 0o600)
		}
		if err != nil {
			w.d.Fatalf(w.t, "%v", err)
		}
	}
	switch w.arg(0) {
	case "value":
		change(filepath.Join(w.dir, segmentName(at.segment)), func(b []byte) []byte { b[at.offset] ^= 1; return b })
	case "byte":
		change(w.segments()[w.number(1)], func(b []byte) []byte { b[w.number(2)] ^= 0x40; return b })
	case "zero":
		change(w.segments()[w.number(1)], func(b []byte) []byte { clear(b[min(int(w.number(2)), len(b)):min(int(w.number(3)), len(b))]); return b })
	case "truncate":
		change(w.segments()[w.number(1)], func(b []byte) []byte { return b[:w.number(2)] })
	case "append":
		change(w.segments()[w.number(1)], func(b []byte) []byte { return append(b, w.arg(2)...) })
	case "remove":
		if err := os.Remove(w.segments()[w.number(1)]); err != nil {
			w.d.Fatalf(w.t, "%v", err)
		}
	case "create":
		if err := os.WriteFile(filepath.Join(w.dir, w.arg(1)), nil, 0o600); err != nil {
			w.d.Fatalf(w.t, "%v", err)
		}
	default:
		w.d.Fatalf(w.t, "no damage %s", w.arg(0))
	}
}
