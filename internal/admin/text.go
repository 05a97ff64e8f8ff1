package admin

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"yurt/internal/adminapi"
)

// maxRows is how many rows of traffic a person is shown.
const maxRows = 20

// writeText writes the status for a person: first what is wrong, if anything is.
func writeText(w io.Writer, s adminapi.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
	line("yurthub %s on %s, running for %s", s.Version, s.Node, age(s.StartedAt, now))
	line("")
	line("link\t%s", describeLink(s.Link, now))
	for _, server := range s.Link.Servers {
		line("\t%s", describeServer(server))
	}
	if s.Credential.Problem != "" {
		line("\tTHE NODE IS LOCKED OUT: %s", s.Credential.Problem)
	}
	line("replica\t%s", describeReplica(s, now))
	line("journal\t%s wait for the link (%s), %d replayed, %d lost", count(s.Journal.Pending, "event"), size(s.Journal.Bytes), s.Journal.Replayed, s.Journal.Dropped)
	line("store\t%s on disk, %s written", size(s.Store.DiskBytes), size(s.Store.BytesWritten))
	for _, text := range describeSealing(s.Store.Sealing) {
		line("\t%s", text)
	}
	if s.Store.Error != "" {
		line("\tTHE DISK FAILS: %s", s.Store.Error)
	}
	line("process\t%s of memory, %s", size(s.Process.ResidentBytes), count(s.Process.Goroutines, "goroutine"))
	if len(s.Collections) > 0 {
		line("\nCOLLECTION\tCLIENT\tOBJECTS\tWATCHERS\tSTATE\tAGE")
	}
	for _, c := range s.Collections {
		line("%s\t%s\t%d\t%d\t%s\t%s", c.Path, c.Identity, c.Objects, c.Watchers, stateOf(c), freshness(c, now))
	}
	if len(s.Upstream) > 0 {
		line("\nOVER THE LINK FOR\tRESOURCE\tFROM THE CLOUD\tTO THE CLOUD")
	}
	rows := slices.Clone(s.Upstream)
	slices.SortStableFunc(rows, func(a, b adminapi.Traffic) int { return cmp.Compare(b.Received+b.Sent, a.Received+a.Sent) })
	for i, r := range rows {
		if i == maxRows {
			line("and %d more", len(rows)-i)
			break
		}
		line("%s\t%s\t%s\t%s", r.Client, cmp.Or(r.Resource, "-"), size(r.Received), size(r.Sent))
	}
	return t.Flush()
}

func describeLink(l adminapi.Link, now time.Time) string {
	text := fmt.Sprintf("%s for %s", l.State, age(l.Since, now))
	if l.Reason != "" {
		text += ": " + l.Reason
	}
	return text + fmt.Sprintf("; %s read, %s written, TLS included", size(l.BytesRead), size(l.BytesWritten))
}

// describeSealing says what protects the store, and what of it can't be read.
func describeSealing(s adminapi.Sealing) []string {
	if s.KeyID == "" {
		return nil // of a hub that knows no keys
	}
	lines := []string{fmt.Sprintf("sealed; key: %s (%s)", s.Key, s.KeyID)}
	if s.Pending > 0 {
		lines = append(lines, count(s.Pending, "file")+" in clear or sealed by an older key, being sealed anew")
	}
	if s.Unopened > 0 {
		lines = append(lines, fmt.Sprintf("%s CAN'T BE OPENED: %s", count(s.Unopened, "record"), s.Reason))
	}
	return lines
}

func describeServer(s adminapi.Server) string {
	text := s.Address + " is " + s.Health
	if s.LatencyMilliseconds > 0 {
		text += fmt.Sprintf(", answers in %.0f ms", s.LatencyMilliseconds)
	}
	if s.Faults >= 0.01 {
		text += fmt.Sprintf(", fails %.0f %% of the time", 100*s.Faults)
	}
	return text
}

// describeReplica says how many collections there are, and how old the oldest is
// that somebody watches.
func describeReplica(s adminapi.Status, now time.Time) string {
	objects, behind, incomplete, oldest := 0, 0, 0, now
	for _, c := range s.Collections {
		objects += c.Objects
		switch {
		case !c.Populated:
			incomplete++
		case c.Phase != "watching" && c.Phase != "parked" || s.Link.State != "up":
			behind++
			if !c.FreshAt.IsZero() && c.FreshAt.Before(oldest) {
				oldest = c.FreshAt
			}
		}
	}
	text := fmt.Sprintf("%s, %s", count(len(s.Collections), "collection"), count(objects, "object"))
	switch {
	case behind > 0 && oldest.Before(now):
		text += fmt.Sprintf("; %d not followed now, as they were up to %s ago", behind, age(oldest, now))
	case behind > 0:
		text += fmt.Sprintf("; %d not followed now", behind)
	case len(s.Collections) > 0:
		text += "; all follow the cloud"
	}
	if incomplete > 0 {
		text += fmt.Sprintf("; %d NOT COMPLETE YET", incomplete)
	}
	return text
}

func stateOf(c adminapi.Collection) string {
	if !c.Populated {
		return c.Phase + ", not complete yet"
	}
	return c.Phase
}

func freshness(c adminapi.Collection, now time.Time) string {
	switch {
	case c.FreshAt.IsZero():
		return "of before the start"
	case now.Sub(c.FreshAt) < time.Second:
		return "live"
	}
	return age(c.FreshAt, now)
}

// age words a time as people do: two units at most.
func age(since, now time.Time) string {
	d := max(0, now.Sub(since))
	switch {
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
