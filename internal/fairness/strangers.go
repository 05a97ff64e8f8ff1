package fairness

import (
	"sync"
	"time"
)

const (
	// What may be asked at a time, by all and by one address.
	maxAsking        = 6
	maxAskingAddress = 3
	// askRate is how many new tokens an address may show in a second, and askBurst
	// how many at once.
	askRate  = 5
	askBurst = 50
)

// Strangers bounds what tokens cost that are not known yet: each is a question to
// the API server, and anybody can make up a million of them. Its zero value is
// ready.
//
// An address is what tells strangers apart. Those that share one (the programs
// on the host's own network) share its part.
type Strangers struct {
	mu        sync.Mutex
	asking    int
	addresses map[string]*address
}

type address struct {
	asking int
	purse  purse
}

// Ask returns nil if somebody at an address may be asked about; then Asked must
// be called when there is an answer. The error is a *RefusalError.
func (s *Strangers) Ask(from string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	a := s.address(from, now)
	if s.asking >= maxAsking || a.asking >= maxAskingAddress {
		return &RefusalError{QueueFull, time.Second}
	}
	if a.purse.delay(now, askLimits()) > 0 {
		return &RefusalError{TooFast, time.Second}
	}
	a.purse.credit--
	a.asking++
	s.asking++
	return nil
}

// Asked ends what Ask has begun.
func (s *Strangers) Asked(from string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking--
	s.addresses[from].asking-- // those who are asked about are kept
}

func askLimits() Limits { return Limits{Rate: askRate, Burst: askBurst} }

func (s *Strangers) address(from string, now time.Time) *address {
	if a := s.addresses[from]; a != nil {
		return a
	}
	if s.addresses == nil {
		s.addresses = map[string]*address{}
	}
	if len(s.addresses) >= maxClients {
		for from, a := range s.addresses {
			if a.asking == 0 {
				delete(s.addresses, from)
			}
		}
	}
	a := &address{purse: purse{credit: askBurst, at: now}}
	s.addresses[from] = a
	return a
}
