package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/failpoint"
)

// TestModel compares the store with a few maps, under random operations, restarts and crashes. STORE_SEED repeats a run,
// STORE_RUNS makes it longer.
func TestModel(t *testing.T) {
	seed, runs := uint64(time.Now().UnixNano()), 12
	if v, err := strconv.ParseUint(os.Getenv("STORE_SEED"), 10, 64); err == nil {
		seed, runs = v, 1
	}
	if v, err := strconv.Atoi(os.Getenv("STORE_RUNS")); err == nil {
		runs = v
	}
	for i := range uint64(runs) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) {
			m := newModel(t, seed+i)
			for range 400 {
				m.step()
			}
			m.verify()
		})
	}
}

type modelRecord struct {
	revision uint64
	uid      string
	value    string
}

type modelEvent struct {
	typ      EventType
	key      string
	revision uint64
	value    string
}

type modelTable struct {
	records  map[string]modelRecord
	revision uint64
	meta     string
	events   []modelEvent
	first    int // index of the first event of this epoch
	epoch    int // several may begin at the same event
	floor    uint64
	holes    [][2]uint64
}

func newModelTable() *modelTable { return &modelTable{records: map[string]modelRecord{}} }

func (t *modelTable) clone() *modelTable {
	c := *t
	c.records = maps.Clone(t.records)
	c.events = slices.Clip(t.events)
	c.holes = slices.Clip(t.holes)
	return &c
}

func (t *modelTable) event(typ EventType, key string, revision uint64, value string) {
	t.events = append(t.events, modelEvent{typ, key, revision, value})
}

func (t *modelTable) put(key string, r modelRecord) {
	old, ok := t.records[key]
	typ := Added
	if ok {
		typ = Modified
		if old.uid != "" && r.uid != "" && old.uid != r.uid {
			t.event(Deleted, key, r.revision, old.value)
			typ = Added
		}
		if r.uid == "" {
			r.uid = old.uid
		}
	}
	t.records[key] = r
	t.event(typ, key, r.revision, r.value)
	t.revision = r.revision
}

func (t *modelTable) delete(key string, revision uint64, last *string) {
	if old, ok := t.records[key]; ok {
		delete(t.records, key)
		if last == nil {
			last = &old.value
		}
		t.event(Deleted, key, revision, *last)
	}
	t.revision = revision
}

func (t *modelTable) cut(revision uint64) {
	t.first, t.floor, t.holes, t.revision = len(t.events), revision, nil, revision
	t.epoch++
}

// swap is Stage.Swap and Stage.Reset, said another way.
func (t *modelTable) swap(staged map[string]modelRecord, to uint64, reset bool) {
	from, before := t.revision, len(t.events)
	clamp := func(r uint64) uint64 { return min(max(r, from+1), to) }
	var deleted, changed []string
	for key, old := range t.records {
		r, ok := staged[key]
		if !ok || old.uid != "" && r.uid != "" && old.uid != r.uid && (reset || r.revision >= old.revision) {
			deleted = append(deleted, key)
		}
	}
	for key, r := range staged {
		old, ok := t.records[key]
		same := ok && old.revision == r.revision && old.value == r.value && (old.uid == r.uid || old.uid == "" || r.uid == "")
		if !same && (!ok || reset || old.revision <= r.revision) {
			changed = append(changed, key)
		}
	}
	slices.Sort(deleted)
	slices.SortFunc(changed, func(a, b string) int {
		if staged[a].revision != staged[b].revision {
			return int(int64(staged[a].revision) - int64(staged[b].revision))
		}
		return cmpString(a, b)
	})
	for _, key := range deleted {
		t.event(Deleted, key, from+1, t.records[key].value)
		delete(t.records, key)
	}
	for _, key := range changed {
		t.put(key, staged[key])
		t.events[len(t.events)-1].revision = clamp(staged[key].revision)
	}
	n := len(deleted) + len(changed)
	if reset || from == 0 || n > 0 && to == from || len(t.events)-before > 1 && to == from+1 {
		t.cut(to)
		return
	}
	t.revision = to
	t.holes = append(t.holes, [2]uint64{from, to})
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// after returns the events after a revision; false where no answer but ErrExpired is right.
func (t *modelTable) after(revision uint64) ([]modelEvent, bool) {
	if revision < t.floor {
		return nil, false
	}
	for _, h := range t.holes {
		if h[0] < revision && revision < h[1] {
			return nil, false
		}
	}
	var after []modelEvent
	for _, e := range t.events[t.first:] {
		if e.revision > revision {
			after = append(after, e)
		}
	}
	return after, true
}

type modelCursor struct {
	*Cursor
	table string
	epoch int // of the model when it began
	index int // of the next event in the model's list
}

type modelView struct {
	*View
	want *modelTable
}

type model struct {
	t       *testing.T
	rnd     *rand.Rand
	dir     string
	opts    Options
	keys    string
	store   *running
	tables  map[string]*modelTable
	cursors []*modelCursor
	views   []*modelView
}

func newModel(t *testing.T, seed uint64) *model {
	rnd := rand.New(rand.NewPCG(seed, 1))
	m := &model{t: t, rnd: rnd, dir: t.TempDir(), tables: map[string]*modelTable{}}
	m.opts = Options{
		SegmentBytes: int64(2000 + rnd.IntN(20000)), CompactAbove: int64(6000 + rnd.IntN(60000)),
		HistoryPerTable: 5 + rnd.IntN(100), RecentBytes: int64(1 + rnd.IntN(20000)),
	}
	if rnd.IntN(3) > 0 {
		m.newKey()
	}
	m.start()
	t.Cleanup(func() { m.stop() })
	return m
}

// newKey makes the next start one with sealing, or with another key.
func (m *model) newKey() {
	m.keys = string(rune('a'+m.rnd.IntN(26))) + m.keys
	m.opts.Keys = testKeys(m.keys)
}

func (m *model) start() {
	if m.rnd.IntN(3) == 0 {
		m.newKey()
	}
	s, err := tryStart(m.dir, m.opts)
	if err != nil {
		m.t.Fatal(err)
	}
	m.store = s
}

func (m *model) stop() {
	for _, v := range m.views {
		v.Release()
	}
	m.views, m.cursors = nil, nil
	if err := m.store.stop(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) step() {
	weighted := []struct {
		weight int
		f      func()
	}{
		{100, m.commit}, {15, m.stage}, {1, m.drop}, {3, m.reopen}, {4, m.crash}, {6, m.fault},
		{10, m.openCursor}, {40, m.readCursor}, {8, m.openView}, {8, m.closeView}, {20, m.since}, {5, m.verify},
	}
	total := 0
	for _, w := range weighted {
		total += w.weight
	}
	n := m.rnd.IntN(total)
	for _, w := range weighted {
		if n -= w.weight; n < 0 {
			w.f()
			return
		}
	}
}

func (m *model) name() string { return fmt.Sprintf("table%d", m.rnd.IntN(3)) }

func (m *model) table(name string) (*Table, *modelTable) {
	if m.tables[name] == nil {
		m.tables[name] = newModelTable()
	}
	return mustTable(m.t, m.store.Store, name, KeepHistory), m.tables[name]
}

func (m *model) key() string { return fmt.Sprintf("ns%d/name%d", m.rnd.IntN(3), m.rnd.IntN(12)) }

func (m *model) value() string {
	b := make([]byte, m.rnd.IntN(1+m.rnd.IntN(900)))
	for i := range b {
		b[i] = byte('a' + m.rnd.IntN(26))
	}
	return string(b)
}

func (m *model) uid() string { return []string{"", "u1", "u1", "u1", "u1", "u2"}[m.rnd.IntN(6)] }

// batch makes a random batch, and the tables as they will be.
func (m *model) batch() (*Batch, map[string]*modelTable) {
	var b Batch
	next := map[string]*modelTable{}
	for range 1 + m.rnd.IntN(5) {
		name := m.name()
		t, mt := m.table(name)
		if next[name] == nil {
			next[name] = mt.clone()
		}
		mt = next[name]
		revision := mt.revision + uint64(m.rnd.IntN(4))
		if mt.revision > 0 && revision == mt.revision && m.rnd.IntN(3) > 0 {
			revision++
		}
		revision = max(revision, 1)
		key := m.key()
		if mt.records[key].revision == revision {
			revision++ // one revision of one object is one content
		}
		switch m.rnd.IntN(8) {
		case 0:
			b.SetRevision(t, revision)
			mt.revision = revision
		case 1:
			mt.meta = m.value()
			b.SetMeta(t, []byte(mt.meta))
		case 2, 3:
			var last *string
			if m.rnd.IntN(2) == 0 {
				v := m.value()
				last = &v
				b.Delete(t, key, revision, append([]byte{}, v...))
			} else {
				b.Delete(t, key, revision, nil)
			}
			mt.delete(key, revision, last)
		default:
			r := modelRecord{revision, m.uid(), m.value()}
			b.Put(t, Record{Key: key, Revision: revision, Identity: r.uid, Value: []byte(r.value)})
			mt.put(key, r)
		}
	}
	return &b, next
}

func (m *model) commit() {
	b, next := m.batch()
	mustCommit(m.t, m.store.Store, b)
	maps.Copy(m.tables, next)
}

// fault lets the disk fail under a commit: it has happened, or not at all.
func (m *model) fault() {
	points := []failpoint.Name{
		failpoint.StoreBeforeWrite, failpoint.StorePartWritten, failpoint.StoreBeforeSync, failpoint.StoreAfterSync,
		failpoint.StoreBeforeCreate, failpoint.StoreAfterCreate, failpoint.StoreAfterHeader, failpoint.StoreBeforeFooter,
	}
	disable := failpoint.EnableFunc(points[m.rnd.IntN(len(points))], func() error { return syscall.EIO })
	b, next := m.batch()
	err := m.store.Commit(context.Background(), b)
	disable()
	switch {
	case err == nil:
		maps.Copy(m.tables, next)
	case !errors.Is(err, syscall.EIO):
		m.t.Fatal(err)
	}
	m.verify()
}

func (m *model) stage() {
	name := m.name()
	t, mt := m.table(name)
	g := t.Stage()
	defer g.Abort()
	staged := map[string]modelRecord{}
	to := mt.revision + uint64(m.rnd.IntN(5)*m.rnd.IntN(5))
	reset := m.rnd.IntN(10) == 0
	if reset {
		to = uint64(1 + m.rnd.IntN(50))
	}
	for _, key := range slices.Sorted(maps.Keys(mt.records)) {
		r := mt.records[key]
		switch m.rnd.IntN(6) {
		case 0: // gone
		case 1:
			staged[key] = modelRecord{r.revision + uint64(m.rnd.IntN(6)), m.uid(), m.value()}
		default:
			staged[key] = r
		}
	}
	for range m.rnd.IntN(4) {
		staged[m.key()] = modelRecord{1 + uint64(m.rnd.IntN(int(to)+1)), m.uid(), m.value()}
	}
	for key, r := range staged { // a list has nothing newer than itself
		r.revision = min(r.revision, to)
		staged[key] = r
	}
	for _, key := range slices.Sorted(maps.Keys(staged)) {
		r := staged[key]
		err := g.Add(context.Background(), Record{Key: key, Revision: r.revision, Identity: r.uid, Value: []byte(r.value)})
		if err != nil {
			m.t.Fatal(err)
		}
		if m.rnd.IntN(4) == 0 {
			if err := g.flush(context.Background()); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	// Commits that come in between; whether they fit is for Swap to say.
	for range m.rnd.IntN(2) * m.rnd.IntN(3) {
		m.commit()
	}
	mt = m.tables[name].clone()
	var err error
	switch {
	case m.rnd.IntN(10) == 0:
		return
	case reset:
		_, err = g.Reset(context.Background(), to, []byte("reset"))
		mt.meta = "reset"
		mt.swap(staged, to, true)
	default:
		_, err = g.Swap(context.Background(), to, nil)
		if to >= mt.revision {
			mt.swap(staged, to, false)
		} else if !errors.Is(err, ErrConflict) {
			m.t.Fatalf("swap to %d at %d: %v", to, mt.revision, err)
		}
	}
	if errors.Is(err, ErrConflict) {
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.tables[name] = mt
}

func (m *model) drop() {
	name := m.name()
	if err := m.store.Drop(context.Background(), name); err != nil {
		m.t.Fatal(err)
	}
	delete(m.tables, name)
	m.cursors = slices.DeleteFunc(m.cursors, func(c *modelCursor) bool {
		if c.table != name {
			return false
		}
		if _, err := c.Next(1); !errors.Is(err, ErrExpired) {
			m.t.Errorf("cursor of a dropped table: %v", err)
		}
		return true
	})
}

func (m *model) reopen() {
	m.stop()
	m.start()
	m.verify()
}

// crash cuts the power while a batch is written: what was not synced is there, or not, or in pieces.
func (m *model) crash() {
	b, next := m.batch()
	var crashed string
	disable := failpoint.EnableFunc(failpoint.StoreBeforeSync, func() error {
		if crashed == "" {
			crashed = copyDir(m.t, m.dir)
			m.tear(crashed)
		}
		return nil
	})
	err := m.store.Commit(context.Background(), b)
	disable()
	if err != nil {
		m.t.Fatal(err)
	}
	m.stop()
	if crashed == "" { // the batch changed nothing
		m.start()
		return
	}
	m.dir = crashed
	m.start()
	// All of the batch is there, or nothing.
	before, after := m.differences(m.tables), ""
	if before != "" {
		merged := maps.Clone(m.tables)
		maps.Copy(merged, next)
		after = m.differences(merged)
		m.tables = merged
	}
	if before != "" && after != "" {
		m.t.Fatalf("neither the state before the crash:\n%s\nnor the one after:\n%s", before, after)
	}
	m.verify()
}

// tear damages what was not durable in the newest segment.
func (m *model) tear(dir string) {
	w := &m.store.writer // the committer is in our hands
	name := filepath.Join(dir, segmentName(w.segment.id))
	data, err := os.ReadFile(name)
	if err != nil {
		m.t.Fatal(err)
	}
	if int64(len(data)) <= w.offset {
		return
	}
	tail := data[w.offset:]
	switch m.rnd.IntN(4) {
	case 0: // all there
	case 1:
		data = data[:int(w.offset)+m.rnd.IntN(len(tail))]
	case 2:
		from := m.rnd.IntN(len(tail))
		clear(tail[from:min(len(tail), from+1+m.rnd.IntN(200))])
	case 3:
		tail[m.rnd.IntN(len(tail))] ^= 0x10
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) openCursor() {
	name := m.name()
	t, mt := m.table(name)
	v := t.View()
	defer v.Release()
	m.cursors = append(m.cursors, &modelCursor{v.Cursor(), name, mt.epoch, len(mt.events)})
}

func (m *model) readCursor() {
	if len(m.cursors) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.cursors))
	c := m.cursors[i]
	mt := m.tables[c.table]
	events, err := c.Next(1 + m.rnd.IntN(10))
	if errors.Is(err, ErrExpired) {
		if c.epoch == mt.epoch && c.index == len(mt.events) {
			m.t.Errorf("a cursor that has seen all of %s expired", c.table)
		}
		m.cursors = slices.Delete(m.cursors, i, i+1)
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	if c.epoch != mt.epoch {
		m.t.Errorf("a cursor of %s survived a new epoch", c.table)
	}
	if len(events) == 0 && c.index != len(mt.events) {
		m.t.Errorf("a cursor of %s got nothing, %d events before the end", c.table, len(mt.events)-c.index)
	}
	for _, e := range events {
		if diff := cmp.Diff(mt.events[c.index], modelEvent{e.Type, e.Key, e.Revision, string(e.Value)}, cmp.AllowUnexported(modelEvent{})); diff != "" {
			m.t.Fatalf("event %d of %s: %s", c.index, c.table, diff)
		}
		c.index++
	}
	// Who begins at the cursor's revision sees exactly what the cursor will.
	if want, ok := mt.after(c.Revision()); ok && c.index+len(want) < len(mt.events) {
		m.t.Errorf("cursor of %s says %d is complete, %d events are to come and %d after it", c.table, c.Revision(), len(mt.events)-c.index, len(want))
	}
}

func (m *model) since() {
	name := m.name()
	t, mt := m.table(name)
	revision := uint64(m.rnd.IntN(int(mt.revision) + 1))
	if m.rnd.IntN(2) == 0 {
		revision = max(mt.revision, uint64(m.rnd.IntN(5))) - min(mt.revision, uint64(m.rnd.IntN(5)))
	}
	want, ok := mt.after(revision)
	c, err := t.Since(revision)
	if errors.Is(err, ErrExpired) && (!ok || len(want) > 0) {
		return // the bound of the history is the store's affair
	}
	if err != nil || !ok {
		m.t.Fatalf("since %d of %s at %d: %v, possible: %v", revision, name, mt.revision, err, ok)
	}
	var got []modelEvent
	for {
		events, err := c.Next(1 + m.rnd.IntN(5))
		if errors.Is(err, ErrExpired) {
			return // compaction
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if len(events) == 0 {
			break
		}
		for _, e := range events {
			got = append(got, modelEvent{e.Type, e.Key, e.Revision, string(e.Value)})
		}
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(modelEvent{})); diff != "" {
		m.t.Fatalf("since %d of %s: %s", revision, name, diff)
	}
	if c.Revision() != max(revision, mt.revision) {
		m.t.Errorf("since %d of %s: complete to %d at %d", revision, name, c.Revision(), mt.revision)
	}
}

func (m *model) openView() {
	t, mt := m.table(m.name())
	m.views = append(m.views, &modelView{t.View(), mt.clone()})
}

func (m *model) closeView() {
	if len(m.views) == 0 {
		return
	}
	i := m.rnd.IntN(len(m.views))
	v := m.views[i]
	if diff := compareView(v.View, v.want); diff != "" {
		m.t.Fatal(diff)
	}
	v.Release()
	m.views = slices.Delete(m.views, i, i+1)
}

func compareView(v *View, want *modelTable) string {
	var keys []string
	size := int64(0)
	for r, err := range v.Records("") {
		if err != nil {
			return err.Error()
		}
		w := want.records[r.Key]
		if w.revision != r.Revision || w.value != string(r.Value) {
			return fmt.Sprintf("%s: got %d %q, want %d %q", r.Key, r.Revision, r.Value, w.revision, w.value)
		}
		keys = append(keys, r.Key)
		size += int64(len(r.Value))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want.records)), keys); diff != "" {
		return "keys: " + diff
	}
	if v.Doubt() != nil {
		return v.Doubt().Error()
	}
	if v.Revision() != want.revision || string(v.Meta()) != want.meta || v.Len() != len(keys) || v.Size() != size {
		return fmt.Sprintf("revision %d, meta %q, %d records of %d bytes; want %d, %q, %d of %d", v.Revision(), v.Meta(), v.Len(), v.Size(), want.revision, want.meta, len(keys), size)
	}
	return ""
}

// differences compares all tables with the model.
func (m *model) differences(tables map[string]*modelTable) string {
	for i := range 3 {
		name := fmt.Sprintf("table%d", i)
		want := tables[name]
		if want == nil {
			want = newModelTable()
		}
		v := mustTable(m.t, m.store.Store, name, KeepHistory).View()
		diff := compareView(v, want)
		v.Release()
		if diff != "" {
			return name + ": " + diff
		}
	}
	return ""
}

func (m *model) verify() {
	if diff := m.differences(m.tables); diff != "" {
		m.t.Fatal(diff)
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	var live, disk int64
	for _, t := range m.store.tables {
		live += t.now.cost
	}
	for _, seg := range m.store.set.list {
		disk += seg.size
	}
	if m.store.live != live || m.store.disk != disk || len(m.store.damaged) != 0 || len(m.store.stages) != 0 {
		m.t.Errorf("counted %d live bytes of %d, %d bytes of %d, %d damaged records, %d stages",
			m.store.live, live, m.store.disk, disk, len(m.store.damaged), len(m.store.stages))
	}
}
