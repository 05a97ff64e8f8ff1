package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"yurt/internal/backoff"
	"yurt/internal/credential"
	"yurt/internal/offline"
)

const (
	// maxGrants bounds those in memory; the book has the rest.
	maxGrants = 4096
	// renewInterval is how often it is looked which grants are to be renewed.
	renewInterval = time.Minute
	// renewUsed is for how long after its last use a grant is renewed: who comes
	// back in the dark needs it.
	renewUsed = 24 * time.Hour
)

// Grants is what callers may be shown: what the API server has allowed to
// exactly them. The node's own requests need none: what is kept for the node was
// fetched with its own certificate, and is shown to nobody else.
type Grants struct {
	Reviewer      *Reviewer
	Authenticator *Authenticator
	Book          *offline.Book
	Logger        *slog.Logger

	reviews singleflight.Group
	wake    chan struct{}

	mu     sync.Mutex
	grants map[string]*grant
	wanted map[string]grant // to be asked for, so that they are known in the dark
	holds  map[*hold]struct{}
}

// NewGrants returns the grants that the book holds.
func NewGrants(reviewer *Reviewer, authenticator *Authenticator, book *offline.Book, log *slog.Logger) *Grants {
	return &Grants{
		Reviewer: reviewer, Authenticator: authenticator, Book: book, Logger: log,
		wake: make(chan struct{}, 1), grants: map[string]*grant{}, wanted: map[string]grant{}, holds: map[*hold]struct{}{},
	}
}

// grant is a question that was asked since the hub's start, and its answer.
type grant struct {
	caller     Caller
	attributes Attributes
	allowed    bool
	until      time.Time // then it is asked again
	used       time.Time
	withdrawn  time.Time // when the API server refused the very request; zero: it did not
}

// hold is a stream that lasts as long as a grant.
type hold struct {
	key        string
	caller     Caller
	attributes Attributes
	end        context.CancelCauseFunc
}

// errEnded ends streams.
var errEnded = errors.New("the grant has ended")

// subject is who a grant is for: the user with all that authorizers look at, but
// for the token's own number, which changes with each renewal.
func (u User) subject() string {
	v := u
	v.Groups = sorted(u.Groups)
	v.Extra = maps.Clone(u.Extra)
	delete(v.Extra, extraCredentialID)
	raw, err := json.Marshal(v) // with the keys of maps in order
	if err != nil {
		panic(err) // strings and maps of them
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}

func (c Caller) key(a Attributes) string {
	return fmt.Sprintf("%q %s %s", c.User.Name, a.key(), c.subject)
}

// Check tells whether a caller may be shown something: nil if so, ErrDenied if
// the API server says no, ErrUnknown if it can't be asked and had not allowed it
// before. While it can be asked its word is at most an hour old, and not from
// before the hub's start: a store that was rolled back revives nothing.
func (g *Grants) Check(ctx context.Context, c Caller, a Attributes) error {
	if c.Identity.IsNode() {
		return nil
	}
	key, now := c.key(a), time.Now()
	g.mu.Lock()
	known, ok := g.grants[key]
	if ok {
		known.used = now
	}
	g.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.verdict()
	}
	if !g.Reviewer.up() {
		if g.remembered(key) {
			return nil
		}
		return ErrUnknown
	}
	_, err, _ := g.reviews.Do(key, func() (any, error) { return nil, g.ask(context.WithoutCancel(ctx), c, a) })
	if err == nil {
		g.want(c, a)
	}
	return err
}

// want makes Run ask for the other way to read a collection, too.
func (g *Grants) want(c Caller, a Attributes) {
	other, ok := a.other()
	if !ok {
		return
	}
	key := c.key(other)
	g.mu.Lock()
	_, asked := g.grants[key]
	if !asked && len(g.wanted) < maxGrants {
		g.wanted[key] = grant{caller: c, attributes: other}
	}
	g.mu.Unlock()
	g.stir()
}

func (g *Grants) stir() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// Known tells whether a caller may be shown something by what has been said
// before.
func (g *Grants) Known(c Caller, a Attributes) bool {
	if c.Identity.IsNode() {
		return true
	}
	key := c.key(a)
	g.mu.Lock()
	known, ok := g.grants[key]
	fresh := ok && time.Now().Before(known.until)
	g.mu.Unlock()
	if fresh {
		return known.allowed
	}
	return g.remembered(key)
}

func (g *grant) verdict() error {
	if g.allowed {
		return nil
	}
	return ErrDenied
}

func (g *Grants) remembered(key string) bool {
	_, ok := g.Book.Recall(key)
	return ok
}

// ask asks the API server, and lets what it said before stand if it says
// nothing.
func (g *Grants) ask(ctx context.Context, c Caller, a Attributes) error {
	key := c.key(a)
	remembered, patience := g.remembered(key), reviewTimeout
	if remembered {
		patience = shortPatience
	}
	began := time.Now()
	allowed, err := g.Reviewer.access(ctx, c.User, a, patience)
	switch {
	case err != nil && remembered:
		g.note(key, grant{caller: c, attributes: a, allowed: true, until: time.Now().Add(retryInterval)})
		return nil
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	case !allowed:
		g.note(key, grant{caller: c, attributes: a, until: time.Now().Add(retryInterval)})
		g.endStreams(func(h *hold) bool { return h.key == key })
		return errors.Join(ErrDenied, g.forget(ctx, key))
	case g.withdrawnSince(key, began): // the review may be older than the refusal
		return ErrDenied
	}
	g.allow(ctx, c, a)
	return nil
}

func (g *Grants) withdrawnSince(key string, at time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	known, ok := g.grants[key]
	return ok && !known.withdrawn.Before(at)
}

// Allow notes that the API server has answered this very request of the caller.
func (g *Grants) Allow(ctx context.Context, c Caller, a Attributes) {
	if c.Identity.IsNode() {
		return
	}
	key := c.key(a)
	g.mu.Lock()
	known, ok := g.grants[key]
	fresh := ok && known.allowed && time.Now().Before(known.until)
	if fresh {
		known.used = time.Now()
	}
	g.mu.Unlock()
	if !fresh {
		g.allow(ctx, c, a)
	}
}

func (g *Grants) allow(ctx context.Context, c Caller, a Attributes) {
	key, now := c.key(a), time.Now()
	g.note(key, grant{caller: c, attributes: a, allowed: true, until: now.Add(reviewInterval + rand.N(reviewInterval/10))})
	if err := g.Book.Keep(ctx, key, offline.Answer{At: now}); err != nil {
		g.Logger.Warn("a grant could not be kept for offline use", "client", c.Credential, "error", err)
	}
}

func (g *Grants) note(key string, next grant) {
	next.used = time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if known, ok := g.grants[key]; ok {
		next.used = known.used
	} else if len(g.grants) >= maxGrants {
		clear(g.grants) // those in use come back
	}
	g.grants[key] = &next
}

func (g *Grants) forget(ctx context.Context, key string) error {
	if !g.remembered(key) {
		return nil
	}
	return g.Book.Forget(ctx, key)
}

// Withdraw ends what a caller was allowed to do: the API server has refused it.
// What else it may read of that kind in that namespace is asked again at once.
func (g *Grants) Withdraw(ctx context.Context, c Caller, a Attributes) error {
	if c.Identity.IsNode() {
		return nil
	}
	refused, kind, now := c.key(a), fmt.Sprintf("%q %s ", c.User.Name, a.kind()), time.Now()
	g.mu.Lock()
	for key, known := range g.grants {
		if strings.HasPrefix(key, kind) {
			doubted := *known
			doubted.until = time.Time{}
			g.grants[key] = &doubted
		}
	}
	g.grants[refused] = &grant{caller: c, attributes: a, until: now.Add(retryInterval), used: now, withdrawn: now}
	g.mu.Unlock()
	g.stir()
	g.endStreams(func(h *hold) bool { return h.key == refused })
	return g.forget(ctx, refused)
}

// EndToken ends the streams of a token that is nobody's any more.
func (g *Grants) EndToken(c credential.Credential) {
	if c.Token == "" {
		return
	}
	g.endStreams(func(h *hold) bool { return h.caller.Token == c.Token })
}

func (g *Grants) endStreams(which func(*hold) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for h := range g.holds {
		if which(h) {
			h.end(errEnded)
		}
	}
}

// Hold returns a context that ends with the grant, and with the caller's token.
// release must be called when the stream has ended.
func (g *Grants) Hold(ctx context.Context, c Caller, a Attributes) (held context.Context, release func()) {
	if c.Identity.IsNode() {
		return ctx, func() {}
	}
	held, end := context.WithCancelCause(ctx)
	h := &hold{key: c.key(a), caller: c, attributes: a, end: end}
	g.mu.Lock()
	g.holds[h] = struct{}{}
	g.mu.Unlock()
	if !g.Known(c, a) { // it has ended since it was checked
		end(errEnded)
	}
	return held, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.holds, h)
		end(nil)
	}
}

// Doubt makes the API server be asked about a token at once, which it has
// refused to somebody else.
func (g *Grants) Doubt(c credential.Credential) {
	if c.Identity.IsNode() {
		g.Reviewer.NoteNode(http.StatusUnauthorized)
	}
	if c.Token == "" {
		return
	}
	g.Authenticator.doubt(context.Background(), c) // it ends with the store
	g.stir()
}

// Run renews the grants in use and looks after the tokens of streams, until ctx
// ends.
func (g *Grants) Run(ctx context.Context) error {
	tick := time.NewTicker(renewInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-g.wake:
			if err := backoff.Sleep(ctx, time.Second); err != nil { // feeds of one token are refused together
				return nil
			}
		case <-ctx.Done():
			return nil
		}
		g.renewTokens(ctx)
		g.renewGrants(ctx)
	}
}

// renewTokens ends the streams of those whose token is no longer theirs.
func (g *Grants) renewTokens(ctx context.Context) {
	g.mu.Lock()
	callers := map[string]Caller{}
	for h := range g.holds {
		if h.caller.Token != "" {
			callers[h.caller.Token] = h.caller
		}
	}
	g.mu.Unlock()
	for _, c := range callers {
		if ctx.Err() != nil {
			return
		}
		now, err := g.Authenticator.bearer(ctx, c.Token, "")
		if errors.Is(err, ErrUnauthenticated) || err == nil && now.subject != c.subject || g.orphaned(c, err) {
			g.Logger.Info("a client's streams end: its token is no longer valid", "client", c.Credential)
			g.EndToken(c.Credential)
		}
	}
}

// orphaned: the pod of a token is gone, which needs nobody's word.
func (g *Grants) orphaned(c Caller, err error) bool {
	return errors.Is(err, ErrUnknown) && c.User.pod().uid != "" && !g.Authenticator.hasPod(c.User)
}

// renewGrants asks again for the grants that were used lately.
func (g *Grants) renewGrants(ctx context.Context) {
	now := time.Now()
	g.mu.Lock()
	held := map[string]bool{}
	for h := range g.holds {
		held[h.key] = true
		other, _ := h.attributes.other()
		held[h.caller.key(other)] = true
	}
	due := g.wanted
	g.wanted = map[string]grant{}
	for h := range g.holds {
		if _, ok := g.grants[h.key]; !ok { // many others have been asked for since
			due[h.key] = grant{caller: h.caller, attributes: h.attributes, allowed: true}
		}
	}
	for key, known := range g.grants {
		if known.allowed && now.After(known.until) && (held[key] || now.Sub(known.used) < renewUsed) {
			due[key] = *known
		}
	}
	g.mu.Unlock()
	for _, known := range due {
		if ctx.Err() != nil || !g.Reviewer.up() {
			return
		}
		if err := g.ask(ctx, known.caller, known.attributes); errors.Is(err, ErrDenied) && known.allowed {
			g.Logger.Info("a client may no longer read what it did", "client", known.caller.Credential, "what", known.attributes.kind())
		}
	}
}
