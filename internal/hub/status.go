package hub

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"yurt/internal/admin"
	"yurt/internal/adminapi"
	"yurt/internal/credential"
	"yurt/internal/replica"
	"yurt/internal/store"
	"yurt/internal/traffic"
	"yurt/internal/upstream"
)

// Status is the hub as it stands at this moment.
func (h *Hub) Status() adminapi.Status {
	link, st, journal := h.pool.Link(), h.store.Stats(), h.journal.Stats()
	status := adminapi.Status{
		Version: h.cfg.Version, Node: h.node, StartedAt: h.startedAt,
		Link: adminapi.Link{
			State: link.State.String(), Since: link.Since, Reason: link.Reason,
			BytesRead: h.pool.BytesRead(), BytesWritten: h.pool.BytesWritten(),
		},
		Credential: h.credential(time.Now()),
		Process:    admin.ProcessStatus(),
		Store: adminapi.Store{
			Directory: h.storeDir(), Tables: st.Tables, Records: st.Records,
			DiskBytes: st.DiskBytes, LiveBytes: st.LiveBytes,
			Commits: st.Commits, Syncs: st.Syncs, BytesWritten: st.BytesWritten,
			Sealing: h.sealing(st),
		},
		Journal:     adminapi.Journal{Pending: journal.Pending, Bytes: journal.Bytes, Replayed: journal.Replayed, Dropped: journal.Dropped},
		Answers:     h.answers.Len(),
		Collections: []adminapi.Collection{}, // none is [], not null
	}
	for _, server := range h.pool.Servers() {
		status.Link.Servers = append(status.Link.Servers, adminapi.Server{
			Address: server.Address, Health: server.Health, Faults: server.Faults, LatencyMilliseconds: float64(server.Latency.Microseconds()) / 1000,
		})
	}
	status.Upstream, status.Clients = trafficOf(h.pool.Traffic().Totals()), trafficOf(h.metrics.Traffic())
	if st.LastError != nil {
		status.Store.Error = st.LastError.Error()
	}
	for _, c := range h.replicas.All() {
		s := c.State()
		_, path, _ := strings.Cut(s.Key.String(), " /")
		status.Collections = append(status.Collections, adminapi.Collection{
			Path: "/" + path, Representation: s.Key.Representation.String(), Identity: s.Key.Identity.String(),
			Phase: s.Phase.String(), Since: s.Since, FreshAt: c.FreshAt(), Populated: c.Populated(),
			Revision: s.Revision, Objects: s.Objects, Bytes: s.Bytes, Watchers: s.Watchers,
		})
	}
	return status
}

// credential says how the node's own stands.
func (h *Hub) credential(now time.Time) adminapi.Credential {
	var c adminapi.Credential
	if own := h.pool.Certificate(credential.Node); own != nil {
		c.NotBefore, c.NotAfter = own.NotBefore, own.NotAfter
	}
	refused := h.grants.Reviewer.NodeRefused()
	switch {
	case !c.NotAfter.IsZero() && now.After(c.NotAfter):
		c.Problem = fmt.Sprintf("its certificate has expired on %s, if the clock is right", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		c.Problem = fmt.Sprintf("its certificate is valid from %s, and the clock says %s", c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case !refused.IsZero():
		c.Problem = "the API server has not taken its credential since " + refused.UTC().Format(time.RFC3339)
	}
	return c
}

// sealing tells by what the store is sealed, and what can't be opened.
func (h *Hub) sealing(st store.Stats) adminapi.Sealing {
	s := adminapi.Sealing{Key: h.keys.Source, KeyID: st.Key, Pending: st.Stale}
	if u := h.store.Unopened(); u.Records > 0 {
		s.Unopened, s.Reason = u.Records, "sealed by a key that is not known: "+strings.Join(u.Keys, ", ")
	}
	return s
}

func trafficOf(totals []traffic.Total) []adminapi.Traffic {
	rows := []adminapi.Traffic{}
	for _, t := range totals {
		rows = append(rows, adminapi.Traffic{Client: t.Client, Resource: t.Resource, Received: t.Received, Sent: t.Sent})
	}
	return rows
}

// registerMetrics exports what the parts count by themselves.
func registerMetrics(reg prometheus.Registerer, h *Hub) {
	reg.MustRegister(h.pool.Traffic(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	gauge("yurthub_link_up", "1 if an API server can be reached.", func() float64 {
		if h.pool.Link().State == upstream.Up {
			return 1
		}
		return 0
	})
	gauge("yurthub_certificate_expiry_seconds", "Unix time at which the node's client certificate ends; 0 if it has none.", func() float64 {
		if own := h.pool.Certificate(credential.Node); own != nil {
			return float64(own.NotAfter.Unix())
		}
		return 0
	})
	gauge("yurthub_node_locked_out", "1 if the node's own credential is out of its dates or refused by the API server.", func() float64 {
		if h.credential(time.Now()).Problem != "" {
			return 1
		}
		return 0
	})
	gauge("yurthub_link_state_since_seconds", "Unix time of the last change of the link's state.", func() float64 {
		return float64(h.pool.Link().Since.Unix())
	})
	counter("yurthub_upstream_read_bytes_total", "Bytes read from API servers, TLS included.", func() float64 { return float64(h.pool.BytesRead()) })
	counter("yurthub_upstream_written_bytes_total", "Bytes written to API servers, TLS included.", func() float64 { return float64(h.pool.BytesWritten()) })
	gauge("yurthub_collections", "Collections in the replica.", func() float64 { return float64(len(h.replicas.All())) })
	reg.MustRegister(&staleness{replicas: h.replicas, startedAt: h.startedAt, age: prometheus.NewDesc("yurthub_replica_age_seconds",
		"Time since the oldest collection of a client and resource was what the cloud has; 0 if all follow it. Since the hub's start at least.",
		[]string{"client", "resource"}, nil)})
	gauge("yurthub_store_disk_bytes", "Bytes of the store's files.", func() float64 { return float64(h.store.Stats().DiskBytes) })
	gauge("yurthub_store_records", "Records in the store.", func() float64 { return float64(h.store.Stats().Records) })
	counter("yurthub_store_written_bytes_total", "Bytes written to the store.", func() float64 { return float64(h.store.Stats().BytesWritten) })
	counter("yurthub_store_commits_total", "Batches committed.", func() float64 { return float64(h.store.Stats().Commits) })
	counter("yurthub_store_syncs_total", "Calls of fdatasync.", func() float64 { return float64(h.store.Stats().Syncs) })
	gauge("yurthub_store_unopened_records", "Records that are sealed by a key that is not known.", func() float64 { return float64(h.store.Unopened().Records) })
	gauge("yurthub_store_failing", "1 if the newest commit failed.", func() float64 {
		if h.store.Stats().LastError != nil {
			return 1
		}
		return 0
	})
	gauge("yurthub_journal_pending_events", "Events that wait for the link.", func() float64 { return float64(h.journal.Stats().Pending) })
	counter("yurthub_journal_replayed_events_total", "Events of the dark time that the API server has taken.", func() float64 { return float64(h.journal.Stats().Replayed) })
	counter("yurthub_journal_dropped_events_total", "Events of the dark time that were lost: the journal was full, or the API server refused them.", func() float64 { return float64(h.journal.Stats().Dropped) })
}

// staleness exports how old the replica is, one figure for all collections of a
// client and resource: a kubelet has one for each Secret.
type staleness struct {
	replicas  *replica.Set
	startedAt time.Time
	age       *prometheus.Desc
}

func (s *staleness) Describe(c chan<- *prometheus.Desc) { c <- s.age }

func (s *staleness) Collect(c chan<- prometheus.Metric) {
	now := time.Now()
	oldest := map[traffic.Key]time.Duration{}
	for _, collection := range s.replicas.All() {
		freshAt := collection.FreshAt()
		if freshAt.IsZero() {
			freshAt = s.startedAt
		}
		k := traffic.Key{Client: collection.Identity.String(), Resource: collection.Resource.GroupResource()}
		oldest[k] = max(oldest[k], now.Sub(freshAt))
	}
	for k, age := range oldest {
		if age < time.Second {
			age = 0
		}
		c <- prometheus.MustNewConstMetric(s.age, prometheus.GaugeValue, age.Seconds(), k.Client, k.Resource)
	}
}
