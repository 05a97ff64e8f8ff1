package overlay

import (
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"

	"yurt/internal/splice"
)

// entry is what is known of one pod. It never changes: each change makes another.
type entry struct {
	life
	uid    string
	known  uint64 // the newest version at which the pod is known to have had this uid; what is older tells nothing of it
	status []byte // a PodStatus in protobuf; nil once lifted
	facts  facts
	when   time.Time // of the newest status write
	// caughtUp has, for each object that names the pod, the version from which on it is shown as the cloud has it.
	caughtUp map[object]uint64

	seq      uint64 // the change of the overlay that made it what clients see
	saved    bool   // the store has it like this
	volatile bool   // it is not for the store: nothing of it has been promised to anybody
}

// object is an EndpointSlice or Endpoints.
type object struct {
	kind Kind
	Key
}

// Field numbers of a stored entry, a protobuf message.
const (
	entryUID = iota + 1
	entryStatus
	entryWhen    // nanoseconds since 1970
	entryVersion // of the pod in the answer to the kubelet's report
	entryLifted
	entryKnown
)

func (e *entry) marshal() []byte {
	var b []byte
	b = protowire.AppendString(protowire.AppendTag(b, entryUID, protowire.BytesType), e.uid)
	b = protowire.AppendBytes(protowire.AppendTag(b, entryStatus, protowire.BytesType), e.status)
	b = protowire.AppendVarint(protowire.AppendTag(b, entryWhen, protowire.VarintType), uint64(e.when.UnixNano()))
	b = protowire.AppendVarint(protowire.AppendTag(b, entryVersion, protowire.VarintType), e.version)
	lifted := protowire.EncodeBool(e.state == Lifted)
	b = protowire.AppendVarint(protowire.AppendTag(b, entryLifted, protowire.VarintType), lifted)
	return protowire.AppendVarint(protowire.AppendTag(b, entryKnown, protowire.VarintType), e.known)
}

// unmarshalEntry reads a stored entry. Whether there is a link is not known when a store is opened: what is not lifted is dark.
func unmarshalEntry(b []byte, now time.Time) (*entry, error) {
	e := &entry{life: life{state: Dark}, saved: true}
	for len(b) > 0 {
		f, rest, err := splice.NextField(b)
		if err != nil {
			return nil, err
		}
		b = rest
		var number uint64
		if f.Type == protowire.VarintType {
			number, _ = protowire.ConsumeVarint(f.Value)
		}
		switch f.Number {
		case entryUID:
			e.uid = string(f.Value)
		case entryStatus:
			e.status = append([]byte(nil), f.Value...)
		case entryWhen:
			e.when = time.Unix(0, int64(number))
		case entryVersion:
			e.version, e.assumed = number, number > 0
		case entryKnown:
			e.known = number
		case entryLifted:
			if protowire.DecodeBool(number) {
				e.life = life{state: Lifted, since: now}
			}
		}
	}
	if e.state == Lifted {
		return e, nil
	}
	return e, e.digest()
}

// digest derives the facts from the status.
func (e *entry) digest() error {
	status := &corev1.PodStatus{}
	if err := status.Unmarshal(e.status); err != nil {
		return fmt.Errorf("decode pod status: %w", err)
	}
	e.facts = factsOf(status)
	return nil
}

// with returns the entry with another life. A lifted one has nothing left but the note that it was there. In the dark no object
// has caught up: what the cloud makes of the silence is newer than what it had understood before.
func (e *entry) with(l life) *entry {
	next := *e
	next.life = l
	switch {
	case l.state == Lifted && e.state != Lifted:
		next.status, next.facts, next.caughtUp, next.saved = nil, facts{}, nil, e.volatile
	case l.state == Dark:
		next.caughtUp = nil
	}
	return &next
}

// withMark returns the entry with the note that an object has caught up.
func (e *entry) withMark(o object, version uint64) *entry {
	next := *e
	next.caughtUp = maps.Clone(e.caughtUp)
	if next.caughtUp == nil {
		next.caughtUp = map[object]uint64{}
	}
	next.caughtUp[o] = version
	return &next
}
