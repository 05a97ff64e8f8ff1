package gateway

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"yurt/internal/traffic"
)

// Metrics are what the gateway counts.
type Metrics struct {
	requests *prometheus.CounterVec
	inFlight prometheus.Gauge
	duration *prometheus.HistogramVec
	traffic  *traffic.Meter
}

// maxRows bounds the rows of traffic: a node's clients times what each reads.
const maxRows = 200

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
	m.traffic = traffic.NewMeter("yurthub_clients", "clients on the node", maxRows)
	reg.MustRegister(m.requests, m.inFlight, m.duration, m.traffic)
	return m
}

// Traffic is what clients have sent and got so far.
func (m *Metrics) Traffic() []traffic.Total { return m.traffic.Totals() }

// count makes the exchange's bodies count as its client's.
func (m *Metrics) count(x *exchange) {
	row := m.traffic.Row(traffic.Key{Client: x.caller.Identity.String(), Resource: x.q.Resource.GroupResource()})
	x.w = countedWriter{x.w, row}
	if x.r.Body != nil && x.r.Body != http.NoBody {
		r := *x.r
		r.Body = traffic.Body{ReadCloser: x.r.Body, Count: &row.Received}
		x.r = &r
	}
}

// countedWriter counts what a client gets; not what an upgraded connection
// carries.
type countedWriter struct {
	http.ResponseWriter
	row *traffic.Row
}

func (w countedWriter) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.row.Sent.Add(int64(n))
	return n, err
}

// Unwrap is for http.ResponseController.
func (w countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

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
