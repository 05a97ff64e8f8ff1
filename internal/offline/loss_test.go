package offline

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/credential"
)

// TestDroppedEventsAreReported: what there was no room for, and what the API
// server does not take, is told by one event about the node, when the rest has
// been replayed; a restart does not forget it, and an answer that is lost does
// not make it two.
func TestDroppedEventsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), cloud: newCloud()}
		w.start()
		w.journal.Node = "edge"
		for i := range journalEntries + 7 {
			e := Entry{Method: http.MethodPost, Path: "/x", Body: []byte(strconv.Itoa(i))}
			if err := w.journal.Append(t.Context(), e, credential.Credential{}); err != nil {
				t.Fatal(err)
			}
		}
		w.stop()
		w.start()
		w.journal.Node = "edge"
		defer w.stop()
		w.cloud.set(func(c *cloud) { c.answers["500"] = "404" }) // the namespace has gone
		w.cloud.up(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		seen := w.cloud.take()
		var reports []string
		for _, line := range seen {
			if strings.Contains(line, "EventsDropped") {
				reports = append(reports, line)
			}
		}
		last := seen[len(seen)-1]
		if len(reports) != 1 || last != reports[0] || !strings.Contains(last, `"count":8`) || !strings.Contains(last, `"name":"edge.dropped-`) {
			t.Errorf("reports %q, and the last of %d requests is %q", reports, len(seen), last)
		}
		if w.journal.lost.Count != 0 {
			t.Errorf("still to be reported: %+v", w.journal.lost)
		}

		// The answer to a report is lost: it is repeated under the same name, and
		// what was dropped since comes under another.
		w.cloud.up(false)
		for i := range journalEntries + 1 {
			if err := w.journal.Append(t.Context(), Entry{Method: http.MethodPost, Path: "/x", Body: []byte("again " + strconv.Itoa(i))}, credential.Credential{}); err != nil {
				t.Fatal(err)
			}
		}
		e, err := w.journal.lost.entry("edge")
		if err != nil {
			t.Fatal(err)
		}
		w.cloud.set(func(c *cloud) { c.answers[string(e.Body)] = "lost" })
		w.cloud.up(true)
		time.Sleep(time.Hour)
		synctest.Wait()
		var answers []string
		for _, line := range w.cloud.take() {
			if body, answer, ok := strings.Cut(line, " as node: "); ok && body == string(e.Body) {
				answers = append(answers, answer)
			}
		}
		if strings.Join(answers, " ") != "lost 409" {
			t.Errorf("the report was answered %q, want lost, then 409", answers)
		}
	})
}
