package endpointretention

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	changes *prometheus.CounterVec
	policy  *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "yurt_endpointretention_pod_changes_total",
			Help: "Pods that were marked for retention, unmarked, or withdrawn from their Services.",
		}, []string{"action"}),
		policy: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "yurt_endpointretention_policy_state",
			Help: "1 for the state that the policy is in as far as this replica knows, which is unknown unless it is the leader.",
		}, []string{"state"}),
	}
	for a := mark; a <= withdraw; a++ {
		m.changes.WithLabelValues(a.String())
	}
	m.show(unknown)
	reg.MustRegister(m.changes, m.policy)
	return m
}

func (m *metrics) show(is state) {
	for s := unknown; s <= ineffective; s++ {
		value := 0.0
		if s == is {
			value = 1
		}
		m.policy.WithLabelValues(s.String()).Set(value)
	}
}
