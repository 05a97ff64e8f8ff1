package podaddress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Listen takes connections to one of the addresses on a port. The interface need
// not be there yet, and may go and come back meanwhile.
func (a *Address) Listen(ctx context.Context, ip netip.Addr, port int) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error { return beforehand(conn, ip) }}
	l, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, uint16(port)).String())
	if err != nil {
		return nil, fmt.Errorf("listen for pods: %w", err)
	}
	return &listener{Listener: l, address: a}, nil
}

// beforehand lets a socket be bound to an address that is not there.
func beforehand(conn syscall.RawConn, ip netip.Addr) (err error) {
	level, option := unix.IPPROTO_IP, unix.IP_FREEBIND
	if ip.Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_FREEBIND
	}
	failed := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(failed, err)
}

// listener resets connections from elsewhere before a byte is read.
type listener struct {
	net.Listener
	address *Address
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		if err == nil {
			err = fromHere(from.Addr())
		}
		if err == nil {
			return conn, nil
		}
		l.address.Logger.Debug("a connection to the pods' address is refused", "from", conn.RemoteAddr(), "error", err)
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // reset
		}
		_ = conn.Close()
	}
}

var errElsewhere = errors.New("it is not of this node")

// fromHere returns nil if the answers to an address stay on this node: it is the
// node's own, or behind an interface that leads nowhere else. That can't be
// feigned: who sends under an address of a pod does not get the answers, so that
// no connection comes about.
func fromHere(from netip.Addr) error {
	routes, err := netlink.RouteGet(from.AsSlice())
	if err != nil {
		return fmt.Errorf("look up route to %s: %w", from, err)
	}
	for _, route := range routes {
		if route.Type == unix.RTN_LOCAL {
			continue
		}
		leaves, err := leavesNode(route)
		if err != nil {
			return err
		}
		if leaves {
			return fmt.Errorf("%s: %w", from, errElsewhere)
		}
	}
	return nil
}

// leavesNode tells whether a route leads out of the node: over a neighbour, or
// through an interface that has a wire or has neighbours behind it.
func leavesNode(route netlink.Route) (bool, error) {
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return false, fmt.Errorf("find interface %d: %w", route.LinkIndex, err)
	}
	own, err := ownAddresses()
	if err != nil {
		return false, err
	}
	if overNeighbour(route.Gw, route.Via, own) || wired(interfaces, link.Attrs().Name) {
		return true, nil
	}
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list routes: %w", err)
	}
	return slices.ContainsFunc(all, func(r netlink.Route) bool {
		return r.LinkIndex == route.LinkIndex && overNeighbour(r.Gw, r.Via, own) ||
			slices.ContainsFunc(r.MultiPath, func(hop *netlink.NexthopInfo) bool {
				return hop.LinkIndex == route.LinkIndex && overNeighbour(hop.Gw, hop.Via, own)
			})
	}), nil
}

// overNeighbour tells whether a route goes over another computer. Some networks
// lead to the node's own pods over an address of the node.
func overNeighbour(gateway net.IP, destination netlink.Destination, own []net.IP) bool {
	over := []net.IP{gateway}
	if via, ok := destination.(*netlink.Via); ok && via != nil {
		over = append(over, via.Addr)
	}
	return slices.ContainsFunc(over, func(ip net.IP) bool {
		return len(ip) > 0 && !ip.IsUnspecified() && !slices.ContainsFunc(own, ip.Equal)
	})
}

func ownAddresses() ([]net.IP, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var ips []net.IP
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return ips, nil
}

const interfaces = "/sys/class/net"

// wired tells whether an interface is a device, or has one under it: as a bridge,
// a bond, a VLAN and a tunnel have.
func wired(interfaces, name string) bool {
	dir := filepath.Join(interfaces, name)
	if _, err := os.Stat(filepath.Join(dir, "device")); err == nil {
		return true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		lower, ok := strings.CutPrefix(e.Name(), "lower_")
		return ok && wired(interfaces, lower)
	})
}
