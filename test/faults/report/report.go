// Package report is the table that a run ends with: what was injected, what was checked, what was violated.
//
// It guarantees nothing but that its figures are those that were counted. It never decides.
package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// Table counts, by scenario. It may be used by several at a time.
type Table struct {
	mu   sync.Mutex
	rows map[string]*Row
}

// Row is one line of it.
type Row struct {
	Faults, Lives, Checked, Violations int
	Took                               time.Duration
	Kinds                              map[string]int // of the faults
}

// New returns an empty table.
func New() *Table { return &Table{rows: map[string]*Row{}} }

// Add adds to the row of a scenario.
func (t *Table) Add(scenario string, add Row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[scenario]
	if r == nil {
		r = &Row{Kinds: map[string]int{}}
		t.rows[scenario] = r
	}
	r.add(add)
}

func (r *Row) add(add Row) {
	r.Faults += add.Faults
	r.Lives += add.Lives
	r.Checked += add.Checked
	r.Violations += add.Violations
	r.Took += add.Took
	for kind, n := range add.Kinds {
		r.Kinds[kind] += n
	}
}

// Total is the sum of all rows.
func (t *Table) Total() Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	total := Row{Kinds: map[string]int{}}
	for _, r := range t.rows {
		total.add(*r)
	}
	return total
}

// Write writes the table.
func (t *Table) Write(w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "faults\tlives\tchecked\tviolations\tseconds\t scenario\t")
	for _, name := range slices.Sorted(maps.Keys(t.rows)) {
		r := t.rows[name]
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
			kinds = append(kinds, fmt.Sprintf("%s %d", kind, r.Kinds[kind]))
		}
		fmt.Fprintf(tw, "%d\t%d\t%d\t%d\t%.0f\t %s: %s\t\n", r.Faults, r.Lives, r.Checked, r.Violations, r.Took.Seconds(), name, strings.Join(kinds, ", "))
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
