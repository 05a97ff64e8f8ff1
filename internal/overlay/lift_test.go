package overlay

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestLift runs testdata/lift/*.txt: the life of one entry. Each line is an event, at a number of seconds.
func TestLift(t *testing.T) {
	datadriven.Walk(t, "testdata/lift", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			var l life
			for line := range strings.Lines(d.Input) {
				var forget bool
				l, forget = step(t, l, strings.Fields(line))
				fmt.Fprintf(&out, "%-20s %s\n", strings.TrimSpace(line), describe(l, forget))
			}
			return out.String()
		})
	})
}

func step(t *testing.T, l life, words []string) (next life, forget bool) {
	t.Helper()
	seconds, err := strconv.Atoi(strings.TrimSuffix(words[0], "s"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0).Add(time.Duration(seconds) * time.Second)
	switch words[1] {
	case "patched":
		return l.patched(words[2] == "dark", now), false
	case "assumed":
		return life{state: Dark, assumed: true}, false
	case "cut":
		return l.cut(), false
	case "heal":
		return l.heal(now), false
	case "reported":
		v, err := strconv.ParseUint(words[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return l.reported(v, now), false
	case "seen":
		return l.seen(words[2] == "same", now), false
	case "gone":
		return l.gone(now), false
	case "wait":
		return l.expire(now)
	}
	t.Fatalf("unknown event %q", words[1])
	return l, false
}

func describe(l life, forget bool) string {
	if forget {
		return "forgotten"
	}
	pods := "pod: the cloud's"
	switch {
	case l.overPod(1 << 40):
		pods = "pod: the node's"
	case l.overPod(0):
		pods = fmt.Sprintf("pod: the node's below version %d", l.version)
	}
	endpoints := "endpoints: the cloud's"
	switch {
	case l.proves(1 << 40):
		endpoints = fmt.Sprintf("endpoints: the node's until a slice above version %d has it", l.version)
	case l.overEndpoint():
		endpoints = "endpoints: the node's"
	}
	s := fmt.Sprintf("%-8s  %s, %s", l.state, pods, endpoints)
	if due := l.due(); !due.IsZero() {
		s += fmt.Sprintf(", until %ds", due.Unix())
	}
	return s
}
