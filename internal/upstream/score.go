package upstream

import (
	"fmt"
	"time"
)

// Mode is how one of several servers is picked.
type Mode int

// The modes.
const (
	RoundRobin Mode = iota // each in its turn
	Priority               // the first that is well
)

// ParseMode reads "rr" or "priority".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "rr":
		return RoundRobin, nil
	case "priority":
		return Priority, nil
	}
	return 0, fmt.Errorf("mode %q: want rr or priority", s)
}

// String is what ParseMode reads.
func (m Mode) String() string {
	if m == Priority {
		return "priority"
	}
	return "rr"
}

// score is what a server's answers say of it. It decides between servers that
// answer; whether one does is health.
type score struct {
	faults  float64       // the share of answers that were a fault of the server's; newer ones weigh more
	latency time.Duration // of probes; newer ones weigh more
}

const (
	// A server is poor when half of what it says is faults: three in a row, after
	// none. A probe that it answers well counts as an answer, so that one that
	// is not used comes back after four.
	faultWeight = 0.25
	poorFaults  = 0.5

	// It is slow when it takes this long, and slowRatio times as long as the
	// fastest.
	slowFrom  = 500 * time.Millisecond
	slowRatio = 3
)

// answered is the score after one more answer.
func (s score) answered(fault bool) score {
	s.faults *= 1 - faultWeight
	if fault {
		s.faults += faultWeight
	}
	return s
}

// probed is the score after a probe that was answered well.
func (s score) probed(took time.Duration) score {
	s = s.answered(false)
	if s.latency == 0 {
		s.latency = took
	}
	s.latency = (s.latency + took) / 2
	return s
}

func (s score) poor(fastest time.Duration) bool {
	return s.faults >= poorFaults || s.latency >= slowFrom && s.latency >= slowRatio*fastest
}

// candidate is a server as far as pick looks at it.
type candidate struct {
	usable bool // it is not known to be away, and has not been tried for this request
	score  score
}

// pick chooses among servers in the order of their priority. last is the one
// that was picked before. A poor one is used if there is no better one; ok is
// false if none is usable.
func pick(mode Mode, servers []candidate, last int) (at int, ok bool) {
	var fastest time.Duration
	for _, s := range servers {
		if s.usable && s.score.latency > 0 && (fastest == 0 || s.score.latency < fastest) {
			fastest = s.score.latency
		}
	}
	first := 0
	if mode == RoundRobin {
		first = last + 1
	}
	best := -1
	for i := range servers {
		at = (first + i) % len(servers)
		if !servers[at].usable {
			continue
		}
		if !servers[at].score.poor(fastest) {
			return at, true
		}
		if best < 0 {
			best = at
		}
	}
	return best, best >= 0
}
