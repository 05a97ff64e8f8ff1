package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yurt/bench/gauge"
	"yurt/bench/load"
	"yurt/internal/playground/component"
	"yurt/internal/playground/netns"
)

// Gateway is what stands between clients and API server.
type Gateway struct {
	Name    string
	Program string // file of yurthub, for the gateways that are one
	URL     string // of another gateway
	PID     int    // of its process, if it is not the one that Start starts
	Start   string // command of a shell that starts it; empty if it runs already
}

// HubName is the gateway that this project is about.
const HubName = "hub"

// ParseGateway reads "name=URL[,pid=N][,start='command']".
func ParseGateway(text string) (Gateway, error) {
	name, rest, ok := strings.Cut(text, "=")
	if !ok || name == "" || name == HubName {
		return Gateway{}, fmt.Errorf("gateway %q: want name=URL[,pid=N][,start='command'], and a name that is not %q", text, HubName)
	}
	g := Gateway{Name: name}
	rest, start, _ := strings.Cut(rest, ",start=") // the command may have commas
	g.Start = strings.Trim(start, "'")
	address, pid, hasPID := strings.Cut(rest, ",pid=")
	if hasPID {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return Gateway{}, fmt.Errorf("gateway %s: pid: %w", name, err)
		}
		g.PID = n
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return Gateway{}, fmt.Errorf("gateway %s: %q is not a URL", name, address)
	}
	if g.Start == "" && g.PID == 0 {
		return Gateway{}, fmt.Errorf("gateway %s: one of pid and start must be given", name)
	}
	g.URL = strings.TrimSuffix(address, "/")
	return g, nil
}

// site is an API server, real or canned, and the place that gateways to it are started in.
type site struct {
	upstream string // of figures: API or Canned
	url      string
	pid      int // of the API server
	netPID   int // a process of the network namespace that clients and gateways are in; 0: this one
	ca       string
	pem      string // file with the node's certificate and key
	cert     tls.Certificate
	dir      string
	launched int
}

func (s *site) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if s.netPID == 0 {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	return netns.Dial(ctx, s.netPID, network, address)
}

func (s *site) server(address string) load.Server {
	return load.Server{URL: address, Dial: s.dial, Cert: &s.cert}
}

// direct is the API server itself.
func (s *site) direct() *target {
	return &target{name: "direct", server: s.server(s.url), pid: s.pid}
}

// freePort returns a port that nobody listens on.
func (s *site) freePort(ctx context.Context) (int, error) {
	var l net.Listener
	var err error
	if s.netPID == 0 {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	} else {
		l, err = netns.Listen(ctx, s.netPID, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return 0, fmt.Errorf("find a port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// target is something that answers: the API server or a gateway.
type target struct {
	name   string
	server load.Server
	pid    int
	admin  string // address of the hub's admin port, "" for others
	dir    string // that it keeps its replica in
	cmd    *exec.Cmd
}

// start is how a gateway is started other than usual.
type start struct {
	dir      string     // that a former one left, or a disk; empty: a new one
	upstream string     // empty: the site's
	box      *gauge.Box // its memory
}

// nowhere is an upstream that is not there.
const nowhere = "https://127.0.0.1:1"

// launch starts a gateway, and returns without waiting until it answers.
func (s *site) launch(ctx context.Context, g Gateway, o start) (*target, error) {
	s.launched++
	t := &target{name: g.Name, pid: g.PID, dir: o.dir}
	if t.dir == "" {
		t.dir = filepath.Join(s.dir, fmt.Sprintf("%s-%d", g.Name, s.launched))
	}
	if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", g.Name, err)
	}
	if o.upstream == "" {
		o.upstream = s.url
	}
	kubeconfig := filepath.Join(t.dir, "kubeconfig")
	conf := component.Kubeconfig{Server: o.upstream, CA: s.ca, Cert: s.pem, Key: s.pem}
	if err := os.WriteFile(kubeconfig, conf.YAML(), 0o600); err != nil {
		return nil, fmt.Errorf("start %s: %w", g.Name, err)
	}
	script, err := s.command(ctx, g, t, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", g.Name, err)
	}
	if script == "" {
		t.server.Dial = nil // it runs where it runs
		return t, nil
	}
	if o.box != nil {
		script = "echo $$ > " + o.box.Procs() + "; " + script
	}
	argv := []string{"sh", "-c", script}
	if s.netPID != 0 {
		argv = append([]string{"nsenter", "--net=/proc/" + strconv.Itoa(s.netPID) + "/ns/net", "--"}, argv...)
	}
	return t, s.run(ctx, t, argv, append(os.Environ(), "UPSTREAM="+o.upstream, "KUBECONFIG="+kubeconfig, "DIR="+t.dir))
}

// command returns the shell's command that starts a gateway, "" if there is none, and fills in where it will answer.
func (s *site) command(ctx context.Context, g Gateway, t *target, kubeconfig string) (string, error) {
	if g.Program == "" {
		t.server = s.server(g.URL)
		if g.Start == "" {
			return "", nil
		}
		return "exec " + g.Start, nil
	}
	port, err := s.freePort(ctx)
	if err != nil {
		return "", err
	}
	admin, err := s.freePort(ctx)
	if err != nil {
		return "", err
	}
	t.server = s.server("https://127.0.0.1:" + strconv.Itoa(port))
	t.admin = "127.0.0.1:" + strconv.Itoa(admin)
	return fmt.Sprintf("exec %s --kubeconfig=%s --node-name=%s --root-dir=%s --proxy-secure-port=%d --serve-port=%d",
		g.Program, kubeconfig, nodeName, filepath.Join(t.dir, "root"), port, admin), nil
}

func (s *site) run(ctx context.Context, t *target, argv, env []string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, t.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", t.name, err)
	}
	defer log.Close()
	t.cmd = exec.CommandContext(ctx, argv[0], argv[1:]...)
	t.cmd.Env, t.cmd.Stdout, t.cmd.Stderr = env, log, log
	t.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := t.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", t.name, err)
	}
	if t.pid == 0 {
		t.pid = t.cmd.Process.Pid
	}
	return nil
}

// open starts a gateway and waits until it answers.
func (s *site) open(ctx context.Context, g Gateway, o start) (*target, error) {
	t, err := s.launch(ctx, g, o)
	if err != nil {
		return nil, err
	}
	return t, t.await(ctx)
}

// await waits until the target answers.
func (t *target) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("%s does not answer", t.name))
	defer cancel()
	client := load.New(t.server)
	defer client.Close()
	_, err := load.Await(ctx, 20*time.Millisecond, func() error {
		_, err := client.Get(ctx, "/version", load.JSON)
		return err
	})
	return err
}

// kill ends a gateway as a power cut would.
func (t *target) kill() error {
	if t == nil || t.cmd == nil {
		return nil
	}
	err := t.cmd.Process.Kill()
	var exit *exec.ExitError
	if waited := t.cmd.Wait(); waited != nil && !errors.As(waited, &exit) {
		return errors.Join(err, waited)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s had ended by itself: %s", t.name, t.cmd.ProcessState)
	}
	return err
}
