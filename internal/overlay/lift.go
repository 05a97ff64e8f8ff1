package overlay

import (
	"fmt"
	"time"
)

// State is where an entry is on its way from the kubelet's word, given in the dark, back to the cloud's.
type State uint8

const (
	// Dark: the cloud is away, or the link not known yet. The entry shows in its pod and in endpoints.
	Dark State = iota + 1
	// Healed: the cloud is back and does not know the status yet. Pods show as the cloud has them, which makes the kubelet
	// report; endpoints still show the entry.
	Healed
	// Reported: the API server has the kubelet's status. Endpoints show the entry until the slice has it too.
	Reported
	// Lifted: nothing shows the entry any more. It stays for a while as a note for watches that resume.
	Lifted
)

func (s State) String() string {
	switch s {
	case Dark:
		return "dark"
	case Healed:
		return "healed"
	case Reported:
		return "reported"
	case Lifted:
		return "lifted"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

const (
	// settle is how long the cloud's controllers have to bring what the kubelet reported into the slices.
	settle = 60 * time.Second
	// speak is how long the kubelet has to report what it wrote in the dark: it does so for one pod after the other, over a
	// link that may be slow. It never does if it is stopped, if the API server refuses the status, or if it finds that the
	// cloud has it.
	speak = 5 * time.Minute
	// correct is how long the kubelet has to tell the cloud that a pod is still as it was. It compares every ten seconds,
	// once the feed of its pods has brought the verdict, and then needs two round trips for each pod.
	correct = 60 * time.Second
	// remember is how long a lifted entry is noted: longer than any watch lasts, so that one which resumes is told.
	remember = 2 * time.Hour
)

// life is what decides whether an entry shows. Its methods return the life that follows from an event; none has other effects.
type life struct {
	state State
	// assumed: the cloud knew all this when the link went. In endpoints the entry holds off what the cloud concludes from the
	// silence since then: that all pods of the node are not ready.
	assumed bool
	// version is the pod's resourceVersion in the answer to the kubelet's report: from there on the cloud knows. It is 0
	// before a report, and when a report was only concluded from the pod being as the kubelet had it.
	version uint64
	since   time.Time // when the state began, but for Dark
}

// onlyAssumed: nothing of the entry is the kubelet's word. It is what the node's replica had at the cut.
func (l life) onlyAssumed() bool { return l.assumed && l.version == 0 }

// patched follows a status write that the cloud has not seen.
func (l life) patched(dark bool, now time.Time) life {
	if dark {
		return life{state: Dark}
	}
	return life{state: Healed, since: now}
}

// cut follows the loss of the link. The cloud will judge the silence: what it had been told is an assumption from here on.
func (l life) cut() life {
	switch l.state {
	case Lifted:
		return l
	case Reported:
		return life{state: Dark, assumed: true, version: l.version}
	}
	return life{state: Dark, assumed: l.assumed, version: l.version}
}

// heal follows the return of the link. Of what is assumed the kubelet reports again what the cloud has come to see differently.
func (l life) heal(now time.Time) life {
	switch {
	case l.state != Dark:
		return l
	case l.assumed:
		return life{state: Healed, assumed: true, version: l.version, since: now}
	case l.version > 0:
		return life{state: Reported, version: l.version, since: now}
	}
	return life{state: Healed, since: now}
}

// reported follows a status write that the API server answered with the pod at this version.
func (l life) reported(version uint64, now time.Time) life {
	switch l.state {
	case Dark:
		return life{state: Dark, version: version}
	case Lifted:
		return l
	}
	return life{state: Reported, version: version, since: now}
}

// seen follows a look at the cloud's pod, which has what the entry has, or has not. A kubelet whose status the cloud has never
// lost (it went and came back in the dark) does not report.
func (l life) seen(same bool, now time.Time) life {
	switch {
	case l.state == Healed && same:
		return life{state: Reported, since: now, assumed: l.assumed}
	case l.state == Reported && l.version == 0 && !same: // what was seen was the past
		return life{state: Healed, since: now, assumed: l.assumed}
	}
	return l
}

// gone follows the end of the pod, or its replacement by another.
func (l life) gone(now time.Time) life {
	if l.state == Lifted {
		return l
	}
	return life{state: Lifted, since: now}
}

// due returns when time alone ends the state: zero for never.
func (l life) due() time.Time {
	switch {
	case l.state == Reported:
		return l.since.Add(settle)
	case l.state == Lifted:
		return l.since.Add(remember)
	case l.state == Healed && l.assumed:
		return l.since.Add(correct)
	case l.state == Healed:
		return l.since.Add(speak)
	}
	return time.Time{}
}

// expire follows the passing of time. forget: the entry is no longer needed even as a note.
func (l life) expire(now time.Time) (next life, forget bool) {
	due := l.due()
	switch {
	case due.IsZero() || now.Before(due):
		return l, false
	case l.state == Lifted:
		return l, true
	}
	return l.gone(now), false
}

// overPod reports whether the entry shows in its pod, of which the cloud's word is at this version.
func (l life) overPod(version uint64) bool {
	if l.version > 0 {
		return l.state == Dark && version < l.version
	}
	return l.state == Dark && !l.assumed
}

// overEndpoint reports whether the entry shows in endpoints at all.
func (l life) overEndpoint() bool { return l.state != Lifted }

// proves reports whether an endpoint that carries what the entry has, in a slice of this version, is proof that the cloud
// has caught up. An older slice may only look the same, and change for the worse before it gets better.
func (l life) proves(slice uint64) bool {
	return l.state == Reported && l.version > 0 && slice > l.version
}
