package traffic

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestMeter: rows are kept apart while there is room, and nothing is lost when
// there is none.
func TestMeter(t *testing.T) {
	m := NewMeter("link", "API servers", 3)
	for client := range 10 {
		m.Row(Key{Client: fmt.Sprint(client), Resource: "pods"}).Received.Add(int64(1 + client))
	}
	m.Row(Key{Client: "0", Resource: "pods"}).Sent.Add(7)
	want := []Total{
		{Key: Key{"0", "pods"}, Received: 1, Sent: 7},
		{Key: Key{"1", "pods"}, Received: 2},
		{Key: others, Received: 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10},
	}
	if diff := cmp.Diff(want, m.Totals()); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
}

func TestMetrics(t *testing.T) {
	m := NewMeter("link", "API servers", 3)
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			row := m.Row(Key{Client: "node", Resource: "pods"})
			if _, err := io.ReadAll(Body{io.NopCloser(strings.NewReader("12345")), &row.Received}); err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	const want = `
# HELP link_received_bytes_total Bytes of bodies received from API servers, unpacked.
# TYPE link_received_bytes_total counter
link_received_bytes_total{client="node",resource="pods"} 20
# HELP link_sent_bytes_total Bytes of bodies sent to API servers, unpacked.
# TYPE link_sent_bytes_total counter
link_sent_bytes_total{client="node",resource="pods"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
