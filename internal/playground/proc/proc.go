// Package proc keeps the services of one machine running, as systemd would: in order, restarted a second after they end, unless
// they were stopped on purpose.
//
// A Supervisor starts the services and owns them; its Handler lets a Client in another process say what should run. What a service
// leaves behind when it ends (the containers of a containerd) is left alone; when the supervisor ends, its services are killed.
// Nothing is remembered on disk.
package proc

import (
	"fmt"
	"time"
)

// Service is a process that a machine should run.
type Service struct {
	Name string
	Argv []string
	Env  []string // on top of the machine's own
	// Ready says how to see that the service does its work. The services after it wait for that, at most for Patience.
	Ready    Probe
	Patience time.Duration
}

// Probe is how to see that a service does its work: one of the two, or neither.
type Probe struct {
	Unix string // a socket that accepts a connection
	HTTP string // a URL that answers 200; the certificate of an https one isn't checked
}

// State is what a service is doing.
type State int

const (
	Stopped State = iota // not running, and nobody means it to
	Running
	Waiting // ended by itself, to be started again shortly
)

func (s State) String() string {
	switch s {
	case Stopped:
		return "stopped"
	case Running:
		return "running"
	case Waiting:
		return "waiting"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Status is what is to be known about a service.
type Status struct {
	Name     string
	State    State
	PID      int       // within the machine; 0 unless running
	Started  time.Time // the last time
	Restarts int       // how often it was started again after it ended by itself
	Exit     string    // how it ended the last time, if it did
}
