package fleet

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const (
	metricsURL = "http://127.0.0.1:10271/metrics"

	window = 5 * time.Second // over which a rate is taken
)

// usage is what the controller has taken in a phase.
type usage struct {
	phase    string
	requests float64 // to the API server
	peak     float64 // of them in a second, as the mean of a window
	resident float64 // MB, at most
	cpu      float64 // seconds
}

// A meter tells what the controller takes, phase by phase. Its readings are the process's own.
type meter struct {
	http   *http.Client
	phases []usage
}

type reading struct {
	at                      time.Time
	requests, resident, cpu float64
}

// during runs a phase, and takes note of what the controller uses meanwhile.
func (m *meter) during(t *testing.T, phase string, run func()) {
	t.Helper()
	if m == nil {
		run()
		return
	}
	ctx, stop := context.WithCancel(t.Context())
	used, ended := usage{phase: phase}, make(chan error, 1)
	go func() { ended <- m.follow(ctx, &used) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("measure the controller: %v", err)
		}
		m.phases = append(m.phases, used)
	}()
	run()
}

// follow adds to a usage what happens until ctx ends.
func (m *meter) follow(ctx context.Context, used *usage) error {
	first, err := m.read()
	for last := first; err == nil && ctx.Err() == nil; {
		pause(ctx, window)
		var now reading
		if now, err = m.read(); err != nil {
			break
		}
		if length := now.at.Sub(last.at); length > window/2 {
			used.peak = max(used.peak, (now.requests-last.requests)/length.Seconds())
		}
		used.resident = max(used.resident, now.resident)
		used.requests, used.cpu = now.requests-first.requests, now.cpu-first.cpu
		last = now
	}
	return err
}

func (m *meter) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-24s%10s%14s%14s%10s\n", "the controller", "requests", "a second, max", "resident, MB", "CPU, s")
	for _, p := range m.phases {
		fmt.Fprintf(&b, "%-24s%10.0f%14.0f%14.0f%10.0f\n", p.phase, p.requests, p.peak, p.resident, p.cpu)
	}
	return b.String()
}

func (m *meter) read() (reading, error) {
	families, err := m.metrics()
	total := func(name string) (sum float64) {
		for _, metric := range families[name].GetMetric() {
			sum += value(metric)
		}
		return sum
	}
	return reading{
		at: time.Now(), requests: total("rest_client_requests_total"),
		resident: total("process_resident_memory_bytes") / 1e6, cpu: total("process_cpu_seconds_total"),
	}, err
}

// metrics returns what the controller publishes, by name.
func (m *meter) metrics() (map[string]*dto.MetricFamily, error) {
	resp, err := m.http.Get(metricsURL)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(resp.Body)
}

func value(m *dto.Metric) float64 {
	if m.GetCounter() != nil {
		return m.GetCounter().GetValue()
	}
	return m.GetGauge().GetValue()
}
