package offline

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.uber.org/goleak"

	"yurt/internal/credential"
	"yurt/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestJournal tells the journal's life as scripts. After each command ten minutes
// pass, so that every wait is over; what is repeated is shown once.
func TestJournal(t *testing.T) {
	datadriven.Walk(t, "testdata/journal", func(t *testing.T, path string) {
		synctest.Test(t, func(t *testing.T) {
			w := &world{t: t, dir: t.TempDir(), cloud: newCloud()}
			w.start()
			defer w.stop()
			datadriven.RunTest(t, path, w.command)
		})
	})
}

// world is a journal on a store, and a cloud.
type world struct {
	t       *testing.T
	dir     string
	cloud   *cloud
	store   *store.Store
	journal *Journal
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func (w *world) start() {
	w.store = openStore(w.t, w.dir)
	var err error
	if w.journal, err = OpenJournal(w.store, w.cloud, slog.New(slog.DiscardHandler)); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	storeCtx, stopStore := context.WithCancel(context.Background())
	w.cancel = cancel
	stored := make(chan struct{})
	go func() { defer close(stored); _ = w.store.Run(storeCtx) }()
	w.running.Go(func() {
		_ = w.journal.Run(ctx)
		stopStore()
		<-stored
	})
}

func (w *world) stop() {
	w.cancel()
	w.running.Wait()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

func openStore(t testing.TB, dir string) *store.Store {
	st, err := store.Open(dir, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func (w *world) command(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	for line := range strings.Lines(d.Input) {
		w.line(t, &out, d.Cmd, strings.Fields(line))
	}
	switch d.Cmd {
	case "kill":
		// The process ends after an answer has come and before it is noted.
		w.cloud.set(func(c *cloud) { c.afterAnswer = w.cancel })
		w.cloud.up(true)
		time.Sleep(5 * time.Second)
		w.stop()
		w.cloud.set(func(c *cloud) { c.afterAnswer = nil })
		w.start()
	case "restart":
		w.stop()
		w.start()
	}
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	shown := map[string]bool{}
	for _, line := range w.cloud.take() {
		if !shown[line] {
			fmt.Fprintln(&out, line)
		}
		shown[line] = true
	}
	s := w.journal.Stats()
	fmt.Fprintf(&out, "pending=%d replayed=%d dropped=%d\n", s.Pending, s.Replayed, s.Dropped)
	return out.String()
}

func (w *world) line(t *testing.T, out io.Writer, cmd string, f []string) {
	switch cmd {
	case "write": // NAME [IDENTITY]
		cred := credential.Credential{}
		if len(f) > 1 {
			cred = credential.Credential{Identity: credential.Identity{Name: f[1]}, Token: f[1] + "-token"}
		}
		entry := Entry{Method: http.MethodPost, Path: "/api/v1/namespaces/shop/events", ContentType: "application/json", At: time.Now(), Body: []byte(f[0])}
		if err := w.journal.Append(t.Context(), entry, cred); err != nil {
			fmt.Fprintln(out, err)
		}
	case "remember": // IDENTITY TOKEN
		w.journal.Remember(credential.Credential{Identity: credential.Identity{Name: f[0]}, Token: f[1]})
	case "cloud":
		w.cloud.command(t, f)
	default:
		t.Fatalf("no command %s", cmd)
	}
}

// cloud takes events and says what it is told to say.
type cloud struct {
	mu          sync.Mutex
	isUp        bool
	changed     chan struct{}
	answers     map[string]string // by event: "404", "lost", "429 text/plain"
	has         map[string]bool
	valid       map[string]bool // tokens
	seen        []string
	afterAnswer func()
}

func newCloud() *cloud {
	return &cloud{changed: make(chan struct{}), answers: map[string]string{}, has: map[string]bool{}, valid: map[string]bool{"": true, "alice-token": true}}
}

func (c *cloud) set(change func(*cloud)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *cloud) up(up bool) {
	c.set(func(c *cloud) {
		c.isUp = up
		close(c.changed)
		c.changed = make(chan struct{})
	})
}

func (c *cloud) take() (seen []string) {
	c.set(func(c *cloud) { seen, c.seen = c.seen, nil })
	return seen
}

func (c *cloud) command(t *testing.T, f []string) {
	switch f[0] {
	case "up", "down":
		c.up(f[0] == "up")
	case "answer": // EVENT CODE [TYPE]
		c.set(func(c *cloud) { c.answers[f[1]] = strings.Join(f[2:], " ") })
	case "valid":
		c.set(func(c *cloud) { c.valid[f[1]] = true })
	case "invalid":
		c.set(func(c *cloud) { delete(c.valid, f[1]) })
	default:
		t.Fatalf("no command %s", f)
	}
}

func (c *cloud) WaitUp(ctx context.Context) error {
	for {
		c.mu.Lock()
		up, changed := c.isUp, c.changed
		c.mu.Unlock()
		if up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *cloud) RoundTrip(r *http.Request, cred credential.Credential) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isUp {
		return nil, errors.New("the link is down")
	}
	name := string(body)
	answer, contentType, _ := strings.Cut(c.answers[name], " ")
	if contentType == "" {
		contentType = "application/json"
	}
	code, _ := strconv.Atoi(answer)
	switch {
	case answer == "lost": // executed, but nobody is told
		c.has[name] = true
		delete(c.answers, name)
		c.seen = append(c.seen, name+" as "+cred.String()+": lost")
		return nil, errors.New("connection reset by peer")
	case code != 0:
	case !c.valid[cred.Token]:
		code = http.StatusUnauthorized
	case c.has[name]:
		code = http.StatusConflict
	default:
		code, c.has[name] = http.StatusCreated, true
	}
	c.seen = append(c.seen, fmt.Sprintf("%s as %s: %d", name, cred, code))
	if c.afterAnswer != nil {
		c.afterAnswer()
		return nil, context.Canceled
	}
	return &http.Response{
		StatusCode: code, Status: strconv.Itoa(code), Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(bytes.NewReader([]byte("{}"))),
	}, nil
}

// TestJournalIsBounded fills the journal beyond both of its bounds.
func TestJournalIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud()}
		w.start()
		defer w.stop()
		write := func(name string, size int) {
			t.Helper()
			e := Entry{Method: http.MethodPost, Path: "/x", Body: []byte(name + strings.Repeat(" ", size))}
			if err := w.journal.Append(t.Context(), e, credential.Credential{}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range journalEntries + 5 {
			write(strconv.Itoa(i), 0)
		}
		if s := w.journal.Stats(); s.Pending != journalEntries || s.Dropped != 5 {
			t.Errorf("after %d entries: %+v", journalEntries+5, s)
		}
		for i := range 10 {
			write("large-"+strconv.Itoa(i), journalBytes/8)
		}
		s := w.journal.Stats()
		if s.Bytes > journalBytes || s.Pending == 0 || s.Pending+int(s.Dropped) != journalEntries+15 {
			t.Errorf("after large entries: %+v, want at most %d bytes and every entry counted", s, journalBytes)
		}
		if err := w.journal.Append(t.Context(), Entry{Body: make([]byte, journalBytes)}, credential.Credential{}); err == nil {
			t.Error("an entry that is larger than the journal was taken")
		}
		w.stop()
		w.start()
		if again := w.journal.Stats(); again.Pending != s.Pending || again.Bytes != s.Bytes {
			t.Errorf("reopened: %+v, was %+v", again, s)
		}
		w.cloud.up(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		seen := w.cloud.take()
		if len(seen) != s.Pending || !slices.IsSortedFunc(seen, byNumber) {
			t.Errorf("replayed %d of %d entries, or not in their order: %.200q", len(seen), s.Pending, seen)
		}
	})
}

func byNumber(a, b string) int {
	number := func(s string) int {
		digits := strings.Trim(strings.Fields(s)[0], "large-")
		n, _ := strconv.Atoi(digits)
		return n
	}
	return number(a) - number(b)
}

// TestJournalHoldsNoSecretLonger: credentials are kept for what is in the
// journal only.
func TestJournalHoldsNoSecretLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud()}
		w.start()
		defer w.stop()
		w.line(t, io.Discard, "remember", []string{"bob", "bob-token"})
		w.line(t, io.Discard, "write", []string{"x", "alice"})
		if n := len(w.journal.authors); n != 1 {
			t.Errorf("with one entry there are %d authors", n)
		}
		w.cloud.up(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := len(w.journal.authors); n != 0 {
			t.Errorf("without an entry there are %d authors", n)
		}
	})
}
