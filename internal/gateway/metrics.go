package gateway

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what the gateway counts.
type Metrics struct {
	requests *prometheus.CounterVec
	inFlight prometheus.Gauge
	duration *prometheus.HistogramVec
}

// NewMetrics registers the gateway's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "yurthub_requests_total",
			Help: "Requests of clients on the node, by the path that they took.",
		}, []string{"route"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "yurthub_requests_in_flight",
			Help: "Requests being served, watches included.",
		}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "yurthub_request_duration_seconds",
			Help:    "Time to answer requests that have an end of their own.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10},
		}, []string{"route"}),
	}
	reg.MustRegister(m.requests, m.inFlight, m.duration)
	return m
}

// began counts a request; what it returns is called when it has been answered.
func (m *Metrics) began(r route) (done func()) {
	start := time.Now()
	m.requests.WithLabelValues(r.String()).Inc()
	m.inFlight.Inc()
	return func() {
		m.inFlight.Dec()
		if r != watchReplica && r != pass {
			m.duration.WithLabelValues(r.String()).Observe(time.Since(start).Seconds())
		}
	}
}
