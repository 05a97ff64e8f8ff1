package upstream

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestPick tells by script which server is asked.
func TestPick(t *testing.T) {
	t.Parallel()
	var servers []candidate
	last := 0
	datadriven.RunTest(t, "testdata/pick", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "servers":
			var count int
			d.ScanArgs(t, "count", &count)
			servers = slices.Repeat([]candidate{{usable: true}}, count)
		case "answers":
			var at int
			d.ScanArgs(t, "server", &at)
			for word := range strings.FieldsSeq(d.Input) {
				servers[at] = servers[at].after(t, word)
			}
		case "pick":
			var name string
			var times int
			d.ScanArgs(t, "mode", &name)
			d.ScanArgs(t, "times", &times)
			mode, err := ParseMode(name)
			if err != nil {
				t.Fatal(err)
			}
			var picked []string
			for range times {
				at, ok := pick(mode, servers, last)
				if !ok {
					return "none\n"
				}
				last = at
				picked = append(picked, fmt.Sprint(at))
			}
			return strings.Join(picked, " ") + "\n"
		default:
			t.Fatalf("no command %s", d.Cmd)
		}
		return ""
	})
}

func (c candidate) after(t *testing.T, word string) candidate {
	t.Helper()
	name, value, _ := strings.Cut(word, "=")
	switch name {
	case "ok":
		c.score = c.score.answered(false)
	case "fault":
		c.score = c.score.answered(true)
	case "probe":
		took, err := time.ParseDuration(value)
		if err != nil {
			t.Fatal(err)
		}
		c.score = c.score.probed(took)
	case "away", "back":
		c.usable = name == "back"
	default:
		t.Fatalf("no answer %s", word)
	}
	return c
}

func TestMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []Mode{RoundRobin, Priority} {
		if got, err := ParseMode(mode.String()); err != nil || got != mode {
			t.Errorf("ParseMode(%q) is %v, %v", mode.String(), got, err)
		}
	}
	if _, err := ParseMode("random"); err == nil {
		t.Error("there is no mode random")
	}
}
