package offline

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/store"
)

// openBook opens a book on a store that runs until the returned function is
// called.
func openBook(t testing.TB, dir string) (*Book, *store.Store, func()) {
	t.Helper()
	st := openStore(t, dir)
	b, err := OpenBook(st, "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = st.Run(ctx) }()
	return b, st, func() {
		cancel()
		<-done
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}
}

func at(seconds int) time.Time { return time.Unix(int64(seconds), 0) }

func keep(t testing.TB, b *Book, question string, a Answer) {
	t.Helper()
	if err := b.Keep(t.Context(), question, a); err != nil {
		t.Fatal(err)
	}
}

func TestBook(t *testing.T) {
	dir := t.TempDir()
	b, st, done := openBook(t, dir)
	first := Answer{ContentType: "application/json", Revision: 7, At: at(100), Body: []byte("x")}
	keep(t, b, "q", first)
	keep(t, b, "other", first)
	commits := st.Stats().Commits

	// What says the same is not written again, until its age counts.
	again := first
	again.At = at(200)
	keep(t, b, "q", again)
	if n := st.Stats().Commits; n != commits {
		t.Errorf("an unchanged answer was written: %d commits, were %d", n, commits)
	}
	again.At = at(100).Add(reviewAge)
	keep(t, b, "q", again)
	if got, _ := b.Recall("q"); !got.At.Equal(again.At) {
		t.Errorf("an old answer that was given again is still of %s", got.At)
	}
	// The newest is the last, whatever its revision: etcd may have been restored.
	older := Answer{ContentType: "application/vnd.kubernetes.protobuf", Revision: 3, At: at(300), Body: []byte{0, 1}}
	keep(t, b, "q", older)

	done()
	b, _, done = openBook(t, dir)
	defer done()
	got, ok := b.Recall("q")
	if diff := cmp.Diff(older, got); !ok || diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"other"}, b.Questions("o")); diff != "" {
		t.Errorf("questions (-want +got):\n%s", diff)
	}
	if err := b.Forget(t.Context(), "q", "never asked"); err != nil {
		t.Error(err)
	}
	if _, ok := b.Recall("q"); ok || b.Len() != 1 {
		t.Errorf("after Forget: recalled %t, %d answers", ok, b.Len())
	}
}

// TestBookForgetsTheOldest fills a book beyond its number of entries: the ones
// given longest ago go, and one that is given again stays.
func TestBookForgetsTheOldest(t *testing.T) {
	b, _, done := openBook(t, t.TempDir())
	defer done()
	b.entries = 64
	for i := range 65 {
		keep(t, b, strconv.Itoa(i), Answer{At: at(0)})
		if i == 48 {
			keep(t, b, "1", Answer{At: at(0)})
		}
	}
	if n := b.Len(); n > 64 || n < 56 {
		t.Errorf("%d answers, want at most 64 and not many fewer", n)
	}
	for question, want := range map[string]bool{"0": false, "1": true, "2": false, "64": true} {
		if _, ok := b.Recall(question); ok != want {
			t.Errorf("answer to %s: %t, want %t", question, ok, want)
		}
	}
}

func TestBookIsBoundedInBytes(t *testing.T) {
	b, _, done := openBook(t, t.TempDir())
	defer done()
	b.bytes = 20_000
	body := make([]byte, 1000)
	for i := range 50 {
		keep(t, b, strconv.Itoa(i), Answer{At: at(0), Body: body})
	}
	view := b.table.View()
	defer view.Release()
	if view.Size() > b.bytes || view.Len() < 15 {
		t.Errorf("the book has %d answers of %d bytes, it may have %d bytes", view.Len(), view.Size(), b.bytes)
	}
	if _, ok := b.Recall("49"); !ok {
		t.Error("the newest answer is gone")
	}
}

// TestBookDamaged: an entry that can't be read counts as none, and is written
// anew by the next answer.
func TestBookDamaged(t *testing.T) {
	dir := t.TempDir()
	b, _, done := openBook(t, dir)
	body := bytes.Repeat([]byte("planted"), 100)
	keep(t, b, "q", Answer{At: at(1), Body: body})
	done()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(data, body); i >= 0 {
			data[i+50] ^= 1
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, _, done = openBook(t, dir)
	defer done()
	if a, ok := b.Recall("q"); ok {
		t.Errorf("a damaged entry was recalled: %q", a.Body)
	}
	want := Answer{At: at(2), Body: []byte("new")}
	keep(t, b, "q", want)
	if a, ok := b.Recall("q"); !ok || string(a.Body) != "new" {
		t.Errorf("recalled %q, %t", a.Body, ok)
	}
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(encodeAnswer(Answer{ContentType: "application/json", Revision: 1, At: at(5), Body: []byte("{}")}))
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x02, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := decodeAnswer(data)
		if err != nil {
			return
		}
		again, err := decodeAnswer(encodeAnswer(a))
		if diff := cmp.Diff(a, again); err != nil || diff != "" {
			t.Errorf("%v (-first +again):\n%s", err, diff)
		}
	})
}
