package upstream

import (
	"context"
	"slices"
	"time"
)

// State is what the hub believes of the link.
type State int

// The states of the link.
const (
	Connecting State = iota // not known yet, since the start
	Up                      // the last thing heard was an answer
	Down                    // no API server answers
)

// String is the state as it stands in logs and on /status.
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "connecting"
}

// Link is the state of the link and what led to it.
type Link struct {
	State  State
	Since  time.Time
	Reason string // why it is not up, empty if it is
}

// Link returns the state of the link.
func (p *Pool) Link() Link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// Changed returns a channel that is closed when the state next changes.
func (p *Pool) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// WaitUp returns when the link is up, or with ctx's error.
func (p *Pool) WaitUp(ctx context.Context) error {
	for {
		changed := p.Changed()
		if p.Link().State == Up {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// WaitKnown returns when the link is known to be up or down, or after a moment
// at the latest: a request that arrives in the hub's first moments waits for
// that instead of being answered from the past.
func (p *Pool) WaitKnown(ctx context.Context) {
	changed := p.Changed()
	if p.Link().State != Connecting {
		return
	}
	select {
	case <-changed:
	case <-ctx.Done():
	case <-time.After(time.Until(p.started.Add(connectPatience))):
	}
}

// settle derives the link from the servers' health and announces a change. It
// looks at them under the lock: of two that settle at the same time, the later
// one must not go by what it saw earlier.
func (p *Pool) settle(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := Down
	switch {
	case slices.ContainsFunc(p.servers, (*server).healthy):
		state, reason = Up, ""
	case p.link.State == Connecting && slices.ContainsFunc(p.servers, (*server).untried):
		return // one that refuses says nothing of the next
	}
	if p.link.State == state {
		return
	}
	p.log.Info("link changed", "state", state.String(), "reason", reason, "was", p.link.State.String(), "for", time.Since(p.link.Since).Round(time.Millisecond))
	p.link = Link{State: state, Since: time.Now(), Reason: reason}
	close(p.changed)
	p.changed = make(chan struct{})
}
