package systemd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestListen(t *testing.T) {
	given := listen(t)
	for _, tc := range []struct{ name, address, wrong string }{
		{"proxy", given.Addr().String(), ""},
		{"proxy", net.JoinHostPort("0.0.0.0", port(given)), ""},
		{"other", "127.0.0.1:0", ""},
		{"proxy", "127.0.0.1:1", "make the unit's ListenStream= and the flags agree"},
		{"proxy", net.JoinHostPort("127.0.0.2", port(given)), "make the unit's ListenStream= and the flags agree"},
	} {
		file, err := given.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		copied, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		s := Sockets{"proxy": copied}
		l, err := s.Listen(tc.name, tc.address)
		if tc.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), tc.wrong) {
				t.Errorf("%s at %s: got %v", tc.name, tc.address, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if (l == copied) != (tc.name == "proxy") || (s.Taken() == nil) != (tc.name == "proxy") {
			t.Errorf("%s at %s: took the one handed over: %t; left over: %v", tc.name, tc.address, l == copied, s.Taken())
		}
		if err := errors.Join(l.Close(), s.Close()); err != nil || s.Taken() != nil {
			t.Errorf("close: %v, %v", err, s.Taken())
		}
	}
}

func port(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) }

// TestSupervise: the manager hears that the program is ready, then that it is alive, for as long as it is, and the end.
func TestSupervise(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hear := func(limit time.Duration) string {
		_ = manager.SetReadDeadline(time.Now().Add(limit))
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil {
			return ""
		}
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	ctx, cancel := context.WithCancel(t.Context())
	var dead atomic.Bool
	ended := make(chan error, 1)
	go func() {
		ended <- Supervise(ctx, func(context.Context) error {
			if dead.Load() {
				return errors.New("stuck")
			}
			return nil
		}, slog.New(slog.DiscardHandler))
	}()
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := hear(20 * time.Second); got != want {
			t.Fatalf("word %d: %q, want %q", i, got, want)
		}
	}
	dead.Store(true)
	for hear(300*time.Millisecond) != "" { // what was under way
	}
	cancel()
	if got := hear(20 * time.Second); got != "STOPPING=1" {
		t.Errorf("got %q, want STOPPING=1", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
