package offline

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"yurt/internal/credential"
)

// TestOneClientPushesOutNoOther: whoever writes without end pushes out what it
// wrote itself, from the journal and from the books.
func TestOneClientPushesOutNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud()}
		w.start()
		defer w.stop()
		write := func(name string, size int) {
			t.Helper()
			e := Entry{Method: http.MethodPost, Path: "/" + name, Body: []byte(strings.Repeat(" ", size))}
			if err := w.journal.Append(context.Background(), e, credential.Credential{Identity: credential.Identity{Name: name}}); err != nil {
				t.Fatal(err)
			}
		}
		kept := func(name string) int {
			n := 0
			w.journal.mu.Lock()
			defer w.journal.mu.Unlock()
			for _, e := range w.journal.entries {
				if e.author.name == name {
					n++
				}
			}
			return n
		}
		for range 400 {
			write("", 0) // the node's
			write("proxy", 0)
		}
		for range 3 * journalEntries {
			write("greedy", 10)
		}
		for range 20 {
			write("greedy", journalBytes/10)
		}
		if node, proxy, greedy := kept(""), kept("proxy"), kept("greedy"); node != 400 || proxy < 300 || greedy < 5 {
			t.Errorf("of 400 each the node has %d, another %d, and the greedy one %d", node, proxy, greedy)
		}
		for range 4 * journalEntries {
			write("", 0)
		}
		if node, proxy := kept(""), kept("proxy"); node < journalEntries/2 || proxy < 100 {
			t.Errorf("of all the node has %d, another %d", node, proxy)
		}
	})

	b, _, done := openBook(t, t.TempDir())
	defer done()
	b.entries, b.bytes = 64, 64_000
	for i := range 20 {
		for _, name := range []string{"", "proxy"} {
			keep(t, b, fmt.Sprintf("%q /%d", name, i), Answer{At: at(0)})
		}
	}
	for i := range 300 {
		keep(t, b, fmt.Sprintf("%q /%d", "greedy", i), Answer{At: at(0)})
	}
	for i := range 30 {
		keep(t, b, fmt.Sprintf("%q /large-%d", "greedy", i), Answer{At: at(0), Body: make([]byte, 6000)})
	}
	for _, name := range []string{"", "proxy"} {
		if n := len(b.Questions(fmt.Sprintf("%q ", name))); n != 20 {
			t.Errorf("of 20 answers %q has %d", name, n)
		}
	}
}
