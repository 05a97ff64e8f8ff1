package result

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// line is one figure as it is shown.
type line struct {
	row, name, upstream, unit string
	cells                     []string // of each gateway: value, and ratio where there is one
	target, verdict           string
}

func (r *Result) lines() []line {
	gateways := r.Gateways()
	var lines []line
	for _, spec := range Specs() {
		f := r.Find(spec.Key())
		if f == nil {
			continue
		}
		l := line{row: strconv.Itoa(f.Row), name: f.Name, upstream: f.Upstream, unit: f.Unit, target: spec.target()}
		for _, g := range gateways {
			l.cells = append(l.cells, f.cell(g))
		}
		for _, g := range gateways[1:] {
			if g == "hub" && l.target != "" {
				l.verdict = "met"
				if missed := f.Missed(g); len(missed) > 0 {
					l.verdict = "MISSED"
				}
			}
		}
		lines = append(lines, l)
	}
	return lines
}

func (f *Figure) cell(gateway string) string {
	value, ok := f.Value(gateway)
	if !ok {
		return "–"
	}
	cell := number(value)
	if ratios := f.Ratios(gateway); len(ratios) > 0 {
		cell += fmt.Sprintf(" (%s×)", number(Median(ratios)))
	}
	return cell
}

func (s Spec) target() string {
	sign := "≤ "
	if s.Higher {
		sign = "≥ "
	}
	var parts []string
	if s.Ratio != 0 {
		parts = append(parts, sign+number(s.Ratio)+"×")
	}
	if s.Value != 0 {
		parts = append(parts, sign+number(s.Value))
	}
	return strings.Join(parts, ", ")
}

// number shows three digits that count.
func number(v float64) string {
	switch abs := math.Abs(v); {
	case abs >= 100 || abs == math.Trunc(abs):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

// Table prints the figures for a terminal.
func (r *Result) Table(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "#\tfigure\tagainst\tunit\t%s\ttarget\t\n", strings.Join(r.Gateways(), "\t"))
	for _, l := range r.lines() {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.row, l.name, l.upstream, l.unit, strings.Join(l.cells, "\t"), l.target, l.verdict)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("print table: %w", err)
	}
	for _, note := range r.Notes {
		fmt.Fprintln(w, "note:", note)
	}
	return nil
}

// Markdown prints conditions and figures as docs/performance.md has them.
func (r *Result) Markdown(w io.Writer) {
	var conditions []string
	for key, value := range r.Conditions {
		conditions = append(conditions, key+": "+value)
	}
	slices.Sort(conditions)
	fmt.Fprintf(w, "Measured on %s, in %.0f minutes. %s.\n\n", r.Begun.Format("2 January 2006"), r.Seconds/60, strings.Join(conditions, "; "))
	gateways := r.Gateways()
	fmt.Fprintf(w, "| # | figure | against | unit | %s | target | |\n", strings.Join(gateways, " | "))
	fmt.Fprintf(w, "|---|---|---|---|%s---|---|\n", strings.Repeat("---|", len(gateways)))
	for _, l := range r.lines() {
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n",
			l.row, l.name, l.upstream, l.unit, strings.Join(l.cells, " | "), l.target, strings.ReplaceAll(l.verdict, "MISSED", "**missed**"))
	}
	for i, note := range r.Notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, "- "+note)
	}
}
