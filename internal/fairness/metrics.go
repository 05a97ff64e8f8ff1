package fairness

import (
	"cmp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// maxRows bounds the clients that metrics name: those with most in flight.
const maxRows = 50

var _ prometheus.Collector = (*Gate)(nil)

func refusedDesc() *prometheus.Desc {
	return prometheus.NewDesc("yurthub_requests_refused_total", "Requests answered 429, by the limit that they were beyond.", []string{"reason"}, nil)
}

func inFlightDesc() *prometheus.Desc {
	return prometheus.NewDesc("yurthub_client_requests_in_flight", "Requests of a client being answered: streams (watch, exec, logs), seats (all others; a large body takes several), and those that wait.", []string{"client", "kind"}, nil)
}

// Describe implements prometheus.Collector.
func (g *Gate) Describe(c chan<- *prometheus.Desc) {
	c <- refusedDesc()
	c <- inFlightDesc()
}

// Collect implements prometheus.Collector.
func (g *Gate) Collect(c chan<- prometheus.Metric) {
	rows, refused := g.figures()
	for _, reason := range []Reason{TooFast, TooManyStreams, QueueFull, NoSeat} {
		c <- prometheus.MustNewConstMetric(refusedDesc(), prometheus.CounterValue, float64(refused[reason]), string(reason))
	}
	inFlight := inFlightDesc()
	for _, row := range rows {
		for _, of := range []struct {
			kind string
			n    int
		}{{"seats", row.seats}, {"streams", row.streams}, {"waiting", row.waiting}} {
			c <- prometheus.MustNewConstMetric(inFlight, prometheus.GaugeValue, float64(of.n), row.label(), of.kind)
		}
	}
}

// label is the client as metrics name it. No user is taken for the node.
func (c *client) label() string {
	switch {
	case c.Node:
		return "node"
	case c.Name == "node":
		return `user "node"`
	}
	return strings.ToValidUTF8(c.Name, "?")
}

// figures copies what the metrics say.
func (g *Gate) figures() ([]client, map[Reason]uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	refused := map[Reason]uint64{}
	for reason, n := range g.refused {
		refused[reason] = n
	}
	var rows []client
	for _, c := range g.clients {
		if !c.idle() {
			rows = append(rows, *c)
		}
	}
	slices.SortFunc(rows, func(a, b client) int {
		return cmp.Or(cmp.Compare(b.seats+b.streams+b.waiting, a.seats+a.streams+a.waiting), cmp.Compare(a.Name, b.Name))
	})
	return rows[:min(len(rows), maxRows)], refused
}
