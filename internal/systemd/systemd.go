// Package systemd is a program's side of what it shares with the service manager: listening sockets that are handed over
// (sd_listen_fds(3)), and word of how it stands (sd_notify(3)).
//
// A socket that the manager holds refuses no connection while the program is restarted: who connects waits. Without a
// manager there are no sockets and nobody is told, and nothing fails for that.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
)

// Sockets are listening sockets that were handed over, by name (FileDescriptorName= of the socket's unit).
type Sockets map[string]net.Listener

// Inherited takes what was handed over to this process. It can be called once: the environment forgets.
func Inherited() (Sockets, error) {
	named, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	sockets := Sockets{}
	for name, listeners := range named {
		sockets[name] = listeners[0]
		for _, l := range listeners[1:] {
			err = errors.Join(err, fmt.Errorf("take sockets from systemd: two are named %q; give each socket unit a FileDescriptorName= of its own", name), l.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, sockets.Close())
	}
	return sockets, nil
}

// Listen takes the TCP socket of that name, or opens one if none was handed over. One that listens elsewhere than the
// address says is an error: others find the program by that address.
func (s Sockets) Listen(name, address string) (net.Listener, error) {
	l, ok := s[name]
	if !ok {
		return net.Listen("tcp", address)
	}
	delete(s, name)
	want, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if have, ok := l.Addr().(*net.TCPAddr); !ok || have.Port != want.Port || !want.IP.IsUnspecified() && !have.IP.Equal(want.IP) {
		return nil, errors.Join(fmt.Errorf("the socket that systemd calls %q listens on %s, not on %s: make the unit's ListenStream= and the flags agree", name, l.Addr(), address), l.Close())
	}
	return l, nil
}

// Taken fails if sockets are left that nobody has asked for.
func (s Sockets) Taken() error {
	if len(s) == 0 {
		return nil
	}
	return fmt.Errorf("systemd hands over sockets that nothing here listens on: %s", strings.Join(slices.Sorted(maps.Keys(s)), ", "))
}

// Close closes what is left.
func (s Sockets) Close() error {
	var errs []error
	for name, l := range s {
		errs = append(errs, l.Close())
		delete(s, name)
	}
	return errors.Join(errs...)
}

// Supervise tells the manager that the program is ready, and from then on that it is alive, as often as WatchdogSec= wants
// it and as long as alive returns nil. When ctx ends it says that the program stops.
func Supervise(ctx context.Context, alive func(context.Context) error, log *slog.Logger) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read systemd's watchdog interval: %w", err)
	}
	tell(daemon.SdNotifyReady, log)
	defer tell(daemon.SdNotifyStopping, log)
	if interval == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		if err := within(ctx, interval/3, alive); err == nil {
			tell(daemon.SdNotifyWatchdog, log)
		} else if ctx.Err() == nil {
			log.Error("not alive: systemd's watchdog is not told", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func within(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx)
}

func tell(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd is not told", "state", state, "error", err)
	}
}
