package validate

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yurt/test/faults/history"
)

const path = "/api/v1/configmaps"

func object(name string, version uint64) history.Object {
	return history.Object{Name: name, Version: version, Digest: history.Digest(version)}
}

func change(typ, name string, version uint64) history.Change {
	return history.Change{Type: typ, Object: object(name, version)}
}

// sound is a history in which nothing is wrong: a life with a cloud, one without, and one in which all is told.
func sound() history.History {
	return history.History{
		Truth: map[string][]history.Change{path: {change("ADDED", "a", 1), change("ADDED", "b", 2), change("MODIFIED", "a", 4), change("DELETED", "b", 6)}},
		Lives: []history.Life{{Began: 1}, {Began: 10, Dark: true}, {Began: 20, Drained: []int{25}}, {Began: 30}},
		Reads: []history.Read{
			{At: 2, Life: 0, Client: "c", Collection: path, Code: 200, Revision: 3, Objects: []history.Object{object("a", 1), object("b", 2)}},
			{At: 11, Life: 1, Client: "c", Collection: path, Dark: true, Code: 200, Revision: 5, Objects: []history.Object{object("a", 4), object("b", 2)}},
		},
		Watches: []*history.Watch{{
			Life: 0, Client: "c", Collection: path, From: 3, Code: 200,
			Changes: []history.Told{{At: 3, Change: change("MODIFIED", "a", 4)}, {At: 4, Change: history.Change{Type: "BOOKMARK", Object: history.Object{Version: 5}}}},
		}},
		Notes:    []history.Note{{At: 12, Name: "n"}},
		Receipts: []history.Receipt{{At: 21, Life: 2, Name: "n", Code: 201}},
	}
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		name string
		spot func(h *history.History)
		want []error
	}{
		{"nothing wrong", func(*history.History) {}, nil},
		{"an older list after a cut", func(h *history.History) {
			h.Reads[1].Revision, h.Reads[1].Objects, h.Reads[1].Client = 3, h.Reads[0].Objects, "other"
		}, []error{ErrLost}},
		{"an older list for the same client", func(h *history.History) {
			r := h.Reads[0]
			r.At, r.Revision, r.Objects = 5, 1, r.Objects[:1]
			h.Reads = append(h.Reads, r)
		}, []error{ErrBack}},
		{"no list in the dark", func(h *history.History) { h.Reads[1].Code = 503 }, []error{ErrUnavailable}},
		{"a list that breaks off", func(h *history.History) { h.Reads[1].Code = 0 }, []error{ErrUnavailable}},
		{"no list while the cloud is there", func(h *history.History) { h.Reads[1].Code, h.Reads[1].Dark = 504, false }, nil},
		{"an object is missing", func(h *history.History) { h.Reads[1].Objects = h.Reads[1].Objects[:1] }, []error{ErrPartial}},
		{"an object too many", func(h *history.History) { h.Reads[1].Objects = append(h.Reads[1].Objects, object("c", 3)) }, []error{ErrPartial}},
		{"an older object", func(h *history.History) { h.Reads[1].Objects[0] = object("a", 1) }, []error{ErrPartial}},
		{"another content", func(h *history.History) { h.Reads[1].Objects[0].Digest++ }, []error{ErrPartial}},
		{"an event twice", func(h *history.History) {
			w := h.Watches[0]
			w.Changes = append(w.Changes[:1:1], w.Changes...)
		}, []error{ErrGap}},
		{"a bookmark that leads past an event", func(h *history.History) { h.Watches[0].Changes = h.Watches[0].Changes[1:] }, []error{ErrGap}},
		{"a gap", func(h *history.History) {
			h.Watches[0].Changes[0].Change = change("DELETED", "b", 6)
			h.Reads = h.Reads[:1]
		}, []error{ErrGap}},
		{"a gap that the API server has forgotten", func(h *history.History) {
			h.Watches[0].Changes[0].Change = change("DELETED", "b", 6)
			h.Floors = []history.Floor{{Life: 0, Version: 5}}
			h.Watches[0].Changes = h.Watches[0].Changes[:1]
			h.Reads = h.Reads[:1]
		}, nil},
		{"an event that nobody tells", func(h *history.History) { h.Receipts = nil }, []error{ErrNoteLost}},
		{"an event that nobody could tell yet", func(h *history.History) { h.Receipts, h.Lives[2].Drained = nil, nil }, nil},
		{"an event told again in the same life", func(h *history.History) {
			h.Receipts = append(h.Receipts, history.Receipt{At: 22, Life: 2, Name: "n", Code: 409})
		}, []error{ErrNoteTwice}},
		{"an event told again after the end", func(h *history.History) {
			h.Receipts = append(h.Receipts, history.Receipt{At: 31, Life: 3, Name: "n", Code: 409})
		}, []error{ErrNoteTwice}},
		{"an event told again after a cut", func(h *history.History) {
			h.Lives[2].Drained = nil
			h.Receipts = append(h.Receipts, history.Receipt{At: 31, Life: 3, Name: "n", Code: 409})
		}, nil},
		{"a hub that does not start", func(h *history.History) { h.Lives[1].Started = errors.New("panic") }, []error{ErrStart}},
		{"a secret in clear", func(h *history.History) { h.Lives[1].Clear = []string{"store/1.seg"} }, []error{ErrClear}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := sound()
			tc.spot(&h)
			var got []error
			violations, checked := All(h)
			for _, v := range violations {
				got = append(got, v.Guarantee)
			}
			if diff := cmp.Diff(tc.want, got, cmp.Comparer(func(a, b error) bool { return errors.Is(a, b) })); diff != "" || checked == 0 {
				t.Errorf("%d checked, violated (-want +got):\n%s%v", checked, diff, violations)
			}
		})
	}
}
