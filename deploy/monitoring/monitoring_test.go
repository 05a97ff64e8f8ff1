// Package monitoring holds the alert rules and the dashboard against what the programs show: rules fire when they should and
// are silent otherwise, every metric that is named exists, and every alert has a section in docs/operations.md. It is a module
// of its own, for Prometheus brings more dependencies than all the rest.
package monitoring

import (
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
)

// alerts reads the rules, as Prometheus does.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile("alerts.yaml", false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var all []rulefmt.Rule
	for _, group := range groups.Groups {
		all = append(all, group.Rules...)
	}
	return all
}

// TestAlerts loads series with a value a minute, and looks at which alerts fire after some minutes.
func TestAlerts(t *testing.T) {
	for _, tc := range []struct {
		name, series string
		minutes      int
		want         []string
	}{
		{"all is well", `
			yurthub_node_locked_out{job="yurthub",instance="edge"} 0x200
			yurthub_store_failing{job="yurthub",instance="edge"} 0x200
			yurthub_store_unopened_records{job="yurthub",instance="edge"} 0x200
			yurthub_link_up{job="yurthub",instance="edge"} 1x200
			yurthub_replica_age_seconds{job="yurthub",instance="edge",client="kubelet",resource="pods"} 0x200
			yurthub_journal_dropped_events_total{job="yurthub",instance="edge"} 7x200
			yurthub_certificate_expiry_seconds{job="yurthub",instance="edge"} 8640000x200
			yurthub_requests_refused_total{job="yurthub",instance="edge",reason="too-fast"} 5x200
			yurt_endpointretention_policy_state{state="effective"} 1x200
			yurt_endpointretention_policy_state{state="unsupported"} 0x200`, 190, nil},
		{"a node without a certificate", `yurthub_certificate_expiry_seconds{instance="edge"} 0x200`, 190, nil},
		{"locked out", `yurthub_node_locked_out{instance="edge"} 1x200`, 6, []string{"YurtHubLockedOut"}},
		{"locked out for a moment", `yurthub_node_locked_out{instance="edge"} 1x3 0x200`, 6, nil},
		{"the disk fails", `yurthub_store_failing{instance="edge"} 1x200`, 2, []string{"YurtHubStoreFailing"}},
		{"a key is missing", `yurthub_store_unopened_records{instance="edge"} 12x200`, 6, []string{"YurtHubRecordsUnopened"}},
		{"the link is down", `yurthub_link_up{instance="edge"} 0x200`, 61, []string{"YurtHubLinkDown"}},
		{"the link is down for half an hour", `yurthub_link_up{instance="edge"} 0x30 1x200`, 61, nil},
		{"a replica is behind", `
			yurthub_link_up{job="yurthub",instance="edge"} 1x200
			yurthub_replica_age_seconds{job="yurthub",instance="edge",client="kubelet",resource="pods"} 0+60x200`, 25, []string{"YurtHubReplicaStale"}},
		{"a replica is behind in the dark", `
			yurthub_link_up{job="yurthub",instance="edge"} 0x200
			yurthub_replica_age_seconds{job="yurthub",instance="edge",client="kubelet",resource="pods"} 0+60x200`, 25, nil},
		{"events are lost", `yurthub_journal_dropped_events_total{instance="edge"} 0x10 4x200`, 15, []string{"YurtHubEventsDropped"}},
		{"the certificate ends", `yurthub_certificate_expiry_seconds{instance="edge"} 500000x200`, 61, []string{"YurtHubCertificateEnds"}},
		{"clients are refused", `yurthub_requests_refused_total{instance="edge",reason="too-fast"} 0+60x200`, 25, []string{"YurtHubRefusesRequests"}},
		{"an older Kubernetes", `yurt_endpointretention_policy_state{state="unsupported"} 1x200`, 11, []string{"YurtRetentionOff"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := firing(t, tc.series, tc.minutes); !slices.Equal(got, tc.want) {
				t.Errorf("fires: %q, want %q", got, tc.want)
			}
		})
	}
}

// firing returns the alerts that fire at a minute, having been evaluated at each minute before.
func firing(t *testing.T, series string, minutes int) []string {
	storage := promqltest.LoadedStorage(t, "load 1m\n"+strings.TrimSpace(series))
	t.Cleanup(func() { _ = storage.Close() })
	query := rules.EngineQueryFunc(promqltest.NewTestEngine(t, false, 0, 1e6), storage)
	var names []string
	for _, a := range alerts(t) {
		rule := rules.NewAlertingRule(a.Alert, parse(t, a.Expr), time.Duration(a.For), 0,
			labels.FromMap(a.Labels), labels.FromMap(a.Annotations), labels.EmptyLabels(), "", true, slog.New(slog.DiscardHandler))
		for minute := range minutes + 1 {
			if _, err := rule.Eval(t.Context(), 0, time.Unix(0, 0).Add(time.Duration(minute)*time.Minute), query, nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		if slices.ContainsFunc(rule.ActiveAlerts(), func(active *rules.Alert) bool { return active.State == rules.StateFiring }) {
			names = append(names, a.Alert)
		}
	}
	return names
}

func parse(t *testing.T, expr string) parser.Expr {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return parsed
}

// TestNamesExist: rules and dashboard name metrics that docs/metrics.md and docs/controllers.md list; those pages are tested.
func TestNamesExist(t *testing.T) {
	known := map[string]bool{"process_resident_memory_bytes": true}
	for _, page := range []string{"metrics.md", "controllers.md"} {
		for _, name := range regexp.MustCompile("(?m)^\\| `(yurt(?:hub)?_[a-z_]+)").FindAllStringSubmatch(read(t, "../../docs/"+page), -1) {
			known[name[1]] = true
		}
	}
	var exprs []string
	for _, a := range alerts(t) {
		exprs = append(exprs, a.Expr)
	}
	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, panel := range dashboard.Panels {
		if ids[panel.ID] || panel.Title == "" || len(panel.Targets) == 0 {
			t.Errorf("panel %d %q: has no title, no target, or another one's number", panel.ID, panel.Title)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			exprs = append(exprs, strings.NewReplacer("$__rate_interval", "5m", "$node", ".*").Replace(target.Expr))
		}
	}
	used := map[string]bool{}
	for _, expr := range exprs {
		parser.Inspect(parse(t, expr), func(node parser.Node, _ []parser.Node) error {
			if selector, ok := node.(*parser.VectorSelector); ok {
				used[strings.TrimSuffix(selector.Name, "_bucket")] = true
			}
			return nil
		})
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		if !known[name] {
			t.Errorf("%q: there is no such metric", name)
		}
	}
	if len(used) < 15 {
		t.Errorf("only %d metrics are used: %v", len(used), used)
	}
}

// TestRunbooks: every alert has a severity, a summary, and a section that says what to do; and every such section an alert.
func TestRunbooks(t *testing.T) {
	page := read(t, "../../docs/operations.md")
	_, section, ok := strings.Cut(page, "\n## Alerts\n")
	if !ok {
		t.Fatal("docs/operations.md has no section Alerts")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for _, part := range strings.Split(section, "\n### ")[1:] {
		title, text, _ := strings.Cut(part, "\n")
		told = append(told, title)
		if !strings.Contains(text, "Do:") {
			t.Errorf("%s: its section does not say what to do", title)
		}
	}
	var have []string
	for _, a := range alerts(t) {
		have = append(have, a.Alert)
		if s := a.Labels["severity"]; s != "critical" && s != "warning" || a.Annotations["summary"] == "" {
			t.Errorf("%s: has no severity or no summary", a.Alert)
		}
	}
	if !slices.Equal(told, have) {
		t.Errorf("docs/operations.md tells of %q, alerts.yaml has %q", told, have)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
