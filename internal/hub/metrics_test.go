package hub

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

var description = regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*)", unit: ".*", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)

// TestMetricsAreDocumented: docs/metrics.md has the table of all that is exported, and nothing else.
func TestMetricsAreDocumented(t *testing.T) {
	h, stop := newSite(t).run()
	defer stop()
	described := make(chan *prometheus.Desc)
	go func() {
		h.registry.Describe(described)
		close(described)
	}()
	type metric struct{ name, labels, help string }
	var metrics []metric
	for d := range described {
		parts := description.FindStringSubmatch(d.String())
		if parts == nil {
			t.Fatalf("a description that reads otherwise: %s", d)
		}
		if name := parts[1]; !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			metrics = append(metrics, metric{name, strings.ReplaceAll(parts[3], ",", ", "), parts[2]})
		}
	}
	slices.SortFunc(metrics, func(a, b metric) int { return cmp.Compare(a.name, b.name) })
	var table strings.Builder
	table.WriteString("\n\n| metric | labels | |\n|---|---|---|\n")
	for _, m := range slices.Compact(metrics) {
		if !strings.HasPrefix(m.name, "yurthub_") || m.help == "" {
			t.Errorf("%s: has another prefix than yurthub_, or no help", m.name)
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m.name, m.labels, m.help)
	}
	table.WriteString("\n")

	path := filepath.Join("..", "..", "docs", "metrics.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- metrics: go test ./internal/hub -run TestMetricsAreDocumented -update -->", "<!-- end of metrics -->"
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(page) {
		t.Errorf("%s is not up to date: go test ./internal/hub -run TestMetricsAreDocumented -update", path)
	}
	for _, name := range regexp.MustCompile("yurthub_[a-z_]+").FindAllString(tail, -1) {
		if !slices.ContainsFunc(metrics, func(m metric) bool { return m.name == name }) {
			t.Errorf("%s speaks of %s, which there is not", path, name)
		}
	}
	problems, err := testutil.GatherAndLint(h.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "yurthub_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}
