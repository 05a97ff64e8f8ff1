package validate

import (
	"slices"

	"yurt/test/faults/history"
)

// watches checks what each watch brought against the truth behind the version that it began at.
func (c *checker) watches() {
	for _, w := range c.h.Watches {
		follow := &follower{checker: c, watch: w, truth: c.h.Truth[w.Collection.Path()], last: w.From}
		for _, floor := range c.h.Floors {
			if floor.Life <= w.Life {
				follow.forgotten = max(follow.forgotten, floor.Version)
			}
		}
		follow.next, _ = slices.BinarySearchFunc(follow.truth, w.From+1, func(t history.Change, v uint64) int { return int(int64(t.Version) - int64(v)) })
		for _, told := range w.Changes {
			c.checked++
			if !follow.accept(told.Change) {
				break
			}
		}
	}
}

// follower goes through a watch and the truth side by side.
//
// Where the API server has forgotten its changes the hub can list only, and tell the difference: then each object is told
// at most once, and the versions between are nobody's any more.
type follower struct {
	*checker
	watch     *history.Watch
	truth     []history.Change
	next      int           // in truth
	last      uint64        // that was told
	forgotten uint64        // up to here, by the API server
	jumped    history.State // what the client knows, once a list took the place of changes
}

func (f *follower) accept(told history.Change) bool {
	if f.jumped == nil {
		if told.Type == "BOOKMARK" && f.due() > told.Version {
			return true
		}
		if told.Type != "BOOKMARK" && f.next < len(f.truth) && f.truth[f.next] == told {
			f.next++
			f.last = told.Version
			return true
		}
		if f.watch.From >= f.forgotten {
			return f.violated(told)
		}
		f.jumped = f.states[f.watch.Collection.Path()].at(f.last)
	}
	return f.acceptDifference(told)
}

// due is the version that the next change must have.
func (f *follower) due() uint64 {
	if f.next < len(f.truth) {
		return f.truth[f.next].Version
	}
	return ^uint64(0)
}

func (f *follower) acceptDifference(told history.Change) bool {
	switch told.Type {
	case "BOOKMARK":
		if f.states[f.watch.Collection.Path()].differs(told.Version, f.jumped.Sorted()) != "" {
			return f.violated(told)
		}
		return true
	case "DELETED":
		if _, ok := f.jumped[told.Name]; !ok {
			return f.violated(told)
		}
	default:
		real := slices.ContainsFunc(f.truth, func(t history.Change) bool { return t.Type != "DELETED" && t.Object == told.Object })
		if !real || f.jumped[told.Name].Version >= told.Version {
			return f.violated(told)
		}
	}
	f.jumped.Apply(told)
	return true
}

func (f *follower) violated(told history.Change) bool {
	var want any = "nothing"
	if f.next < len(f.truth) && f.jumped == nil {
		want = f.truth[f.next]
	}
	f.report(ErrGap, f.watch.Life, "a watch of %s by %s from %d brought %v, want %v", f.watch.Collection, f.watch.Client, f.watch.From, told, want)
	return false
}
