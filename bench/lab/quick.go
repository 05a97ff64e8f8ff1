package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"yurt/bench/result"
)

// tolerance is how much worse than the baseline a ratio may be. It is wide because machines differ: what it finds is a path that
// has begun to copy, to decode, or to wait.
const tolerance = 2

// attempts is how often a ratio is measured that is too bad, before it is believed.
const attempts = 3

// ratio is one figure of the baseline: gateway / direct.
type ratio struct {
	Row   int     `json:"row"`
	Name  string  `json:"name"`
	Ratio float64 `json:"ratio"`
}

// Quick compares ratios against a canned API server with those of a file, and fails if one is much worse. It needs no root.
func Quick(ctx context.Context, cfg Config, baseline string, w io.Writer) error {
	data, err := os.ReadFile(baseline)
	if err != nil {
		return fmt.Errorf("read baseline: %w", err)
	}
	var expected []ratio
	if err := json.Unmarshal(data, &expected); err != nil {
		return fmt.Errorf("read baseline %s: %w", baseline, err)
	}
	for attempt := 1; ; attempt++ {
		measured, err := ratios(ctx, cfg)
		if err != nil {
			return err
		}
		worse := regressions(expected, measured, w)
		if worse == nil || attempt == attempts {
			return worse
		}
		fmt.Fprintln(w, "measuring again:", worse)
	}
}

// WriteBaseline measures, and writes the ratios to a file.
func WriteBaseline(ctx context.Context, cfg Config, file string) error {
	measured, err := ratios(ctx, cfg)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(measured, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// regressions prints all ratios, and returns those that are too bad, or that are no longer measured, as an error.
func regressions(expected, measured []ratio, w io.Writer) error {
	var errs []error
	for _, want := range expected {
		spec := result.Spec{}
		for _, s := range result.Specs() {
			if s.Row == want.Row && s.Name == want.Name && s.Upstream == result.Canned {
				spec = s
			}
		}
		found := false
		for _, got := range measured {
			if got.Row != want.Row || got.Name != want.Name {
				continue
			}
			found = true
			fmt.Fprintf(w, "%-40s %.3g× of direct, baseline %.3g×\n", result.Rows()[got.Row]+", "+got.Name, got.Ratio, want.Ratio)
			if spec.Higher && got.Ratio < want.Ratio/tolerance || !spec.Higher && got.Ratio > want.Ratio*tolerance {
				errs = append(errs, fmt.Errorf("row %d, %s: %.3g× of direct, baseline %.3g×", got.Row, got.Name, got.Ratio, want.Ratio))
			}
		}
		if !found {
			errs = append(errs, fmt.Errorf("row %d, %s: not measured", want.Row, want.Name))
		}
	}
	return errors.Join(errs...)
}

// ratios measures the rows that are quick, against a canned API server.
func ratios(ctx context.Context, cfg Config) (all []ratio, err error) {
	cfg.Rounds = 5
	b, err := begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	s, err := b.newCanned(ctx, "canned", podsInCrowd, sliceCount)
	if err != nil {
		return nil, err
	}
	targets, err := b.openAll(ctx, s)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		b.step(ctx, 2, s.upstream, func(ctx context.Context) error { return b.lists(ctx, s, targets, "protobuf") }),
		b.step(ctx, 3, s.upstream, func(ctx context.Context) error { return b.watchLists(ctx, s, targets) }),
		b.step(ctx, 4, s.upstream, func(ctx context.Context) error {
			return b.streams(ctx, s, targets, cannedSource(s), map[int]int{1: 10000})
		}),
	)
	if err := errors.Join(err, killAll(targets)); err != nil {
		return nil, err
	}
	for _, name := range []result.Key{
		{Row: 2, Name: "protobuf, 1 client", Upstream: result.Canned}, {Row: 2, Name: "protobuf, 8 clients", Upstream: result.Canned},
		{Row: 3, Name: "time to bookmark", Upstream: result.Canned}, {Row: 4, Name: "1 watcher", Upstream: result.Canned},
	} {
		all = append(all, ratio{Row: name.Row, Name: name.Name, Ratio: result.Median(b.result.Find(name).Ratios(HubName))})
	}
	return all, nil
}
