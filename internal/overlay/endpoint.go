package overlay

import (
	"slices"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"yurt/internal/splice"
	"yurt/internal/wire"
)

// Kind is what of an object the overlay may show in.
type Kind uint8

const (
	None Kind = iota // nothing
	Pods
	EndpointSlices // of discovery.k8s.io/v1
	Endpoints      // the older kind that kube-proxy no longer reads
)

// KindOf returns the kind of objects of a resource. A collection of PartialObjectMetadata shows nothing, whatever its
// resource is.
func KindOf(group, version, resource string) Kind {
	switch {
	case group == "" && version == "v1" && resource == "pods":
		return Pods
	case group == "discovery.k8s.io" && version == "v1" && resource == "endpointslices":
		return EndpointSlices
	case group == "" && version == "v1" && resource == "endpoints":
		return Endpoints
	}
	return None
}

// target is the pod that an endpoint leads to.
type target struct {
	Key
	uid string
}

// target reads an object reference. ok is false if it leads to something else than a pod.
func (c *codec) target(reference []byte) (t target, ok bool) {
	if reference == nil {
		return t, false
	}
	var r corev1.ObjectReference
	c.Keep(c.Read(reference, &r))
	return target{Key{r.Namespace, r.Name}, string(r.UID)}, r.Kind == "Pod" && r.UID != ""
}

// look is what a function that shows endpoints wants to know of the overlay.
type look struct {
	// uid reports whether a pod with this uid may show.
	uid func([]byte) bool
	// pod returns what is known of an endpoint's pod, if that shows in this object.
	pod func(target) (facts, bool)
	// publishes reports whether the Service that the object belongs to wants addresses of pods that are not ready. known is
	// false if nobody can tell.
	publishes func() (publishes, known bool)
}

// lookUp returns the pod of an endpoint and what is known of it.
func (c *codec) lookUp(endpoint []byte, l look, reference splice.Field) (t target, f facts, ok bool) {
	if !c.Mentions(endpoint, l.uid, reference, refUID) {
		return t, f, false
	}
	if t, ok = c.target(c.One(endpoint, reference)); ok {
		f, ok = l.pod(t)
	}
	return t, f, ok
}

// shown is an object with the overlay laid over it.
type shown struct {
	item    []byte   // the very bytes that came, if changed is empty
	changed []target // pods whose endpoints had to be changed
	same    []target // pods whose endpoints are as the overlay would make them
}

// endpoint is the part of an endpoint that the overlay decides.
type endpoint struct {
	addresses                   []string
	ready, serving, terminating bool
}

func (c *codec) endpoint(raw []byte) endpoint {
	var e endpoint
	for _, value := range c.Many(raw, endpointAddresses) {
		var address string
		c.Keep(c.Read(value, &address))
		e.addresses = append(e.addresses, address)
	}
	var conditions discoveryv1.EndpointConditions
	if value := c.One(raw, endpointConditions); value != nil {
		c.Keep(c.Read(value, &conditions))
	}
	e.ready = ptr.Deref(conditions.Ready, true)
	e.serving = ptr.Deref(conditions.Serving, e.ready)
	e.terminating = ptr.Deref(conditions.Terminating, false)
	return e
}

// withEndpoint returns an endpoint with these addresses and this readiness. terminating is the cloud's: in the dark nobody
// can delete a pod.
func (c *codec) withEndpoint(raw []byte, e endpoint) []byte {
	addresses := make([][]byte, len(e.addresses))
	for i, address := range e.addresses {
		addresses[i] = c.Write(address)
	}
	conditions := c.One(raw, endpointConditions)
	conditions = c.With(conditions, conditionReady, c.Write(e.ready))
	conditions = c.With(conditions, conditionServing, c.Write(e.serving))
	raw = c.With(raw, endpointAddresses, addresses...)
	return c.With(raw, endpointConditions, conditions)
}

// family returns the addresses that belong into a slice of an address type.
func (f facts) family(addressType string) []string {
	if addressType == "IPv6" {
		return f.ipv6
	}
	return f.ipv4
}

// want returns the endpoint that the cloud's controller would make of a pod with these facts. ok is false where it would make
// none: of a pod that has ended, or has no address.
func (f facts) want(have endpoint, addressType string, publishes func() bool) (e endpoint, ok bool) {
	e = endpoint{
		addresses:   f.family(addressType),
		ready:       f.ready && !have.terminating || publishes(),
		serving:     f.ready,
		terminating: have.terminating,
	}
	return e, len(e.addresses) > 0 && !f.terminal
}

// showSlice lays the overlay over an EndpointSlice.
func (c *codec) showSlice(item []byte, l look) shown {
	s := shown{item: item}
	if !c.Mentions(item, l.uid, sliceEndpoints, endpointTarget, refUID) {
		return s
	}
	all := c.Many(item, sliceEndpoints)
	addressType := c.Text(item, sliceAddressType)
	if addressType != "IPv4" && addressType != "IPv6" {
		return s
	}
	publishes := sync.OnceValue(func() bool { return c.slicePublishes(all, l) })
	var out [][]byte
	for _, raw := range all {
		t, f, ok := c.lookUp(raw, l, endpointTarget)
		if !ok {
			out = append(out, raw)
			continue
		}
		have := c.endpoint(raw)
		want, there := f.want(have, addressType, publishes)
		switch {
		case !there:
			s.changed = append(s.changed, t)
		case slices.Equal(have.addresses, want.addresses) && have.ready == want.ready && have.serving == want.serving:
			s.same = append(s.same, t)
			out = append(out, raw)
		default:
			s.changed = append(s.changed, t)
			out = append(out, c.withEndpoint(raw, want))
		}
	}
	if len(s.changed) > 0 {
		s.item = c.With(item, sliceEndpoints, out...)
	}
	return s
}

// slicePublishes decides whether not ready addresses are published. The slice itself does not say it. But an endpoint that is
// ready while it does not serve, or terminates, is there with that setting only, and one that is not ready only without.
// Where all are ready nothing can be concluded, and it is taken for a Service without.
func (c *codec) slicePublishes(endpoints [][]byte, l look) bool {
	if publishes, known := l.publishes(); known {
		return publishes
	}
	for _, raw := range endpoints {
		e := c.endpoint(raw)
		if e.ready && (!e.serving || e.terminating) {
			return true
		}
	}
	return false
}

// version reads a resourceVersion; 0 stands for one that is no number.
func version(meta wire.Meta) uint64 {
	v, err := strconv.ParseUint(meta.ResourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return v
}
