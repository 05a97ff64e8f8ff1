// Package failpoint makes named places in the code fail on demand: with an error, a delay, or the end of the process.
//
// Tests arm points with Enable; a whole process arms them at start with FromEnv, from the variable YURT_FAILPOINTS, which
// reads "name=action;name=action". With nothing armed a point costs one atomic load. Every name is a constant of this
// package, listed by All, so that a test can insist that each is reached. The package never changes what a program does
// unless something was armed.
package failpoint

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Env is the variable that FromEnv reads.
const Env = "YURT_FAILPOINTS"

// ErrInjected is in every error that a point returns, unless its action names another one.
var ErrInjected = errors.New("injected fault")

// armed counts the points with an action; points holds them. They are process-wide on purpose: a fault is injected from
// outside, into code that must not know of it.
var (
	armed  atomic.Int32
	mu     sync.Mutex
	points = map[Name]*point{}
	hits   map[Name]int // not nil while a test counts
)

type point struct {
	action action
	skip   int // hits to let pass before the action
	times  int // actions left; < 0: no end
}

type action struct {
	kind string
	err  error
	wait time.Duration
	code int
	call func() error
}

// Hit is the point itself: it does what is armed for the name, which may be to return an error, and nothing otherwise.
func Hit(name Name) error {
	if armed.Load() == 0 {
		return nil
	}
	return hit(name)
}

// Armed reports whether a point would be counted or do something: for places that must be made to fail halfway.
func Armed(name Name) bool {
	if armed.Load() == 0 {
		return false
	}
	mu.Lock()
	defer mu.Unlock()
	return hits != nil || points[name] != nil
}

func hit(name Name) error {
	mu.Lock()
	if hits != nil {
		hits[name]++
	}
	p := points[name]
	if p == nil || p.times == 0 {
		mu.Unlock()
		return nil
	}
	if p.skip > 0 {
		p.skip--
		mu.Unlock()
		return nil
	}
	if p.times > 0 {
		p.times--
	}
	a := p.action
	mu.Unlock()
	return a.do(name)
}

func (a action) do(name Name) error {
	switch a.kind {
	case "sleep":
		time.Sleep(a.wait)
	case "kill":
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill at %s: %w", name, err)
		}
		select {} // the signal is on its way; nothing behind the point may happen
	case "exit":
		syscall.Exit(a.code) // at once, as a crash would: nothing deferred, nothing flushed
	case "call":
		return a.call()
	case "error":
		return fmt.Errorf("%s: %w", name, a.err)
	}
	return nil
}

// Enable arms a point and returns what disarms it. An action reads
//
//	error | error(ENOSPC) | error(EIO)   return an error
//	sleep(30ms)                          go on after a while
//	kill                                 SIGKILL the own process: nothing is flushed
//	exit(3)                              leave with this code
//
// and may be preceded by "after N " (let N hits pass) and "N* " (act N times, then no more), in this order.
func Enable(name Name, spec string) (disable func(), err error) {
	if !slices.Contains(All(), name) {
		return nil, fmt.Errorf("enable failpoint %q: no such point", name)
	}
	p, err := parse(spec)
	if err != nil {
		return nil, fmt.Errorf("enable failpoint %s: %w", name, err)
	}
	return install(name, p), nil
}

// EnableFunc arms a point with a function, whose error the point returns.
func EnableFunc(name Name, f func() error) (disable func()) {
	return install(name, &point{action: action{kind: "call", call: f}, times: -1})
}

func install(name Name, p *point) (disable func()) {
	mu.Lock()
	defer mu.Unlock()
	if points[name] == nil {
		armed.Add(1)
	}
	points[name] = p
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if points[name] == p {
			delete(points, name)
			armed.Add(-1)
		}
	}
}

// Count begins to count hits of all points; stop ends it and returns how often each was reached.
func Count() (stop func() map[Name]int) {
	mu.Lock()
	defer mu.Unlock()
	hits = map[Name]int{}
	armed.Add(1)
	return func() map[Name]int {
		mu.Lock()
		defer mu.Unlock()
		counted := hits
		hits = nil
		armed.Add(-1)
		return counted
	}
}

// FromEnv arms what the environment asks for. Called once, by main.
func FromEnv() error {
	for part := range strings.SplitSeq(os.Getenv(Env), ";") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		name, spec, ok := strings.Cut(part, "=")
		if !ok {
			return fmt.Errorf("read %s: %q is not name=action", Env, part)
		}
		if _, err := Enable(Name(strings.TrimSpace(name)), spec); err != nil {
			return fmt.Errorf("read %s: %w", Env, err)
		}
	}
	return nil
}

func parse(spec string) (*point, error) {
	p := &point{times: -1}
	rest := strings.TrimSpace(spec)
	if after, ok := strings.CutPrefix(rest, "after "); ok {
		n, tail, _ := strings.Cut(after, " ")
		skip, err := strconv.Atoi(n)
		if err != nil || skip < 0 {
			return nil, fmt.Errorf("parse %q: want a number after \"after\"", spec)
		}
		p.skip, rest = skip, strings.TrimSpace(tail)
	}
	if n, tail, ok := strings.Cut(rest, "*"); ok {
		times, err := strconv.Atoi(strings.TrimSpace(n))
		if err != nil || times < 1 {
			return nil, fmt.Errorf("parse %q: want a positive number before \"*\"", spec)
		}
		p.times, rest = times, strings.TrimSpace(tail)
	}
	kind, arg, _ := strings.Cut(strings.TrimSuffix(rest, ")"), "(")
	a, err := parseAction(kind, arg)
	if err != nil {
		return nil, fmt.Errorf("parse %q: %w", spec, err)
	}
	p.action = a
	return p, nil
}

func parseAction(kind, arg string) (action, error) {
	a := action{kind: kind}
	switch kind {
	case "kill":
		return a, nil
	case "sleep":
		wait, err := time.ParseDuration(arg)
		a.wait = wait
		return a, err
	case "exit":
		code, err := strconv.Atoi(arg)
		a.code = code
		return a, err
	case "error":
		switch arg {
		case "":
			a.err = ErrInjected
		case "ENOSPC":
			a.err = syscall.ENOSPC
		case "EIO":
			a.err = syscall.EIO
		default:
			return a, fmt.Errorf("unknown error %q", arg)
		}
		return a, nil
	}
	return a, fmt.Errorf("unknown action %q", kind)
}
