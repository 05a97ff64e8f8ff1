package lab

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"yurt/bench/canned"
	"yurt/bench/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseGateway(t *testing.T) {
	for text, want := range map[string]Gateway{
		"other=http://127.0.0.1:10261,pid=12":                  {Name: "other", URL: "http://127.0.0.1:10261", PID: 12},
		"other=https://127.0.0.1:1/,start='run --a=b,c --d=1'": {Name: "other", URL: "https://127.0.0.1:1", Start: "run --a=b,c --d=1"},
		"other=https://127.0.0.1:1,pid=3,start=run":            {Name: "other", URL: "https://127.0.0.1:1", PID: 3, Start: "run"},
	} {
		got, err := ParseGateway(text)
		if err != nil || got != want {
			t.Errorf("%s: %v\n%s", text, err, cmp.Diff(want, got))
		}
	}
	for _, text := range []string{"", "other", "hub=http://127.0.0.1:1,pid=1", "other=http://127.0.0.1:1", "other=127.0.0.1,pid=1", "a=http://b,pid=x"} {
		if g, err := ParseGateway(text); err == nil {
			t.Errorf("%q is taken for %+v", text, g)
		}
	}
}

func TestRegressions(t *testing.T) {
	baseline := []ratio{{Row: 3, Name: "time to bookmark", Ratio: 0.5}, {Row: 4, Name: "1 watcher", Ratio: 0.4}}
	for _, test := range []struct {
		sync, stream float64
		found        string
	}{
		{0.5, 0.4, ""}, {0.1, 3, ""}, {0.99, 0.21, ""}, {1.01, 0.4, "row 3"}, {0.5, 0.19, "row 4"},
	} {
		measured := []ratio{{Row: 3, Name: "time to bookmark", Ratio: test.sync}, {Row: 4, Name: "1 watcher", Ratio: test.stream}}
		var out bytes.Buffer
		err := regressions(baseline, measured, &out)
		if (err == nil) != (test.found == "") || err != nil && !strings.Contains(err.Error(), test.found) {
			t.Errorf("%v: %v, want %q", measured, err, test.found)
		}
	}
	if err := regressions(baseline, nil, new(bytes.Buffer)); err == nil {
		t.Error("figures that are not measured are no regression")
	}
}

// The direct way alone, against the canned API server: what the rows do is right if they find what it has.
func TestRowsAgainstCanned(t *testing.T) {
	b, err := begin(t.Context(), Config{
		Hub: "none", Self: "none", Rounds: 1, Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	s := serveCanned(t, b)
	targets := []*target{s.direct()}
	if err := b.streams(t.Context(), s, targets, cannedSource(s), map[int]int{1: 50, 10: 20}); err != nil {
		t.Error(err)
	}
	stream, err := follow(t.Context(), newClient(t, s), "events")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if err := cannedSource(s)(t.Context(), "events", 3, 1000); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1000000001", "1000000002", "1000000003"} {
		typ, object, err := stream.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := load.Mark(object, canned.Mark, canned.Digits); typ != "MODIFIED" || got != want {
			t.Errorf("event %s %q, want MODIFIED %q", typ, got, want)
		}
	}
	if got := len(b.result.Figures); got != 4 {
		t.Errorf("%d figures, want throughput and CPU of 1 and of 10 watchers", got)
	}
}

func newClient(t *testing.T, s *site) *load.Client {
	client := load.New(s.server(s.url))
	t.Cleanup(client.Close)
	return client
}

func TestCannedListAndWatchList(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	s := serveCanned(t, b)
	client := newClient(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.Get(ctx, fromReplica(ofNode("a")), load.Protobuf); err != nil {
		t.Fatal(err)
	}
	items, err := client.Items()
	if err != nil || items != 7 {
		t.Errorf("%d pods, want 7: %v", items, err)
	}
	version, err := client.Version()
	if err != nil || version != "1000000000" {
		t.Errorf("version %q, want 1000000000: %v", version, err)
	}
	stream, err := client.Watch(ctx, slicesPath, load.WatchList(""))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if n, err := stream.Sync(); err != nil || n != 5 {
		t.Errorf("%d EndpointSlices, want 5: %v", n, err)
	}
	if _, err := client.Get(ctx, "/api/v1/none", load.Protobuf); err == nil {
		t.Error("what is not there is answered")
	}
}
