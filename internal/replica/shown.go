package replica

import (
	"hash/maphash"
	"time"

	"yurt/internal/filter"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// otherwise returns by their keys the objects of a view that show differently from
// how they are stored: nil for those that are left out. What the overlay shows is
// what the filters see.
func (c *Collection) otherwise(view *store.View, enc wire.Encoding, filters *filter.Chain) (map[string][]byte, error) {
	over := c.lens.over(view, enc)
	if filters == nil {
		return over, nil
	}
	shown := make(map[string][]byte, len(over))
	for record, err := range view.Records("") {
		if err != nil {
			c.distrust(err)
			return nil, err
		}
		value, changed := over[record.Key]
		if !changed {
			value = record.Value
		}
		namespace, name := splitKey(record.Key)
		value, filtered := filters.Apply(enc, namespace, name, value)
		if changed || filtered {
			shown[record.Key] = value
		}
	}
	return shown, nil
}

// filtered is what filters have done to what the client of one stream has seen.
type filtered struct {
	chain *filter.Chain
	// shown has a hash of what was shown of each object that was changed, and 0 for
	// one that was left out.
	shown map[string]uint64
	seed  maphash.Seed
	seen  uint64 // stands for the objects on which the filters depend
}

func (s *Set) newFiltered(chain *filter.Chain) filtered {
	if chain == nil {
		return filtered{}
	}
	f := filtered{chain: chain, shown: map[string]uint64{}, seed: maphash.MakeSeed()}
	if chain.Depends() {
		f.seen = s.dependencies()
	}
	return f
}

// note remembers how an object is shown, and tells whether the client has it so
// already, and whether it was left out before.
func (f *filtered) note(key string, value []byte, changed bool) (same, was bool) {
	if f.chain == nil {
		return false, false
	}
	before, noted := f.shown[key]
	now := uint64(0)
	if value != nil {
		now = max(1, maphash.Bytes(f.seed, value))
	}
	if changed {
		f.shown[key] = now
	} else {
		delete(f.shown, key)
	}
	return noted == changed && before == now || !noted && !changed, noted && before == 0
}

// eventOf returns what an event is for a client that sees through filters. An
// object that is left out from now on is deleted, one that no longer is is added.
// One of which it is not known what the client has of it, as after a stream that
// was broken, is deleted once too often rather than too rarely.
func (f *filtered) eventOf(typ wire.EventType, enc wire.Encoding, key string, item []byte) (wire.EventType, []byte) {
	if f.chain == nil {
		return typ, item
	}
	namespace, name := splitKey(key)
	value, changed := f.chain.Apply(enc, namespace, name, item)
	if typ == wire.Deleted {
		before, noted := f.shown[key]
		delete(f.shown, key)
		if noted && before == 0 {
			return typ, nil
		}
		if value == nil {
			value = item
		}
		return typ, value
	}
	_, wasOut := f.note(key, value, changed)
	switch {
	case value != nil && wasOut:
		return wire.Added, value
	case value != nil:
		return typ, value
	case wasOut || typ == wire.Added:
		return typ, nil
	}
	return wire.Deleted, item
}

// dependence is how often a stream looks whether what its filters go by has
// changed: a Service's annotation, a node's label.
const dependence = time.Second

// due tells when a stream has to look again; never, if nothing else matters to it.
func (f *filtered) due() <-chan time.Time {
	if !f.chain.Depends() {
		return nil
	}
	return time.After(dependence)
}

// filterAgain sends the objects that the filters show differently, though they are
// the same: what the filters go by has changed.
func (s *stream) filterAgain() (any bool, err error) {
	if !s.filtered.chain.Depends() {
		return false, nil
	}
	now := s.c.set.dependencies()
	if now == s.filtered.seen {
		return false, nil
	}
	s.filtered.seen = now
	view := s.c.table.View()
	defer view.Release()
	if s.cursor.Revision() > view.Revision() {
		return false, nil // what the client knows is newer
	}
	for record, err := range view.Records("") {
		if err != nil {
			s.c.distrust(err)
			return any, err
		}
		if record.Revision > s.cursor.Revision() {
			continue // its event is still to come
		}
		item := s.c.lens.show(s.m.Encoding, record.Key, record.Value)
		namespace, name := splitKey(record.Key)
		value, changed := s.filtered.chain.Apply(s.m.Encoding, namespace, name, item)
		same, wasOut := s.filtered.note(record.Key, value, changed)
		if same {
			continue
		}
		any = true
		typ := wire.Modified
		switch {
		case value == nil:
			typ, value = wire.Deleted, item
		case wasOut:
			typ = wire.Added
		}
		if err := s.event(typ, value); err != nil {
			return any, err
		}
	}
	return any, nil
}

// dependencies stands for all that filters go by: it changes when one of that does.
func (s *Set) dependencies() uint64 {
	var sum uint64
	for _, resource := range []string{"services", "nodes"} {
		for _, c := range s.whole(request.Resource{Version: "v1", Resource: resource}) {
			sum += c.Revision()
		}
	}
	return sum
}
