package result

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// Compare prints the figures of two runs side by side, by benchstat's statistics: medians, their 95 % confidence intervals, and the
// change with the p-value of the Mann-Whitney test, "~" where there is none to be seen. Ratios are compared where there are some,
// because two runs on one machine differ more than two gateways in one run.
func Compare(w io.Writer, before, after *Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "#\tfigure\tagainst\tgateway\tof\tbefore\tafter\tchange\t")
	for _, spec := range Specs() {
		a, b := before.Find(spec.Key()), after.Find(spec.Key())
		if a == nil || b == nil {
			continue
		}
		for _, gateway := range after.Gateways() {
			old, of := a.comparable(gateway)
			now, _ := b.comparable(gateway)
			if len(old) == 0 || len(now) == 0 {
				continue
			}
			was, is, change := contrast(old, now)
			fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", spec.Row, spec.Name, spec.Upstream, gateway, of, was, is, change)
		}
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print comparison: %w", err)
	}
	return nil
}

// comparable returns what of a gateway is compared across runs: its ratios, or its values where there is nothing to divide by.
func (f *Figure) comparable(gateway string) (samples []float64, of string) {
	if ratios := f.Ratios(gateway); len(ratios) > 0 {
		return ratios, "ratio"
	}
	return slices.Clone(f.Samples[gateway]), f.Unit
}

func contrast(old, now []float64) (was, is, change string) {
	thresholds := benchmath.DefaultThresholds
	a, b := benchmath.NewSample(old, &thresholds), benchmath.NewSample(now, &thresholds)
	const confidence = 0.95
	sa, sb := benchmath.AssumeNothing.Summary(a, confidence), benchmath.AssumeNothing.Summary(b, confidence)
	c := benchmath.AssumeNothing.Compare(a, b)
	show := func(s benchmath.Summary) string { return number(s.Center) + " ± " + s.PctRangeString() }
	return show(sa), show(sb), fmt.Sprintf("%s (%s)", c.FormatDelta(sa.Center, sb.Center), c)
}
