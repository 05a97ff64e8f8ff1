package fairness

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Limits are what a Gate holds its clients to.
type Limits struct {
	// Seats are for requests with an end of their own, of all clients together.
	// The node may take all of them.
	Seats int
	// Others is how many of the seats all clients but the node may have, and Share
	// how many one of them.
	Others, Share int

	// Streams is how many requests without an end (watches, exec, logs) a client
	// may have. They take no seats. NodeStreams is the node's number, and
	// AllStreams that of all others together.
	Streams, NodeStreams, AllStreams int

	// Rate is how many requests in a second a client may send for any length of
	// time, and Burst how many more at once. The node may send as many as it likes.
	Rate, Burst float64

	// Queue is how many requests of a client may wait, and Patience how long each.
	Queue    int
	Patience time.Duration

	// Hold is how long the refusal of a request is kept back: whoever asks again
	// at once would otherwise cost more by being refused than by being answered. A
	// Queue of refusals is kept back.
	Hold time.Duration
}

// DefaultLimits are for a number of seats.
func DefaultLimits(seats int) Limits {
	return Limits{
		Seats: seats, Others: max(1, seats*4/5), Share: max(1, seats/10),
		Streams: 250, NodeStreams: 10_000, AllStreams: 2000,
		Rate: 100, Burst: 200,
		Queue: 100, Patience: 5 * time.Second, Hold: time.Second,
	}
}

const (
	// seatBytes is how much of a body is held in memory for one seat.
	seatBytes = 256 << 10
	// creditBytes is how much of an answer costs as much as a request.
	creditBytes = 128 << 10
	// maxClients bounds what is remembered of clients that ask for nothing now.
	maxClients = 1000
)

// Client is who shares: an identity, or, of those that have none, an address.
type Client struct {
	Name string
	Node bool
}

// Request is what the gate must know of a request.
type Request struct {
	Client Client
	Stream bool  // it has no end of its own
	Body   int64 // bytes that are held in memory at once
}

// Reason says which limit a request is beyond.
type Reason string

// The reasons of a RefusalError.
const (
	TooFast        Reason = "rate"
	TooManyStreams Reason = "streams"
	QueueFull      Reason = "queue"
	NoSeat         Reason = "seats"
)

// RefusalError is that of a request that is beyond a limit.
type RefusalError struct {
	Reason     Reason
	RetryAfter time.Duration
}

func (r *RefusalError) Error() string {
	return fmt.Sprintf("too many requests (%s): try again in %s", r.Reason, r.RetryAfter)
}

// Gate lets requests in.
type Gate struct {
	mu      sync.Mutex
	limits  Limits
	clients map[Client]*client
	seats   int // taken
	others  int // of them, by clients that are not the node
	streams int // of clients that are not the node
	line    []*waiter
	refused map[Reason]uint64
}

// client is what the gate knows of one client.
type client struct {
	Client
	seats, streams int
	waiting, held  int // requests, and refusals that are kept back
	purse          purse
}

func (c *client) idle() bool { return c.seats+c.streams+c.waiting+c.held == 0 }

// waiter is a request that waits for seats.
type waiter struct {
	client  *client
	width   int
	granted chan struct{} // closed, with the gate locked, when it has them
}

// NewGate returns a gate with nobody in it.
func NewGate(l Limits) *Gate {
	return &Gate{limits: l, clients: map[Client]*client{}, refused: map[Reason]uint64{}}
}

// SetLimits holds all that come from now on to other limits. Who is in stays in, and who waits is seated by the new ones.
func (g *Gate) SetLimits(l Limits) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limits = l
	g.next()
}

// Enter returns when the request may be answered; its Turn must be ended. The
// error is a *RefusalError, or the context's.
func (g *Gate) Enter(ctx context.Context, r Request) (*Turn, error) {
	g.mu.Lock()
	c := g.client(r.Client)
	t := &Turn{gate: g, client: c}
	if !r.Stream {
		t.width = g.width(c, r.Body)
	}
	if r.Stream && !g.mayStream(c) {
		return nil, g.refuse(ctx, c, &RefusalError{TooManyStreams, time.Second})
	}
	delay := c.purse.delay(time.Now(), g.limits)
	switch {
	case c.Node:
		delay = 0
	case delay > g.limits.Patience:
		return nil, g.refuse(ctx, c, &RefusalError{TooFast, delay.Round(time.Second)})
	case delay > 0 && c.waiting >= g.limits.Queue:
		return nil, g.refuse(ctx, c, &RefusalError{TooFast, time.Second})
	}
	seated := !r.Stream && delay == 0 && g.fits(c, t.width)
	if !r.Stream && !seated && c.waiting >= g.limits.Queue {
		return nil, g.refuse(ctx, c, &RefusalError{QueueFull, time.Second})
	}
	c.purse.credit-- // who waits has spent it, and who comes next waits longer; who is refused has not
	if seated {
		g.take(c, t.width)
		g.mu.Unlock()
		return t, nil
	}
	if r.Stream {
		g.stream(c, 1) // counted while it waits, so that the number holds
	}
	c.waiting++
	g.mu.Unlock()
	err := sleep(ctx, delay)
	if err == nil && !r.Stream {
		err = g.sit(ctx, c, t.width)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiting--
	if err != nil && r.Stream {
		g.stream(c, -1)
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// client returns what is known of a client, and forgets those that have long
// asked for nothing when they are many.
func (g *Gate) client(id Client) *client {
	if c := g.clients[id]; c != nil {
		return c
	}
	if len(g.clients) >= maxClients {
		g.forget(func(c *client) bool { return c.purse.full(time.Now(), g.limits) })
	}
	if len(g.clients) >= maxClients {
		g.forget(func(*client) bool { return true })
	}
	c := &client{Client: id, purse: purse{credit: g.limits.Burst, at: time.Now()}}
	g.clients[id] = c
	return c
}

func (g *Gate) forget(which func(*client) bool) {
	for id, c := range g.clients {
		if c.idle() && which(c) {
			delete(g.clients, id)
		}
	}
}

// width is how many seats a request takes. None takes more than its client may
// have.
func (g *Gate) width(c *client, body int64) int {
	most := int64(g.limits.Share)
	if c.Node {
		most = int64(g.limits.Seats)
	}
	return int(min(1+body/seatBytes, most))
}

func (g *Gate) mayStream(c *client) bool {
	if c.Node {
		return c.streams < g.limits.NodeStreams
	}
	return c.streams < g.limits.Streams && g.streams < g.limits.AllStreams
}

func (g *Gate) stream(c *client, n int) {
	c.streams += n
	if !c.Node {
		g.streams += n
	}
}

func (g *Gate) fits(c *client, width int) bool {
	if g.seats+width > g.limits.Seats {
		return false
	}
	return c.Node || g.others+width <= g.limits.Others && c.seats+width <= g.limits.Share
}

// take gives seats to a client, or takes them back if n is negative.
func (g *Gate) take(c *client, n int) {
	c.seats += n
	g.seats += n
	if !c.Node {
		g.others += n
	}
}

// sit waits for seats.
func (g *Gate) sit(ctx context.Context, c *client, width int) error {
	g.mu.Lock()
	if g.fits(c, width) {
		g.take(c, width)
		g.mu.Unlock()
		return nil
	}
	w := &waiter{client: c, width: width, granted: make(chan struct{})}
	g.line = append(g.line, w)
	patience := g.limits.Patience
	g.mu.Unlock()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var err error
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
		err = &RefusalError{NoSeat, time.Second}
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.line, w)
	if i < 0 {
		return nil // granted in this moment
	}
	g.line = slices.Delete(g.line, i, i+1)
	if ctx.Err() == nil {
		g.refused[NoSeat]++
	}
	return err
}

// next gives free seats to those who wait: to the node first, then to who has the
// fewest, in the order of their coming.
func (g *Gate) next() {
	for {
		best := -1
		for i, w := range g.line {
			if g.fits(w.client, w.width) && (best < 0 || w.client.before(g.line[best].client)) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		w := g.line[best]
		g.line = slices.Delete(g.line, best, best+1)
		g.take(w.client, w.width)
		close(w.granted)
	}
}

func (c *client) before(other *client) bool {
	if c.Node != other.Node {
		return c.Node
	}
	return c.seats < other.seats
}

// refuse is called with the gate locked, and unlocks it.
func (g *Gate) refuse(ctx context.Context, c *client, r *RefusalError) error {
	g.refused[r.Reason]++
	if c.Node || c.held >= g.limits.Queue {
		g.mu.Unlock()
		return r
	}
	c.held++
	hold := g.limits.Hold
	g.mu.Unlock()
	err := sleep(ctx, hold)
	g.mu.Lock()
	c.held--
	g.mu.Unlock()
	if err != nil {
		return err
	}
	return r
}

// Turn is a request that has been let in. It is its request's goroutine's.
type Turn struct {
	gate   *Gate
	client *client
	width  int // 0: a stream
	sent   int64
}

// Sent counts bytes of the answer: long ones cost more than short ones.
func (t *Turn) Sent(bytes int) {
	if t.sent += int64(bytes); t.sent < creditBytes {
		return
	}
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.client.purse.spend(float64(t.sent/creditBytes), t.gate.limits)
	t.sent %= creditBytes
}

// End lets the next one in.
func (t *Turn) End() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.width == 0 {
		g.stream(t.client, -1)
		return
	}
	g.take(t.client, -t.width)
	g.next()
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
