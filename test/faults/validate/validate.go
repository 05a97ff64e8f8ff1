// Package validate judges a history. A guarantee is an error whose text is its definition; each check is a pure function
// of what happened.
//
// It guarantees that a history of a hub that keeps its promises passes, whatever was cut: each check allows what the
// promise leaves open. It looks at nothing but the history.
package validate

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"yurt/test/faults/history"
)

// The guarantees.
var (
	ErrLost        = errors.New("what a client was told before a power cut is there after it")
	ErrUnavailable = errors.New("a collection that was listed once can be listed for ever, in the dark and after cuts")
	ErrPartial     = errors.New("a list is what the API server had at its version: no more, no less, nothing mixed, nothing damaged")
	ErrBack        = errors.New("no client's view of a collection goes back")
	ErrGap         = errors.New("a watch brings each change after the version that it began at, once, in order, as the API server made it")
	ErrNoteLost    = errors.New("an event that was accepted in the dark reaches the API server")
	ErrNoteTwice   = errors.New("an event of the dark is told once: not again in the same life, nor after the hub has said that nothing is left to tell")
	ErrStart       = errors.New("the hub starts on what a cut leaves")
	ErrClear       = errors.New("no secret is in clear on the disk")
)

// Guarantees are all of them.
func Guarantees() []error {
	return []error{ErrLost, ErrUnavailable, ErrPartial, ErrBack, ErrGap, ErrNoteLost, ErrNoteTwice, ErrStart, ErrClear}
}

// Violation is what contradicts a guarantee.
type Violation struct {
	Guarantee error
	Life      int
	What      string
	Log       string // of the hub in that life, if whoever ran it has kept it
}

// String says what happened, and what should not have.
func (v *Violation) String() string {
	return fmt.Sprintf("life %d: %s; violated: %s", v.Life, v.What, v.Guarantee)
}

// All applies every check. The second result is how many reads, events and writes were checked.
func All(h history.History) ([]*Violation, int) {
	c := checker{h: h, states: map[string]*states{}}
	for name, truth := range h.Truth {
		c.states[name] = newStates(truth)
	}
	c.lives()
	c.lists()
	c.watches()
	c.told()
	c.notes()
	return c.violations, c.checked
}

type checker struct {
	h          history.History
	states     map[string]*states
	violations []*Violation
	checked    int
}

func (c *checker) report(guarantee error, life int, format string, args ...any) {
	c.violations = append(c.violations, &Violation{Guarantee: guarantee, Life: life, What: fmt.Sprintf(format, args...)})
}

func (c *checker) lives() {
	for i, life := range c.h.Lives {
		c.checked++
		if life.Started != nil {
			c.report(ErrStart, i, "the hub did not start: %v", life.Started)
		}
		for _, file := range life.Clear {
			c.report(ErrClear, i, "%s has a secret in clear", file)
		}
	}
}

// lists checks each list against the truth at its version.
func (c *checker) lists() {
	for _, r := range c.h.Reads {
		if r.Code != 200 {
			continue
		}
		c.checked++
		if problem := c.states[r.Collection.Path()].differs(r.Revision, r.Objects); problem != "" {
			c.report(ErrPartial, r.Life, "%s listed %s at version %d: %s", r.Client, r.Collection, r.Revision, problem)
		}
	}
}

// sight is a version that a client was shown, or that it was refused one.
type sight struct {
	at, life int
	client   string
	version  uint64
	list     bool
	code     int
	dark     bool
}

// told checks that versions only grow: each client's own, and those that anybody was told before a cut over the cut.
func (c *checker) told() {
	for _, collection := range c.collections() {
		own := map[string]uint64{} // by client
		var before, now uint64     // versions told in earlier lives, and in this one
		life := -1
		for _, s := range c.sights(collection) {
			if s.life != life {
				before, life = max(before, now), s.life
			}
			if s.code != 200 {
				if s.list && s.dark && before > 0 {
					c.report(ErrUnavailable, s.life, "%s got %d for %s, which was told at %d before", s.client, s.code, collection, before)
				}
				continue
			}
			if s.list && s.version < before {
				c.report(ErrLost, s.life, "%s listed %s at %d; %d was told before the cut", s.client, collection, s.version, before)
			}
			if s.list && s.version < own[s.client] {
				c.report(ErrBack, s.life, "%s was shown %s at %d after %d", s.client, collection, s.version, own[s.client])
			}
			own[s.client], now = max(own[s.client], s.version), max(now, s.version)
		}
	}
}

// collections are those that clients have asked for.
func (c *checker) collections() []history.Collection {
	asked := map[history.Collection]bool{}
	for _, r := range c.h.Reads {
		asked[r.Collection] = true
	}
	for _, w := range c.h.Watches {
		asked[w.Collection] = true
	}
	return slices.Sorted(maps.Keys(asked))
}

// sights are what was seen of a collection, in the order in which it was.
func (c *checker) sights(collection history.Collection) []sight {
	var all []sight
	for _, r := range c.h.Reads {
		if r.Collection == collection {
			all = append(all, sight{r.At, r.Life, r.Client, r.Revision, true, r.Code, r.Dark})
		}
	}
	for _, w := range c.h.Watches {
		if w.Collection != collection {
			continue
		}
		for _, told := range w.Changes {
			all = append(all, sight{told.At, w.Life, w.Client, told.Version, false, 200, false})
		}
	}
	slices.SortFunc(all, func(a, b sight) int { return a.at - b.at })
	return all
}

// notes checks the journal of the dark.
func (c *checker) notes() {
	first := map[string]history.Receipt{}
	answered := map[string]history.Receipt{}
	for _, r := range c.h.Receipts {
		if _, ok := first[r.Name]; !ok {
			first[r.Name] = r
		}
		earlier, again := answered[r.Name]
		if again && (earlier.Life == r.Life || c.drainedBetween(earlier.At, c.h.Lives[r.Life].Began)) {
			c.report(ErrNoteTwice, r.Life, "event %s was told in life %d and again in life %d", r.Name, earlier.Life, r.Life)
		}
		if r.Code == 201 || r.Code == 409 {
			answered[r.Name] = r
		}
	}
	last := c.lastDrain()
	for _, n := range c.h.Notes {
		c.checked++
		if _, ok := first[n.Name]; !ok && n.At < last {
			c.report(ErrNoteLost, len(c.h.Lives)-1, "event %s was accepted, and never told", n.Name)
		}
	}
}

func (c *checker) drainedBetween(from, to int) bool {
	for _, life := range c.h.Lives {
		for _, at := range life.Drained {
			if at > from && at < to {
				return true
			}
		}
	}
	return false
}

func (c *checker) lastDrain() int {
	last := 0
	for _, life := range c.h.Lives {
		for _, at := range life.Drained {
			last = max(last, at)
		}
	}
	return last
}
