package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"yurt/internal/playground/cgroup"
	"yurt/internal/playground/proc"
)

const ownedVar = "YURT_MACHINE_OWNED" // tells the first process that descriptor 4 is the owner's pipe

// Launch starts the first process of a machine from this same program, and returns when it serves. The new process is nobody's
// child once the caller ends. If owner is given, it is the pipe at whose end the machine ends.
func Launch(id, dir string, owner *os.File) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(spec.Logs, "machine.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	verdict, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{
		Path: self, Args: []string{processName, id, dir}, Env: environment(spec.Programs), Dir: "/",
		Stdout: log, Stderr: log,
		ExtraFiles: []*os.File{tell},
		SysProcAttr: &unix.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Setsid:     true,
		},
	}
	if owner != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, owner)
		cmd.Env = append(cmd.Env, ownedVar+"=1")
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start first process: %w", err)
	}
	tell.Close()
	said, err := io.ReadAll(verdict)
	if err != nil {
		return fmt.Errorf("wait for first process: %w", err)
	}
	if string(said) != "ok" {
		return fmt.Errorf("start first process: %s", strings.TrimSpace(string(said)))
	}
	return nil
}

// Run is the first process of a machine. It returns if the machine can't be made, or when its owner has died; the process must end
// then, and all others of the machine end with it.
func Run(id, dir string) error {
	tell := os.NewFile(3, "verdict")
	err := boot(id, dir, tell)
	if err != nil {
		_, _ = fmt.Fprint(tell, err) // nobody listens any more if the machine was made
	}
	return err
}

func boot(id, dir string, tell *os.File) error {
	var owner *os.File
	if os.Getenv(ownedVar) != "" {
		unix.CloseOnExec(4)
		owner = os.NewFile(4, "owner")
		if err := os.Unsetenv(ownedVar); err != nil {
			return err
		}
	}
	spec, err := readSpec(dir)
	if err != nil {
		return err
	}
	if err := setUp(spec); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, nil)).With("machine", spec.Hostname)
	supervisor := proc.NewSupervisor("/logs", log)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for orders: %w", err)
	}
	if _, err := tell.WriteString("ok"); err != nil {
		return err
	}
	tell.Close()
	log.Info("machine booted", "id", id)
	go reap(supervisor)
	srv := &http.Server{Handler: supervisor.Handler(), ReadHeaderTimeout: 10 * time.Second}
	if owner != nil {
		go func() {
			_, _ = io.Copy(io.Discard, owner) // nobody ever writes to it
			_ = srv.Close()
		}()
	}
	if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// setUp makes everything of the machine that isn't a process.
func setUp(spec Spec) error {
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	groups, err := cgroup.Open()
	if err != nil {
		return err
	}
	// After a power cut the groups of the former life are still there, empty.
	if err := groups.Remove(spec.ID); err != nil {
		return err
	}
	if err := groups.Create(spec.ID); err != nil {
		return err
	}
	if err := enterRoot(spec); err != nil {
		return err
	}
	// A machine routes for its pods; the cloud routes between machines.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("let the machine forward packets: %w", err)
	}
	return nil
}

// reap waits for the processes that lost their parent and became children of the first process, as an init has to.
func reap(supervisor *proc.Supervisor) {
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	for range died {
		for _, pid := range zombies() {
			if !supervisor.Owns(pid) {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}

// zombies returns the children of the first process that are dead and not yet waited for.
func zombies() []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var pids []int
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// The name, in parentheses, may contain anything; state and parent follow it.
		_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
		state, rest, _ := strings.Cut(rest, " ")
		parent, _, _ := strings.Cut(rest, " ")
		if state != "Z" || parent != "1" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func readSpec(dir string) (Spec, error) {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return Spec{}, err
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return Spec{}, fmt.Errorf("read %s: %w", filepath.Join(dir, specFile), err)
	}
	return spec, nil
}
