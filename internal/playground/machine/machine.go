// Package machine makes one computer look like many: a machine has its own processes, network, file system, host name and boot id,
// and its power can be cut.
//
// A machine is a set of Linux namespaces whose first process is the program pid1. Its /etc, /var, /usr/local, /root, /home, /opt
// and /srv are directories of its disk, which survives; /run, /tmp and everything mounted do not. The rest of /usr is the computer's,
// read-only, and so are the devices, writable.
// All that a machine is ends with its first process, control groups and disk aside; that process is found by its command line, so
// there is no file that could be stale.
package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yurt/internal/playground/netns"
)

const (
	processName = "yurt-machine"  // the first process, to whoever lists processes
	socket      = "@yurt-machine" // where it listens, in the machine's network namespace
	specFile    = "machine.json"
	programsDir = "/programs"
)

// ErrOff says that a machine isn't running.
var ErrOff = errors.New("the power is off")

// Spec is what a machine is.
type Spec struct {
	ID       string // unique on this computer, a file name; the machine's control group has it too
	Hostname string
	Programs []string // directories of the computer whose programs are on the machine's PATH
	Dir      string   // holds disk and specification
	Logs     string   // directory for what the services say
}

// Machine is a handle on a machine that may or may not run.
type Machine struct {
	Spec
}

// New returns the handle of a machine. Nothing happens before Start.
func New(spec Spec) *Machine { return &Machine{Spec: spec} }

// Path returns where the computer has a file of the machine's disk. It is there while the power is off, too.
func (m *Machine) Path(name string) string { return filepath.Join(m.Dir, "disk", name) }

// Start boots the machine: its first process runs, no service yet. The machine outlives its maker, unless owner is given: then it
// ends when the other side of that pipe is closed, even if by a crash.
func (m *Machine) Start(ctx context.Context, pid1 string, owner *os.File) error {
	if _, err := m.PID(); err == nil {
		return fmt.Errorf("start machine %s: it runs already", m.ID)
	}
	if err := m.prepareDisk(); err != nil {
		return fmt.Errorf("prepare disk of %s: %w", m.ID, err)
	}
	data, err := json.MarshalIndent(m.Spec, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.Dir, specFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, pid1, "launch", m.ID, m.Dir)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // no machine is started on behalf of the dead
	if owner != nil {
		cmd.Args = append(cmd.Args, "owned")
		cmd.ExtraFiles = []*os.File{owner}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start machine %s: %w: %s", m.ID, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// PowerOff kills everything that runs on the machine, at once and without a warning, and returns when it is gone. It is no error if
// nothing runs.
func (m *Machine) PowerOff() error {
	for _, pid := range find(m.ID) {
		if err := kill(pid); err != nil {
			return fmt.Errorf("kill first process of %s: %w", m.ID, err)
		}
	}
	return nil
}

// kill kills the first process of a machine and waits until it has died, which the kernel lets it do when all others of its PID
// namespace have. Its command line, and so find, loses it before that.
func kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case time.Now().After(deadline):
			return errors.New("it does not die")
		}
	}
}

// PID returns the computer's number of the machine's first process, ErrOff if there is none.
func (m *Machine) PID() (int, error) {
	pids := find(m.ID)
	if len(pids) == 0 {
		return 0, ErrOff
	}
	return pids[0], nil
}

// Dial connects to an address as a process on the machine would. The address is literal: no name is looked up.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	pid, err := m.PID()
	if err != nil {
		return nil, err
	}
	return netns.Dial(ctx, pid, network, address)
}

// Command returns a command that is to run on the machine, with the machine's PATH.
func (m *Machine) Command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	pid, err := m.PID()
	if err != nil {
		return nil, m.named(err)
	}
	args := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--",
		// To enter a PID namespace nsenter has to fork; its child shall not outlive it.
		"setpriv", "--pdeathsig", "KILL", "env", "-i"}
	args = append(args, environment(m.Programs)...)
	cmd := exec.CommandContext(ctx, "nsenter", append(args, argv...)...)
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// environment is that of all processes of a machine.
func environment(programs []string) []string {
	path := []string{}
	for _, dir := range programs {
		path = append(path, filepath.Join(programsDir, filepath.Base(dir)))
	}
	path = append(path, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
	return []string{"PATH=" + strings.Join(path, ":"), "HOME=/root", "TERM=dumb"}
}

// Running returns the IDs of all running machines whose ID begins with prefix.
func Running(prefix string) []string {
	var ids []string
	for _, p := range processes() {
		if strings.HasPrefix(p.id, prefix) {
			ids = append(ids, p.id)
		}
	}
	return ids
}

func find(id string) []int {
	var pids []int
	for _, p := range processes() {
		if p.id == id {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// process is the first process of a machine.
type process struct {
	pid int
	id  string
}

// processes returns the first processes of all machines, those aside that are dead and only not yet waited for.
func processes() []process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue // it ended meanwhile
		}
		argv := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
		if len(argv) == 3 && argv[0] == processName {
			found = append(found, process{pid: pid, id: argv[1]})
		}
	}
	return found
}
