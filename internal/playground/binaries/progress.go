package binaries

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Progress tells somebody who waits what is being built and how far it is: one line that changes every second on a terminal, a new
// line every 20 seconds elsewhere. A nil Progress tells nothing.
type Progress struct {
	Out      io.Writer
	Terminal bool
}

const (
	terminalPeriod = time.Second
	logPeriod      = 20 * time.Second
)

// stage is one piece of work under way.
type stage struct {
	p     *Progress
	title string
	begun time.Time
	stop  chan struct{}
	ended chan struct{}

	mu   sync.Mutex
	last string
}

func (p *Progress) start(title string) *stage {
	if p == nil {
		return nil
	}
	s := &stage{p: p, title: title, begun: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	return s
}

// set says what the stage is at.
func (s *stage) set(format string, args ...any) {
	if s == nil {
		return
	}
	s.mu.Lock()
	s.last = fmt.Sprintf(format, args...)
	s.mu.Unlock()
}

// end writes the last line; after it the stage writes nothing more.
func (s *stage) end() {
	if s == nil {
		return
	}
	close(s.stop)
	<-s.ended
}

func (s *stage) run() {
	defer close(s.ended)
	period, prefix, suffix := logPeriod, "", "\n"
	if s.p.Terminal {
		period, prefix, suffix = terminalPeriod, "\r\x1b[K", ""
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		fmt.Fprintf(s.p.Out, "%s%s%s", prefix, s.line(), suffix)
		select {
		case <-tick.C:
		case <-s.stop:
			fmt.Fprintf(s.p.Out, "%s%s\n", prefix, s.line())
			return
		}
	}
}

func (s *stage) line() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	took := time.Since(s.begun).Round(time.Second)
	line := fmt.Sprintf("%s: %d:%02d", s.title, int(took.Minutes()), int(took.Seconds())%60)
	if s.last != "" {
		line += ", " + s.last
	}
	return line
}
