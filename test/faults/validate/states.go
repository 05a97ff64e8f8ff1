package validate

import (
	"fmt"
	"slices"

	"yurt/test/faults/history"
)

// snapshotEvery spaces the states that are kept of a truth.
const snapshotEvery = 256

// states finds the state of a collection at any version without replaying all of its truth.
type states struct {
	truth     []history.Change
	snapshots []history.State // before truth[i*snapshotEvery]
}

func newStates(truth []history.Change) *states {
	s := &states{truth: truth}
	state := history.State{}
	for i, change := range truth {
		if i%snapshotEvery == 0 {
			s.snapshots = append(s.snapshots, state.Clone())
		}
		state.Apply(change)
	}
	return s
}

func (s *states) at(version uint64) history.State {
	end, found := slices.BinarySearchFunc(s.truth, version, func(c history.Change, v uint64) int { return int(int64(c.Version) - int64(v)) })
	if found {
		end++
	}
	if len(s.snapshots) == 0 {
		return history.State{}
	}
	from := min(end/snapshotEvery, len(s.snapshots)-1)
	state := s.snapshots[from].Clone()
	for _, change := range s.truth[from*snapshotEvery : end] {
		state.Apply(change)
	}
	return state
}

// differs says how a list at a version differs from the truth; "" if it does not.
func (s *states) differs(version uint64, objects []history.Object) string {
	if s == nil {
		return "there is no such collection"
	}
	want := s.at(version)
	for _, o := range objects {
		if want[o.Name] != o {
			return fmt.Sprintf("it has %v, want %v", o, want[o.Name])
		}
		delete(want, o.Name)
	}
	for _, missing := range want.Sorted() {
		return fmt.Sprintf("it lacks %v", missing)
	}
	return ""
}
