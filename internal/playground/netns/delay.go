package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	late      = "late0" // where delayed packets come in
	lateTable = "netdev late"
	// maxFrame: both ends of a link hand each other what they would only cut into packets on a wire.
	maxFrame = 128 << 10
)

// Delay makes what comes to the node arrive later, until ctx ends: each round trip becomes longer by as much. Many kernels have no
// netem; so packets are dropped where they arrive, and brought in through another device when it is time.
func (l Link) Delay(ctx context.Context, by time.Duration) (err error) {
	var wire, in *os.File
	err = within(l.PID, func() (err error) {
		wire, in, err = tap()
		return err
	})
	if err != nil {
		return fmt.Errorf("delay link: %w", err)
	}
	defer func() {
		cleanup := run(context.WithoutCancel(ctx), l.PID, "table "+lateTable+"\ndelete table "+lateTable+"\n", "nft", "-f", "-")
		err = errors.Join(err, cleanup)
		_ = wire.Close()
		_ = in.Close() // the device goes with it
	}()
	if err := l.divert(ctx); err != nil {
		return err
	}
	return carry(ctx, wire, in, by)
}

// divert lets packets in through the late device only. It has the address of the real one, for which they are.
func (l Link) divert(ctx context.Context) error {
	for _, step := range []struct {
		input string
		argv  []string
	}{
		{"", []string{"sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf." + late + ".rp_filter=0"}},
		{fmt.Sprintf("link set %s address %s up\n", late, hardware(l.Node.Addr())), []string{"ip", "-batch", "-"}},
		{"table " + lateTable + " {\n\tchain ingress {\n\t\ttype filter hook ingress device \"eth0\" priority 0\n\t\tmeta protocol ip drop\n\t}\n}\n", []string{"nft", "-f", "-"}},
	} {
		if err := run(ctx, l.PID, step.input, step.argv...); err != nil {
			return err
		}
	}
	return nil
}

// tap opens what eth0 receives, before it is dropped, and the late device.
func tap() (wire, in *os.File, err error) {
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil, nil, err
	}
	const everything = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open packet socket: %w", err)
	}
	wire = os.NewFile(uintptr(fd), "eth0")
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1), // checksums are not computed on the way
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: eth0.Index}),
	)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("bind packet socket: %w", err), wire.Close())
	}
	device, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open /dev/net/tun: %w", err), wire.Close())
	}
	request, err := unix.NewIfreq(late)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(device, unix.TUNSETIFF, request)
	}
	in = os.NewFile(uintptr(device), late)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make device %s: %w", late, err), wire.Close(), in.Close())
	}
	return wire, in, nil
}

// carry brings IP packets from the wire in, each so much later.
func carry(ctx context.Context, wire, in *os.File, by time.Duration) error {
	type packet struct {
		due   time.Time
		frame []byte
	}
	queue := make(chan packet, 4096) // what comes when it is full is lost, as on any link
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { _ = wire.SetReadDeadline(time.Now()) })
	defer stop()
	group.Go(func() error {
		defer close(queue)
		buf := make([]byte, maxFrame)
		for {
			n, err := wire.Read(buf)
			if ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return fmt.Errorf("read eth0: %w", err)
			}
			if !isIP(buf[:n]) {
				continue
			}
			select {
			case queue <- packet{time.Now().Add(by), append([]byte(nil), buf[:n]...)}:
			default:
			}
		}
	})
	group.Go(func() error {
		for p := range queue {
			select {
			case <-time.After(time.Until(p.due)):
			case <-ctx.Done():
				return nil
			}
			if _, err := in.Write(p.frame); err != nil && !strings.Contains(err.Error(), "invalid argument") {
				return fmt.Errorf("write %s: %w", late, err)
			}
		}
		return nil
	})
	return group.Wait()
}

// isIP tells whether a frame, behind its header of 10 bytes for checksums, has an IPv4 packet in it. Others were not dropped.
func isIP(frame []byte) bool {
	const header, kind = 10, 12
	return len(frame) > header+kind+2 && frame[header+kind] == 0x08 && frame[header+kind+1] == 0x00
}
