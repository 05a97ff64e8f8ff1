package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"yurt/internal/store"
	"yurt/internal/wire"
)

func isClosed(err error) bool { return errors.Is(err, store.ErrClosed) }

// Patch accepts a strategic merge patch of pods/status, as the kubelet sends it. pod is the pod in item form, as the cloud sent
// it; the patch applies to what clients see of it. The answer is the pod as they see it from now on, which is durable by then.
//
// The error is ErrConflict, ErrInvalid, or that of a store that does not work.
func (o *Overlay) Patch(ctx context.Context, enc wire.Encoding, pod, patch []byte) ([]byte, error) {
	return o.write(ctx, enc, pod, func(meta wire.Meta, base *corev1.PodStatus) (*corev1.PodStatus, error) {
		return mergeStatus(meta, base, patch)
	})
}

// Replace accepts an update (PUT) of pods/status: written is the pod in item form that the request has brought. Else it is as
// Patch.
func (o *Overlay) Replace(ctx context.Context, enc wire.Encoding, pod []byte, writtenEnc wire.Encoding, written []byte) ([]byte, error) {
	return o.write(ctx, enc, pod, func(meta wire.Meta, base *corev1.PodStatus) (*corev1.PodStatus, error) {
		to := &corev1.Pod{}
		decode := to.Unmarshal
		if writtenEnc != wire.Protobuf {
			decode = func(b []byte) error { return json.Unmarshal(b, to) }
		}
		if err := decode(written); err != nil {
			return nil, fmt.Errorf("%w: decode pod: %w", ErrInvalid, err)
		}
		return replaceStatus(meta, base, to)
	})
}

func (o *Overlay) write(ctx context.Context, enc wire.Encoding, pod []byte,
	apply func(wire.Meta, *corev1.PodStatus) (*corev1.PodStatus, error)) ([]byte, error) {
	item, err := wire.ParseItem(enc, pod)
	if err != nil {
		return nil, fmt.Errorf("read pod: %w", err)
	}
	key := Key{item.Namespace, item.Name}
	o.writing.Lock()
	defer o.writing.Unlock()
	seen, err := o.state.Load().applyPod(enc, key, pod)
	if err != nil {
		return nil, fmt.Errorf("lay status over pod %s: %w", key, err)
	}
	base, err := decodeStatus(enc, seen)
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", key, err)
	}
	status, err := apply(item.Meta, base)
	if err != nil {
		return nil, fmt.Errorf("write status of pod %s: %w", key, err)
	}
	e, err := newEntry(item.Meta, status)
	if err != nil {
		return nil, fmt.Errorf("write status of pod %s: %w", key, err)
	}
	now := time.Now()
	if err := o.save(ctx, key, e, func(before life, dark bool) life { return before.patched(dark, now) }); err != nil {
		return nil, fmt.Errorf("write status of pod %s: %w", key, err)
	}
	return spliceStatus(enc, pod, e.status)
}

func newEntry(meta wire.Meta, status *corev1.PodStatus) (*entry, error) {
	raw, err := status.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode pod status: %w", err)
	}
	return &entry{uid: meta.UID, known: version(meta), status: raw, facts: factsOf(status), when: time.Now()}, nil
}

// save makes e durable, then the overlay's, with the life that follows from what happened. The caller holds writing.
func (o *Overlay) save(ctx context.Context, key Key, e *entry, follow func(before life, dark bool) life) error {
	s := o.state.Load()
	if before := s.entries[key]; before != nil {
		e.life = before.life
		if before.uid == e.uid {
			e.known = max(e.known, before.known)
		}
	}
	e.life = follow(e.life, s.dark)
	if e.saved = e.volatile; !e.saved {
		var b store.Batch
		b.Put(o.table, store.Record{Key: key.String(), Identity: e.uid, Value: e.marshal()})
		var err error
		if e.saved, err = o.commit(ctx, &b); err != nil {
			return err
		}
	}
	o.change(func(t *transition) {
		// The link may have come or gone meanwhile.
		if before := t.entries[key]; before != nil {
			e.life, e.caughtUp = before.life, before.caughtUp
		} else {
			e.life = life{}
		}
		e.life = follow(e.life, t.dark)
		if e.version == 0 {
			e.caughtUp = nil // the cloud has not seen this status: nothing has caught up with it
		}
		t.show(key, e)
	})
	return nil
}

// Report takes the pod out of the API server's answer to a write of its status. The cloud has now what the kubelet knows,
// and pods that have no entry do not get one. What the entry shows in endpoints is from now on the reported status.
func (o *Overlay) Report(ctx context.Context, enc wire.Encoding, pod []byte) error {
	if len(o.state.Load().uids) == 0 {
		return nil
	}
	item, err := wire.ParseItem(enc, pod)
	if err != nil {
		return fmt.Errorf("read reported pod: %w", err)
	}
	key := Key{item.Namespace, item.Name}
	o.writing.Lock()
	defer o.writing.Unlock()
	before := o.state.Load().entries[key]
	if before == nil || before.state == Lifted || before.uid != item.UID {
		return nil
	}
	status, err := decodeStatus(enc, pod)
	if err != nil {
		return fmt.Errorf("read reported pod %s: %w", key, err)
	}
	e, err := newEntry(item.Meta, status)
	if err != nil {
		return fmt.Errorf("note report of pod %s: %w", key, err)
	}
	e.volatile = before.volatile
	now, at := time.Now(), version(item.Meta)
	err = o.save(ctx, key, e, func(before life, _ bool) life { return before.reported(at, now) })
	if err != nil {
		return fmt.Errorf("note report of pod %s: %w", key, err)
	}
	return nil
}

// Assume takes a pod as the cloud has it while the cloud is away. A pod that has an entry keeps it.
//
// Without it, a heal would take the pods of a node that was away for long out of its own Services: the cloud holds them for
// not ready then, until their kubelet says otherwise.
func (o *Overlay) Assume(enc wire.Encoding, key Key, pod []byte) error {
	item, err := wire.ParseItem(enc, pod)
	if err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	status, err := decodeStatus(enc, pod)
	if err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	assumed := &entry{life: life{state: Dark, assumed: true}, uid: item.UID, known: version(item.Meta), facts: factsOf(status), when: time.Now(), saved: true, volatile: true}
	o.change(func(t *transition) {
		switch e := t.entries[key]; {
		case !t.dark:
		case e == nil:
			t.entries[key] = assumed
		case e.state == Lifted && e.saved:
			assumed.seq = e.seq // watches that resume are still to be told
			t.entries[key] = assumed
		}
	})
	return nil
}

// Cut tells that the cloud is away.
func (o *Overlay) Cut() {
	o.change(func(t *transition) {
		t.dark = true
		t.each(func(l life) life { return l.cut() })
	})
}

// Heal tells that the cloud is back.
func (o *Overlay) Heal() {
	now := time.Now()
	o.change(func(t *transition) {
		t.dark = false
		t.each(func(l life) life { return l.heal(now) })
	})
}

// each gives every entry its next life, and shows those whose state changes. One that is only assumed looks the same before and
// after.
func (t *transition) each(next func(life) life) {
	for key, e := range t.entries {
		l := next(e.life)
		switch {
		case l.state == e.state:
		case l.onlyAssumed():
			t.entries[key] = e.with(l)
		default:
			t.show(key, e.with(l))
		}
	}
}

// See takes a pod as the cloud has it, or had it: each that a feed brings, and after a heal once each of Pods, for one whose
// status went and came back in the dark is not reported. A version older than the pod is known at tells nothing: a collection
// that nobody has followed for long may have it. What follows is a note: See never waits, and may be called from within a commit.
func (o *Overlay) See(enc wire.Encoding, key Key, pod []byte) error {
	e := o.state.Load().entries[key]
	if e == nil || e.state == Lifted {
		return nil
	}
	item, err := wire.ParseItem(enc, pod)
	if err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	at := version(item.Meta)
	if item.UID != e.uid {
		o.Gone(key, at)
		return nil
	}
	if e.state == Dark || at < e.known {
		return nil
	}
	status, err := decodeStatus(enc, pod)
	if err != nil {
		return fmt.Errorf("read pod %s: %w", key, err)
	}
	cloud, now := factsOf(status), time.Now()
	o.change(func(t *transition) {
		if e := t.entries[key]; e != nil && e.uid == item.UID {
			t.entries[key] = e.with(e.seen(cloud.equal(e.facts), now))
		}
	})
	return nil
}

// Gone tells that the cloud at a version does not have a pod, or has another of its name. Like See it never waits.
func (o *Overlay) Gone(key Key, at uint64) {
	now := time.Now()
	o.change(func(t *transition) {
		if e := t.entries[key]; e != nil && e.state != Lifted && at >= e.known {
			t.show(key, e.with(e.gone(now)))
		}
	})
}

// retry is how soon Lift wants to be called again after the store has not taken something.
const retry = 10 * time.Second

// Lift ends the entries whose time is over, and writes down what the store does not have yet: which entries have ended, and
// those that it once did not take. It is to be called after each change that clients see, and when it says so itself; next
// is zero if time alone brings nothing to do.
func (o *Overlay) Lift(ctx context.Context) (next time.Time, err error) {
	o.writing.Lock()
	defer o.writing.Unlock()
	forgotten := o.expire(time.Now())
	var b store.Batch
	unsaved := map[Key]State{}
	for key, e := range o.state.Load().entries {
		if !e.saved {
			b.Put(o.table, store.Record{Key: key.String(), Identity: e.uid, Value: e.marshal()})
			unsaved[key] = e.state
		}
		if due := e.due(); !due.IsZero() && (next.IsZero() || due.Before(next)) {
			next = due
		}
	}
	for _, key := range forgotten {
		b.Delete(o.table, key.String(), 0, nil)
	}
	if b.Len() == 0 {
		return next, nil
	}
	if err := o.store.Commit(ctx, &b); err != nil {
		return time.Now().Add(retry), fmt.Errorf("write down pod status: %w", err)
	}
	o.change(func(t *transition) {
		for key, state := range unsaved {
			// Since the commit an entry may have ended, which is another thing to write down.
			if e := *t.entries[key]; (e.state == Lifted) == (state == Lifted) {
				e.saved = true
				t.entries[key] = &e
			}
		}
	})
	return next, nil
}

// expire lets time pass for all entries, and returns those that are not even noted any more.
func (o *Overlay) expire(now time.Time) (forgotten []Key) {
	due := false
	for _, e := range o.state.Load().entries {
		_, forget := e.expire(now)
		due = due || forget || !e.due().IsZero() && !now.Before(e.due())
	}
	if !due {
		return nil
	}
	o.change(func(t *transition) {
		for key, e := range t.entries {
			l, forget := e.expire(now)
			switch {
			case forget:
				if !e.volatile {
					forgotten = append(forgotten, key)
				}
				delete(t.entries, key)
			case l.state != e.state:
				t.show(key, e.with(l))
			}
		}
	})
	return forgotten
}
