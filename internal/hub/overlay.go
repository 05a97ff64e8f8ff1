package hub

import (
	"context"
	"fmt"
	"time"

	"yurt/internal/overlay"
	"yurt/internal/upstream"
)

// openOverlay lays what the kubelet writes in the dark over what clients see.
func (h *Hub) openOverlay() error {
	if h.cfg.DisableOverlay {
		return nil
	}
	var err error
	if h.overlay, err = overlay.Open(h.store, overlay.Options{Logger: h.log, Publishes: h.replicas.PublishesNotReady}); err != nil {
		return fmt.Errorf("open the overlay: %w", err)
	}
	h.replicas.ShowThrough(h.overlay, h.node)
	h.replicas.Assume()
	return nil
}

// runOverlay tells the overlay of the link and of time, until ctx ends.
func (h *Hub) runOverlay(ctx context.Context) error {
	up := false // an overlay begins with the cloud away
	for {
		link, shown := h.pool.Changed(), h.overlay.Changed()
		if now := h.pool.Link().State == upstream.Up; now != up {
			up = now
			if up {
				h.overlay.Heal()
			} else {
				h.overlay.Cut()
				h.replicas.Assume()
			}
		}
		next, err := h.overlay.Lift(ctx)
		if err != nil && ctx.Err() == nil {
			h.log.Warn("the end of an outage could not be written down", "error", err)
		}
		var due <-chan time.Time // never
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		select {
		case <-link:
		case <-shown:
		case <-due:
		case <-ctx.Done():
			return nil
		}
	}
}
