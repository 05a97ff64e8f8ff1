// Package podaddress keeps the address under which the pods of a node reach the
// hub, and takes connections there from this node alone.
//
// The address is on an interface of its own, without a wire: it is there whether
// or not there is a network, and is the same on every node. A node takes packets
// for any of its addresses from every interface, so that a neighbour on the LAN
// can send some there, too; origin.go tells these from the node's own.
//
// It guarantees that no byte is read from a connection whose answers would leave
// the node, and that an interface which somebody removes is made again. It never
// touches an interface of that name that it has not made.
package podaddress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long changes are gathered before the interface is looked at:
	// who removes it removes its addresses first, one by one.
	settle = 100 * time.Millisecond
	// look is how often the interface is looked at though nothing was heard. The
	// kernel drops what a slow listener does not take.
	look = time.Minute
)

// Address is the pods' way to the hub.
type Address struct {
	Name   string // of the interface
	IPs    []netip.Addr
	Logger *slog.Logger
}

// Run makes the interface, mends it until ctx ends, and removes it then.
// An interface that can't be made is no reason to end: the node's own components
// reach the hub on loopback.
func (a *Address) Run(ctx context.Context) error {
	changed, stop, err := subscribe()
	if err != nil {
		a.Logger.Warn("the pods' interface is looked at once a minute only", "interface", a.Name, "error", err)
	}
	defer stop()
	for {
		if made, err := a.ensure(); err != nil {
			a.Logger.Error("pods can't reach the hub", "interface", a.Name, "error", err)
		} else if made {
			a.Logger.Info("pods reach the hub", "interface", a.Name, "addresses", a.IPs)
		}
		select {
		case <-changed:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
			}
		case <-time.After(look):
		case <-ctx.Done():
			return a.remove()
		}
	}
}

// ensure makes what is missing, and tells whether that was anything.
func (a *Address) ensure() (made bool, err error) {
	link, err := netlink.LinkByName(a.Name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		made = true
		link, err = a.create()
	}
	if err != nil {
		return false, fmt.Errorf("make interface %s: %w", a.Name, err)
	}
	if !ours(link) {
		return false, fmt.Errorf("make interface %s: there is a %s of that name that somebody else has made", a.Name, link.Type())
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		made = true
		if err := netlink.LinkSetUp(link); err != nil {
			return false, fmt.Errorf("set interface %s up: %w", a.Name, err)
		}
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", a.Name, err)
	}
	for _, ip := range a.IPs {
		if slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IP.Equal(ip.AsSlice()) }) {
			continue
		}
		made = true
		alone := &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
		// Nobody is there who could have the same address: no need to ask.
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: alone, Flags: unix.IFA_F_NODAD}); err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("add address %s to %s: %w", ip, a.Name, err)
		}
	}
	return made, nil
}

// create makes a dummy interface, or, where the kernel has none, a bridge without
// ports, which is as good and which every kernel with containers has.
func (a *Address) create() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.Name
	err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	}
	if err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName(a.Name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetAlias(link, mark); err != nil {
		// Without the mark it would be left alone for ever.
		return nil, errors.Join(fmt.Errorf("mark the interface: %w", err), netlink.LinkDel(link))
	}
	return netlink.LinkByName(a.Name)
}

// mark is the alias of interfaces that the hub has made: a container runtime's
// bridge is one of the same kind, and --dummy-if-name may be its name.
const mark = "yurthub"

func ours(link netlink.Link) bool {
	return (link.Type() == "dummy" || link.Type() == "bridge") && link.Attrs().Alias == mark
}

func (a *Address) remove() error {
	link, err := netlink.LinkByName(a.Name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err == nil && ours(link) {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", a.Name, err)
	}
	return nil
}

// subscribe returns a channel that tells of changes to interfaces and addresses.
// stop returns when nobody sends there any more.
func subscribe() (changed <-chan struct{}, stop func(), err error) {
	done, links, addresses := make(chan struct{}), make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	out := make(chan struct{}, 1)
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return nil, func() {}, fmt.Errorf("subscribe to interfaces: %w", err)
	}
	if err := netlink.AddrSubscribe(addresses, done); err != nil {
		close(done)
		for range links { // until its sender has ended
		}
		return nil, func() {}, fmt.Errorf("subscribe to addresses: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for links != nil || addresses != nil {
			var ok bool
			select {
			case _, ok = <-links:
				if !ok {
					links = nil
				}
			case _, ok = <-addresses:
				if !ok {
					addresses = nil
				}
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, func() { close(done); <-ended }, nil
}
