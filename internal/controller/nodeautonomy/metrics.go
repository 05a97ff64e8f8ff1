package nodeautonomy

import (
	"github.com/prometheus/client_golang/prometheus"

	"yurt/internal/controller/autonomy"
)

type metrics struct {
	changes *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{changes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "yurt_nodeautonomy_pod_changes_total",
		Help: "Pods whose tolerations were changed, by the phase of protection that they came into.",
	}, []string{"phase"})}
	for phase := autonomy.Unprotected; phase <= autonomy.Lapsed; phase++ {
		m.changes.WithLabelValues(phase.String())
	}
	reg.MustRegister(m.changes)
	return m
}
