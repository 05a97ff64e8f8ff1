package replica

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"yurt/internal/credential"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
)

// still is a cloud of which every list has one object, and every watch is quiet.
type still struct{ changed chan struct{} }

func (s still) Link() upstream.Link          { return upstream.Link{State: upstream.Up} }
func (s still) Changed() <-chan struct{}     { return s.changed }
func (s still) WaitUp(context.Context) error { return nil }

func (s still) RoundTrip(r *http.Request, _ credential.Credential) (*http.Response, error) {
	q := request.Parse(r)
	var body io.Reader = strings.NewReader(`{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"10"},"items":[` +
		string(itemBody("a", object{UID: "u", Revision: 5, Value: "1"})) + "]}\n")
	if q.Verb == request.Watch {
		pr, pw := io.Pipe()
		context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
		body = pr
	}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(body)}, nil
}

// BenchmarkIdle says what quiet collections and quiet watchers cost in memory,
// stacks included.
func BenchmarkIdle(b *testing.B) {
	const collections, watchers = 5000, 1000
	for b.Loop() {
		idle(b, collections, watchers)
	}
}

func idle(b *testing.B, collections, watchers int) {
	st, err := store.Open(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	set, err := Open(st, still{make(chan struct{})}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	}()
	defer run(st.Run)()
	defer run(set.Run)()

	before := inUse()
	all := make([]*Collection, collections)
	for i := range all {
		key := shop
		key.FieldSelector = fmt.Sprintf("metadata.name=configmap-%05d", i)
		if all[i], err = set.Use(key, credential.Credential{}, 0); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range all {
		if err := c.Live(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	fed := inUse()
	b.ReportMetric(float64(fed-before)/float64(collections), "B/collection")

	ctx, cancel := context.WithCancel(b.Context())
	var streams sync.WaitGroup
	for range watchers {
		streams.Go(func() {
			_ = all[0].Watch(ctx, &client{header: http.Header{}}, request.Options{ResourceVersion: "0"}, nil)
		})
	}
	for all[0].State().Watchers < watchers {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(inUse()-fed)/float64(watchers), "B/watcher")
	cancel()
	streams.Wait()
}

// inUse is the memory of live objects and stacks.
func inUse() uint64 {
	time.Sleep(50 * time.Millisecond)
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
