package scenario

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"yurt/test/faults/history"
	"yurt/test/faults/traffic"
)

func containsMarker(content []byte) bool { return bytes.Contains(content, []byte(traffic.Marker)) }

// traffic goes on until the plan is done or ctx ends.
func (s *site) traffic(ctx context.Context, p plan, hub *hubProcess, life int) {
	ctx, cancel := context.WithTimeout(ctx, trafficPatience)
	defer cancel()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := func(name string) *traffic.Client {
		return &traffic.Client{Name: name, Rec: s.rec, HTTP: &http.Client{Transport: transport}, Hub: hub.plain, Life: life, Dark: p.dark}
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	for _, w := range s.watchers {
		clients.Go(func() { w.run(watching, client(w.name), p.dark) })
	}
	visitor := client(fmt.Sprintf("visitor%d", life))
	for _, w := range s.watchers {
		visitor.List(ctx, w.collection)
	}
	if s.rand.IntN(4) == 0 && !p.dark { // a collection that nobody has asked for yet
		s.extra++
		w := s.watchers[s.rand.IntN(len(s.watchers))]
		visitor.List(ctx, history.Collection(fmt.Sprintf("%s?labelSelector=x!%%3D%d", w.collection, s.extra)))
	}
	if p.dark {
		s.writeNotes(ctx, visitor)
		pause(ctx, quiet)
		return
	}
	for range p.changes {
		s.change()
		pause(ctx, time.Duration(s.rand.IntN(3))*time.Millisecond)
	}
	pause(ctx, 2*quiet)
	for _, w := range s.watchers {
		visitor.List(ctx, w.collection)
	}
	if p.drain {
		s.drain(ctx, transport, hub)
	}
}

func (s *site) writeNotes(ctx context.Context, c *traffic.Client) {
	for range s.rand.IntN(4) {
		s.notes++
		_, _ = c.Note(ctx, fmt.Sprintf("%d", s.notes)) // what was accepted is recorded
	}
}

// drain waits until the hub says that it has told all events of the dark.
func (s *site) drain(ctx context.Context, transport *http.Transport, hub *hubProcess) {
	for ctx.Err() == nil {
		if left, err := pending(ctx, &http.Client{Transport: transport}, hub); err == nil && left == 0 {
			s.rec.Drained()
			return
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// run follows a collection as an informer does: it goes on where it was, or lists.
func (w *watcher) run(ctx context.Context, c *traffic.Client, dark bool) {
	if w.rand.IntN(2) == 0 {
		w.last = 0
	}
	for ctx.Err() == nil {
		if w.last == 0 {
			if w.last = c.List(ctx, w.collection); w.last == 0 {
				if dark {
					return
				}
				pause(ctx, 5*time.Millisecond)
				continue
			}
		}
		last, goesOn := c.Watch(ctx, w.collection, w.last)
		if w.last = last; !goesOn {
			w.last = 0
		}
		pause(ctx, time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
