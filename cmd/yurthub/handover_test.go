package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/unit"
)

// TestRestartRefusesNoConnection: with sockets that outlive it, the hub is stopped, killed and started while clients call
// without a pause, each time over a new connection. None is refused; what was under way is answered when it is asked again.
func TestRestartRefusesNoConnection(t *testing.T) {
	m := newManager(t)
	hub := m.start()
	m.hear("READY=1")
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var asked, repeated atomic.Int64
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				err := m.ask("plain", "/api/v1/configmaps?resourceVersion=0")
				if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
					repeated.Add(1)
					err = m.ask("plain", "/api/v1/configmaps?resourceVersion=0")
				}
				if err != nil {
					t.Errorf("a request after %d others: %v", asked.Load(), err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM, syscall.SIGTERM} {
		for before := asked.Load(); asked.Load() < before+100; time.Sleep(time.Millisecond) {
			if t.Failed() {
				t.FailNow()
			}
		}
		if err := hub.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if signal == syscall.SIGTERM {
			m.hear("STOPPING=1")
		}
		if err := hub.Wait(); (err == nil) != (signal == syscall.SIGTERM) {
			t.Errorf("end %d: %v", i, err)
		}
		time.Sleep(200 * time.Millisecond) // nobody listens but the manager
		hub = m.start()
		m.hear("READY=1")
	}
	if err := m.ask("admin", "/readyz"); err != nil {
		t.Error(err)
	}
	cancel()
	clients.Wait()
	t.Logf("%d requests, %d of them were under way at an end and asked again", asked.Load(), repeated.Load())
}

// TestForeignSockets: sockets that don't fit the flags are an error that says so, before anything is touched.
func TestForeignSockets(t *testing.T) {
	for _, tc := range []struct{ was, is, want string }{
		{"secure", "secret", "nothing here listens on: secret"},
		{"secure", "admin", `two are named "admin"`},
	} {
		m := newManager(t)
		for i, name := range m.names {
			if name == tc.was {
				m.names[i] = tc.is
			}
		}
		m.port["secure"] = 0
		hub := m.command()
		hub.Stderr = nil
		out, err := hub.CombinedOutput()
		if err == nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%s instead of %s: %v: %s", tc.is, tc.was, err, out)
		}
		if _, err := os.Stat(filepath.Join(m.dir, "root", "store")); err == nil {
			t.Error("there is a store")
		}
	}
}

// TestUnits: systemd's units name the sockets as the hub does, on its default ports.
func TestUnits(t *testing.T) {
	flags := command().Flags()
	for name, flag := range map[string]string{"secure": "proxy-secure-port", "admin": "serve-port"} {
		options := readUnit(t, "yurthub-"+name+".socket")
		port, err := flags.GetInt(flag)
		if err != nil {
			t.Fatal(err)
		}
		host, err := flags.GetString("bind-address")
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%s:%d", host, port); options["ListenStream"] != want || options["FileDescriptorName"] != name || options["Service"] != "yurthub.service" {
			t.Errorf("yurthub-%s.socket: %v, want %s", name, options, want)
		}
	}
	args := strings.Fields(readUnit(t, "yurthub.service")["ExecStart"])
	if err := flags.Parse(args[1:]); err != nil || filepath.Base(args[0]) != "yurthub" {
		t.Errorf("ExecStart %q: %v", args, err)
	}
}

func readUnit(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "deploy", "systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read, err := unit.DeserializeOptions(f)
	if err != nil {
		t.Fatal(err)
	}
	options := map[string]string{}
	for _, o := range read {
		options[o.Name] = o.Value
	}
	return options
}

// manager hands sockets to hubs and hears of them, as systemd does.
type manager struct {
	t       *testing.T
	dir     string
	names   []string
	port    map[string]int
	sockets []*os.File
	notify  *net.UnixConn
}

func newManager(t *testing.T) *manager {
	m := &manager{t: t, dir: t.TempDir(), port: map[string]int{}}
	stop, err := serveAPI(m.dir)
	t.Cleanup(stop)
	m.must(err)
	for _, name := range []string{"secure", "admin", "plain"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		m.must(err)
		f, err := l.(*net.TCPListener).File()
		m.must(err)
		m.must(l.Close())
		t.Cleanup(func() { _ = f.Close() })
		m.names, m.sockets = append(m.names, name), append(m.sockets, f)
		m.port[name] = l.Addr().(*net.TCPAddr).Port
	}
	m.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(m.dir, "notify"), Net: "unixgram"})
	m.must(err)
	t.Cleanup(func() { _ = m.notify.Close() })
	return m
}

func (m *manager) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// command is a hub. The shell knows its own process's number, which is then the hub's.
func (m *manager) command() *exec.Cmd {
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec yurthub "$@"`, "sh", "--kubeconfig", "kubeconfig", "--root-dir", "root", "--node-name", "edge",
		"--enable-insecure-proxy", "--serve-port", fmt.Sprint(m.port["admin"]), "--proxy-secure-port", fmt.Sprint(m.port["secure"]), "--proxy-port", fmt.Sprint(m.port["plain"]))
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), fmt.Sprint("LISTEN_FDS=", len(m.sockets)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"),
		"NOTIFY_SOCKET="+filepath.Join(m.dir, "notify"))
	cmd.ExtraFiles = m.sockets
	return cmd
}

func (m *manager) start() *exec.Cmd {
	m.t.Helper()
	cmd := m.command()
	m.must(cmd.Start())
	m.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func (m *manager) hear(want string) {
	m.t.Helper()
	m.must(m.notify.SetReadDeadline(time.Now().Add(30 * time.Second)))
	b := make([]byte, 100)
	n, err := m.notify.Read(b)
	m.must(err)
	if string(b[:n]) != want {
		m.t.Fatalf("the hub says %q, want %q", b[:n], want)
	}
}

// ask makes one request over a connection of its own.
func (m *manager) ask(name, path string) error {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", m.port[name], path))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}
