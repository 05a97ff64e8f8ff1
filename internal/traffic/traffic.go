// Package traffic counts the bytes of bodies by client and resource, on one side
// of the hub: what clients on the node get, or what the link carries for them.
//
// It guarantees that it never keeps more rows than it was made for: what comes
// later is counted together. It knows sizes only, never what is in a body.
package traffic

import (
	"cmp"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Key is what is told apart.
type Key struct {
	Client   string // who asks
	Resource string // like pods or deployments.apps; empty: no object
}

// others is the row of all that came when there were too many.
var others = Key{Client: "others", Resource: "others"}

// Row is the count of one key.
type Row struct {
	Received atomic.Int64 // by the hub
	Sent     atomic.Int64
}

// Total is a Row at one moment.
type Total struct {
	Key
	Received, Sent int64
}

// Meter is a table of rows.
type Meter struct {
	received, sent *prometheus.Desc
	most           int

	mu   sync.Mutex
	rows map[Key]*Row
}

// NewMeter returns an empty table for so many keys. Its metrics are
// NAME_received_bytes_total and NAME_sent_bytes_total.
func NewMeter(name, what string, most int) *Meter {
	labels := []string{"client", "resource"}
	return &Meter{
		received: prometheus.NewDesc(name+"_received_bytes_total", "Bytes of bodies received from "+what+", unpacked.", labels, nil),
		sent:     prometheus.NewDesc(name+"_sent_bytes_total", "Bytes of bodies sent to "+what+", unpacked.", labels, nil),
		most:     most, rows: map[Key]*Row{},
	}
}

// Row returns the row of a key.
func (m *Meter) Row(k Key) *Row {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.rows[k]
	if row == nil && len(m.rows) >= m.most-1 && k != others {
		k = others
		row = m.rows[k]
	}
	if row == nil {
		row = &Row{}
		m.rows[k] = row
	}
	return row
}

// Totals returns all rows, in the order of their keys.
func (m *Meter) Totals() []Total {
	m.mu.Lock()
	defer m.mu.Unlock()
	totals := make([]Total, 0, len(m.rows))
	for k, row := range m.rows {
		totals = append(totals, Total{Key: k, Received: row.Received.Load(), Sent: row.Sent.Load()})
	}
	slices.SortFunc(totals, func(a, b Total) int {
		return cmp.Or(strings.Compare(a.Client, b.Client), strings.Compare(a.Resource, b.Resource))
	})
	return totals
}

// Describe and Collect make a Meter a prometheus.Collector.
func (m *Meter) Describe(c chan<- *prometheus.Desc) {
	c <- m.received
	c <- m.sent
}

// Collect is Describe's.
func (m *Meter) Collect(c chan<- prometheus.Metric) {
	for _, t := range m.Totals() {
		c <- prometheus.MustNewConstMetric(m.received, prometheus.CounterValue, float64(t.Received), t.Client, t.Resource)
		c <- prometheus.MustNewConstMetric(m.sent, prometheus.CounterValue, float64(t.Sent), t.Client, t.Resource)
	}
}

// Body is a body whose bytes are counted as they are read.
type Body struct {
	io.ReadCloser
	Count *atomic.Int64
}

func (b Body) Read(buf []byte) (int, error) {
	n, err := b.ReadCloser.Read(buf)
	b.Count.Add(int64(n))
	return n, err
}
