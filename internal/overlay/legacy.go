package overlay

import "net/netip"

// showEndpoints lays the overlay over an Endpoints. There an address is in the one or the other list of its subset, and of
// the family of its Service.
func (c *codec) showEndpoints(item []byte, l look) shown {
	s := shown{item: item}
	if !c.Mentions(item, l.uid, subsets, subsetReady, addressTarget, refUID) &&
		!c.Mentions(item, l.uid, subsets, subsetNotReady, addressTarget, refUID) {
		return s
	}
	var out [][]byte
	for _, raw := range c.Many(item, subsets) {
		before := len(s.changed)
		subset := c.showSubset(raw, l, &s)
		if len(s.changed) == before {
			out = append(out, raw)
		} else if subset != nil {
			out = append(out, subset)
		}
	}
	if len(s.changed) > 0 {
		s.item = c.With(item, subsets, out...)
	}
	return s
}

// showSubset returns the subset, or nil when no address is left in it.
func (c *codec) showSubset(raw []byte, l look, s *shown) []byte {
	var ready, notReady [][]byte
	sort := func(addresses [][]byte, isReady bool) {
		for _, address := range addresses {
			address, nowReady, there := c.showAddress(address, isReady, l, s)
			switch {
			case !there:
			case nowReady:
				ready = append(ready, address)
			default:
				notReady = append(notReady, address)
			}
		}
	}
	sort(c.Many(raw, subsetReady), true)
	sort(c.Many(raw, subsetNotReady), false)
	if len(ready)+len(notReady) == 0 {
		return nil
	}
	return c.With(c.With(raw, subsetReady, ready...), subsetNotReady, notReady...)
}

// showAddress returns an address as it should be now, and in which list.
func (c *codec) showAddress(raw []byte, isReady bool, l look, s *shown) (address []byte, ready, there bool) {
	t, f, ok := c.lookUp(raw, l, addressTarget)
	if !ok {
		return raw, isReady, true
	}
	ip := c.Text(raw, addressIP)
	ips := f.family("IPv4")
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Is6() {
		ips = f.family("IPv6")
	}
	publishes, _ := l.publishes()
	ready = f.ready || publishes
	switch {
	case f.terminal || len(ips) == 0:
		s.changed = append(s.changed, t)
		return nil, false, false
	case ips[0] == ip && ready == isReady:
		s.same = append(s.same, t)
		return raw, isReady, true
	}
	s.changed = append(s.changed, t)
	return c.With(raw, addressIP, c.Write(ips[0])), ready, true
}
