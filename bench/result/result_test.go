package result

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSpecs(t *testing.T) {
	seen := map[Key]bool{}
	rows := map[int]bool{}
	for _, s := range Specs() {
		if seen[s.Key()] {
			t.Errorf("figure %+v is there twice", s.Key())
		}
		seen[s.Key()], rows[s.Row] = true, true
		if Rows()[s.Row] == "" {
			t.Errorf("row %d has no title", s.Row)
		}
	}
	for row := range Rows() {
		if !rows[row] {
			t.Errorf("row %d has no figure", row)
		}
	}
}

// What is measured is explained, and what is explained is measured.
func TestDocumentHasAllRows(t *testing.T) {
	data, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	var got []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "### "); ok {
			got = append(got, strings.TrimSpace(rest))
		}
	}
	var want []string
	for row := 1; row <= len(Rows()); row++ {
		want = append(want, fmt.Sprintf("%d: %s", row, Rows()[row]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("headings of the rows (-want +got):\n%s", diff)
	}
	if !strings.Contains(text, tableBegins) || !strings.Contains(text, tableEnds) {
		t.Error("the document has no place for the table")
	}
}

func sample() *Result {
	r := &Result{Begun: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 600, Conditions: map[string]string{"kernel": "6"}}
	for i := range 6 {
		at := float64(i)
		r.Add(Key{3, "time to bookmark", API}, Direct, 100+at)
		r.Add(Key{3, "time to bookmark", API}, "hub", 60+at)
		r.Add(Key{6, "VmRSS", Node}, "hub", 20+at/10)
	}
	return r
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	if err := sample().Table(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"time to bookmark", "(0.61×)", "≤ 0.50×", "MISSED", "≤ 25", "met"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestWriteRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "result.json")
	want := sample()
	if err := want.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	after := sample()
	for i, v := range after.Figures[0].Samples["hub"] {
		after.Figures[0].Samples["hub"][i] = v / 2
	}
	var out bytes.Buffer
	if err := Compare(&out, sample(), after); err != nil {
		t.Fatal(err)
	}
	var bookmark, memory string
	for line := range strings.Lines(out.String()) {
		switch {
		case strings.Contains(line, "time to bookmark") && strings.Contains(line, "hub"):
			bookmark = line
		case strings.Contains(line, "VmRSS"):
			memory = line
		}
	}
	if !strings.Contains(bookmark, "ratio") || !strings.Contains(bookmark, "-50.00%") {
		t.Errorf("half of it is shown as %q", bookmark)
	}
	if !strings.Contains(memory, "~") {
		t.Errorf("what is the same is shown as %q", memory)
	}
}

func TestInsert(t *testing.T) {
	file := filepath.Join(t.TempDir(), "doc.md")
	if err := os.WriteFile(file, []byte("before\n"+tableBegins+"old\n"+tableEnds+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it can be done again
		if err := sample().Insert(file); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if strings.Contains(text, "old\n") || strings.Count(text, "time to bookmark") != 1 ||
		!strings.HasPrefix(text, "before\n") || !strings.HasSuffix(text, "after\n") {
		t.Errorf("document:\n%s", text)
	}
	if err := os.WriteFile(file, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sample().Insert(file); err == nil {
		t.Error("a document without a place for the table takes one")
	}
}

func TestPercentile(t *testing.T) {
	for _, test := range []struct {
		samples []float64
		p, want float64
	}{{[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1}, 0.5, 2.5}, {[]float64{5}, 0.99, 5}, {[]float64{1, 2, 3}, 1, 3}} {
		if got := Percentile(test.samples, test.p); got != test.want {
			t.Errorf("%v at %v: %v, want %v", test.samples, test.p, got, test.want)
		}
	}
}
