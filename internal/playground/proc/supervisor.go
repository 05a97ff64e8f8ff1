package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	restartDelay = time.Second
	stopPatience = 10 * time.Second // between asking a service to end and killing it
)

// ErrUnknown says that a machine has no service of that name.
var ErrUnknown = errors.New("no such service")

// Supervisor runs services.
type Supervisor struct {
	logs string
	log  *slog.Logger

	mu       sync.Mutex
	services []*service // in the order in which they start
	running  sync.WaitGroup
	closed   bool
}

// service is a Service and what became of it. Its fields are guarded by the supervisor's mutex.
type service struct {
	Service
	wanted bool
	status Status
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended; nil if there is none
	wake   chan struct{} // belongs to the goroutine that waits to start it again; closed and nil when somebody decides otherwise
}

// NewSupervisor makes a supervisor that appends what the service NAME says to the file NAME.log in the directory logs.
func NewSupervisor(logs string, log *slog.Logger) *Supervisor {
	return &Supervisor{logs: logs, log: log}
}

// Define replaces the list of services. A service that is new, or whose definition changed, is not started by this; one that is
// no longer there is stopped.
func (s *Supervisor) Define(services []Service) error {
	s.mu.Lock()
	var gone []string
	for _, old := range s.services {
		if !slices.ContainsFunc(services, func(n Service) bool { return n.Name == old.Name }) {
			gone = append(gone, old.Name)
		}
	}
	s.mu.Unlock()
	for _, name := range gone {
		if err := s.Stop(name); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var defined []*service
	for _, def := range services {
		svc := s.find(def.Name)
		if svc == nil {
			svc = &service{status: Status{Name: def.Name}}
		}
		svc.Service = def
		defined = append(defined, svc)
	}
	s.services = defined
	return nil
}

// Boot starts the services in order, each when the one before it is ready or has had its patience, up to and including the
// one named until, or all of them if that is empty. Those that run already are left alone.
func (s *Supervisor) Boot(ctx context.Context, until string) error {
	for _, def := range s.defined() {
		if err := s.Start(def.Name); err != nil {
			return err
		}
		if err := s.await(ctx, def); err != nil {
			return err
		}
		if def.Name == until {
			return nil
		}
	}
	if until != "" {
		return fmt.Errorf("boot until %s: %w", until, ErrUnknown)
	}
	return nil
}

func (s *Supervisor) defined() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Service
	for _, svc := range s.services {
		all = append(all, svc.Service)
	}
	return all
}

// await waits until a service is ready, or its patience is over, which is no error.
func (s *Supervisor) await(ctx context.Context, def Service) error {
	if def.Ready == (Probe{}) {
		return nil
	}
	patient, cancel := context.WithTimeout(ctx, def.Patience)
	defer cancel()
	begun := time.Now()
	err := def.Ready.await(patient)
	if ctx.Err() != nil {
		return fmt.Errorf("wait for %s: %w", def.Name, context.Cause(ctx))
	}
	if err != nil {
		s.log.Warn("service is not ready, going on without", "service", def.Name, "waited", def.Patience, "error", err)
		return nil
	}
	s.log.Info("service is ready", "service", def.Name, "after", time.Since(begun).Round(time.Millisecond))
	return nil
}

// Start starts a service unless it runs.
func (s *Supervisor) Start(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.find(name)
	if svc == nil {
		return fmt.Errorf("start %s: %w", name, ErrUnknown)
	}
	if s.closed {
		return fmt.Errorf("start %s: the machine is going down", name)
	}
	if svc.wanted && !svc.interrupt() {
		return nil
	}
	if err := s.launch(svc); err != nil {
		return err
	}
	svc.wanted = true
	return nil
}

// Stop ends a service for good: politely first, after ten seconds by force. It returns when the process is gone.
func (s *Supervisor) Stop(name string) error {
	s.mu.Lock()
	svc := s.find(name)
	if svc == nil {
		s.mu.Unlock()
		return fmt.Errorf("stop %s: %w", name, ErrUnknown)
	}
	ended := s.abandon(svc, syscall.SIGTERM)
	s.mu.Unlock()
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-time.After(stopPatience):
	}
	s.mu.Lock()
	if svc.cmd != nil && svc.ended == ended {
		_ = svc.cmd.Process.Kill()
	}
	s.mu.Unlock()
	<-ended
	return nil
}

// abandon marks a service as not wanted and tells its process to end. It returns what closes then, nil if there is no process.
func (s *Supervisor) abandon(svc *service, sig syscall.Signal) chan struct{} {
	svc.wanted = false
	svc.interrupt()
	if svc.cmd == nil {
		svc.status.State = Stopped
		return nil
	}
	_ = svc.cmd.Process.Signal(syscall.SIGCONT) // a frozen process would not hear anything else
	_ = svc.cmd.Process.Signal(sig)
	return svc.ended
}

// Signal sends a signal to the process of a service. If that ends it, it is started again.
func (s *Supervisor) Signal(name string, sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc := s.find(name)
	if svc == nil {
		return fmt.Errorf("signal %s: %w", name, ErrUnknown)
	}
	if svc.cmd == nil {
		return fmt.Errorf("signal %s: it doesn't run", name)
	}
	if err := svc.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return nil
}

// Services returns what there is to know about each service, in order.
func (s *Supervisor) Services() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for _, svc := range s.services {
		all = append(all, svc.status)
	}
	return all
}

// Close kills all services and returns when they are gone. Nothing can be started afterwards.
func (s *Supervisor) Close() {
	s.mu.Lock()
	s.closed = true
	for _, svc := range s.services {
		s.abandon(svc, syscall.SIGKILL)
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Owns says whether a process is the process of a service, so that nobody else waits for it.
func (s *Supervisor) Owns(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.services, func(svc *service) bool { return svc.cmd != nil && svc.cmd.Process.Pid == pid })
}

// find returns the named service, nil if there is none. The mutex is held.
func (s *Supervisor) find(name string) *service {
	for _, svc := range s.services {
		if svc.Name == name {
			return svc
		}
	}
	return nil
}

// launch starts the process of a service and the goroutine that waits for its end. The mutex is held, so that whoever reaps
// orphans can't come between the start and the moment when Owns knows of it.
func (s *Supervisor) launch(svc *service) error {
	log, err := os.OpenFile(filepath.Join(s.logs, svc.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", svc.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(svc.Argv[0], svc.Argv[1:]...)
	cmd.Env = append(os.Environ(), svc.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", svc.Name, err)
	}
	svc.cmd, svc.ended = cmd, make(chan struct{})
	svc.status.State, svc.status.PID, svc.status.Started = Running, cmd.Process.Pid, time.Now()
	s.log.Info("service started", "service", svc.Name, "pid", cmd.Process.Pid)
	s.running.Add(1)
	go s.keep(svc, cmd)
	return nil
}

// keep waits for the end of a process and sees to what comes after it.
func (s *Supervisor) keep(svc *service, cmd *exec.Cmd) {
	defer s.running.Done()
	_ = cmd.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	svc.cmd = nil
	svc.status.PID, svc.status.Exit = 0, cmd.ProcessState.String()
	close(svc.ended)
	s.log.Info("service ended", "service", svc.Name, "exit", svc.status.Exit, "wanted", svc.wanted)
	if !svc.wanted || s.closed {
		svc.status.State = Stopped
		return
	}
	for {
		wake := make(chan struct{})
		svc.wake, svc.status.State = wake, Waiting
		s.mu.Unlock()
		select {
		case <-time.After(restartDelay):
		case <-wake:
		}
		s.mu.Lock()
		if svc.wake != wake {
			return
		}
		svc.wake = nil
		svc.status.Restarts++
		err := s.launch(svc)
		if err == nil {
			return
		}
		s.log.Error("service does not start", "service", svc.Name, "error", err)
	}
}

// interrupt ends the delay before a restart, if there is one; what comes next is for the caller to say. The mutex is held.
func (svc *service) interrupt() bool {
	if svc.wake == nil {
		return false
	}
	close(svc.wake)
	svc.wake = nil
	return true
}
