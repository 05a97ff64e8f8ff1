package services

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"yurt/internal/playground/cluster"
)

// attempt is one try of a probe.
type attempt struct {
	at      time.Time // it began
	verdict string    // ok, unresolved or failed
	address string
	answer  string
}

func (a attempt) ok() bool { return a.verdict == "ok" }

// by is the server that answered.
func (a attempt) by() string {
	name, _, _ := strings.Cut(a.answer, " ")
	return name
}

// probe is the log of the probe of one Service on one node.
type probe struct {
	node    *cluster.Node
	service string
}

// probes are some that have to agree.
type probes []probe

// own returns the probes of a node's own Service: of its address and of its
// pods' names.
func own(n *cluster.Node) probes {
	service := web(n.Config.Name)
	return probes{{n, service}, {n, service + "-each"}}
}

func (p probe) String() string { return p.service + " on " + p.node.Config.Name }

// since returns the attempts that began at a time or after it, in their order.
func (p probe) since(from time.Time) ([]attempt, error) {
	f, err := os.Open(p.node.Path(logs + "/" + p.service))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []attempt
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		a, err := parseAttempt(lines.Text())
		if err != nil {
			continue // a power cut may leave half a line
		}
		if !a.at.Before(from) {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b attempt) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	return found, lines.Err()
}

func parseAttempt(line string) (attempt, error) {
	f := strings.SplitN(line, " ", 4)
	if len(f) != 4 {
		return attempt{}, errors.New("not an attempt")
	}
	at, err := time.Parse(time.RFC3339, f[0])
	if err != nil {
		return attempt{}, err
	}
	answer, err := strconv.Unquote(f[3])
	return attempt{at: at, verdict: f[1], address: f[2], answer: answer}, err
}

// failures returns what did not succeed between two times, and how many
// attempts there were.
func (p probe) failures(t *testing.T, from, to time.Time) (failed []attempt, of int) {
	t.Helper()
	all, err := p.since(from)
	must(t, err)
	for _, a := range all {
		if a.at.After(to) {
			break
		}
		of++
		if !a.ok() {
			failed = append(failed, a)
		}
	}
	return failed, of
}

// neverFail asserts that no attempt failed between two times, and that there
// were enough to notice.
func (ps probes) neverFail(t *testing.T, what string, from, to time.Time) {
	t.Helper()
	for _, p := range ps {
		failed, of := p.failures(t, from, to)
		t.Logf("%s, %s: %d of %d attempts failed in %v", p, what, len(failed), of, to.Sub(from).Round(time.Second))
		if want := int(to.Sub(from)/time.Second) * 5; of < want {
			t.Errorf("%s, %s: %d attempts in %v are too few to tell", p, what, of, to.Sub(from))
		}
		for _, a := range failed[:min(3, len(failed))] {
			t.Errorf("%s, %s: %s from %s, at %s: %s", p, what, a.verdict, a.address, a.at.Format("15:04:05.000"), a.answer)
		}
	}
}

// quiet is for how long all must be well to count as well.
const quiet = 3 * time.Second

// settle waits until the newest attempts are all answered, by these servers and
// no others if any are named.
func (ps probes) settle(t *testing.T, what string, within time.Duration, by ...string) {
	t.Helper()
	await(t, what, within, func(context.Context) error {
		since := time.Now().Add(-quiet - time.Second) // an attempt is written down within a second
		for _, p := range ps {
			if err := p.answered(since, by); err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
		return nil
	})
}

func (p probe) answered(since time.Time, by []string) error {
	all, err := p.since(since)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, a := range all {
		switch {
		case !a.ok():
			return fmt.Errorf("at %s: %s: %s", a.at.Format("15:04:05.000"), a.verdict, a.answer)
		case len(by) > 0 && !slices.Contains(by, a.by()):
			return fmt.Errorf("at %s: answered by %s", a.at.Format("15:04:05.000"), a.by())
		}
		seen[a.by()] = true
	}
	if len(all) < int(quiet/time.Second)*5 || len(seen) < len(by) {
		return fmt.Errorf("%d attempts, answered by %v", len(all), seen)
	}
	return nil
}

// first returns the first success from a time on.
func (p probe) first(from time.Time) (attempt, error) {
	all, err := p.since(from)
	if err != nil {
		return attempt{}, err
	}
	i := slices.IndexFunc(all, attempt.ok)
	if i < 0 {
		return attempt{}, fmt.Errorf("%s: none of %d attempts since %s succeeded", p, len(all), from.Format("15:04:05"))
	}
	return all[i], nil
}
