package result

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"time"
)

// Result is one run.
type Result struct {
	Begun      time.Time         `json:"begun"`
	Seconds    float64           `json:"seconds"`
	Conditions map[string]string `json:"conditions"` // machine, versions, load beside the run
	Figures    []*Figure         `json:"figures"`
	Notes      []string          `json:"notes,omitempty"` // what could not be measured, and why
}

// Figure is the samples of one figure by gateway, in the order in which they were taken: the nth of two gateways were taken side by
// side.
type Figure struct {
	Row      int                  `json:"row"`
	Name     string               `json:"name"`
	Upstream string               `json:"upstream,omitempty"`
	Unit     string               `json:"unit"`
	Samples  map[string][]float64 `json:"samples"`
}

// Add records a sample. A figure that is not in Specs is a mistake of the program.
func (r *Result) Add(key Key, gateway string, sample float64) {
	f := r.Find(key)
	if f == nil {
		spec := specOf(key)
		f = &Figure{Row: key.Row, Name: key.Name, Upstream: key.Upstream, Unit: spec.Unit, Samples: map[string][]float64{}}
		r.Figures = append(r.Figures, f)
	}
	f.Samples[gateway] = append(f.Samples[gateway], sample)
}

// Note records something that a reader of the figures must know.
func (r *Result) Note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// Find returns a figure, nil if it was not measured.
func (r *Result) Find(key Key) *Figure {
	for _, f := range r.Figures {
		if f.key() == key {
			return f
		}
	}
	return nil
}

// Gateways returns the names of all gateways, direct first.
func (r *Result) Gateways() []string {
	var names []string
	for _, f := range r.Figures {
		for name := range f.Samples {
			if name != Direct && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return append([]string{Direct}, names...)
}

func (f *Figure) key() Key { return Key{f.Row, f.Name, f.Upstream} }

// Value returns the median of a gateway's samples, false if there are none.
func (f *Figure) Value(gateway string) (float64, bool) {
	samples := f.Samples[gateway]
	return Median(samples), len(samples) > 0
}

// Ratios returns gateway / direct for each pair of samples that were taken side by side, nil if there is no such pair.
func (f *Figure) Ratios(gateway string) []float64 {
	var ratios []float64
	direct := f.Samples[Direct]
	for i, sample := range f.Samples[gateway] {
		if gateway != Direct && i < len(direct) && direct[i] != 0 {
			ratios = append(ratios, sample/direct[i])
		}
	}
	return ratios
}

// Missed says which of its limits a gateway's figure does not keep.
func (f *Figure) Missed(gateway string) []string {
	spec := specOf(f.key())
	worse := func(value, limit float64) bool {
		if spec.Higher {
			return value < limit
		}
		return value > limit
	}
	var missed []string
	if ratios := f.Ratios(gateway); spec.Ratio != 0 && len(ratios) > 0 && worse(Median(ratios), spec.Ratio) {
		missed = append(missed, "ratio")
	}
	if value, ok := f.Value(gateway); spec.Value != 0 && ok && worse(value, spec.Value) {
		missed = append(missed, "value")
	}
	return missed
}

func specOf(key Key) Spec {
	for _, s := range Specs() {
		if s.Key() == key {
			return s
		}
	}
	panic(fmt.Sprintf("result: no figure %+v", key))
}

// Median returns the median, NaN of nothing.
func Median(samples []float64) float64 { return Percentile(samples, 0.5) }

// Percentile returns the sample below which the share p of all samples lies, NaN of nothing.
func Percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := p * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// Read reads a result's file.
func Read(file string) (*Result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read result %s: %w", file, err)
	}
	for _, f := range r.Figures {
		if !slices.ContainsFunc(Specs(), func(s Spec) bool { return s.Key() == f.key() }) {
			return nil, fmt.Errorf("read result %s: row %d has no figure %q against %q; it is another version's", file, f.Row, f.Name, f.Upstream)
		}
	}
	return &r, nil
}

// Write writes the result to a file.
func (r *Result) Write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}
