package machine

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"

	"yurt/internal/playground/proc"
)

// Boot starts the machine's services in order, up to and including the one named until, or all if that is empty.
func (m *Machine) Boot(ctx context.Context, until string) error {
	return m.named(m.control().Boot(ctx, until))
}

// Define replaces the list of the machine's services; see proc.Supervisor.
func (m *Machine) Define(ctx context.Context, services []proc.Service) error {
	return m.named(m.control().Define(ctx, services))
}

// Services returns what there is to know about each service.
func (m *Machine) Services(ctx context.Context) ([]proc.Status, error) {
	all, err := m.control().Services(ctx)
	return all, m.named(err)
}

// Service returns what there is to know about one service.
func (m *Machine) Service(ctx context.Context, name string) (proc.Status, error) {
	all, err := m.Services(ctx)
	if err != nil {
		return proc.Status{}, err
	}
	for _, s := range all {
		if s.Name == name {
			return s, nil
		}
	}
	return proc.Status{}, m.named(fmt.Errorf("find %s: %w", name, proc.ErrUnknown))
}

// StartService starts a service that was stopped. It is no error if it runs.
func (m *Machine) StartService(ctx context.Context, name string) error {
	return m.named(m.control().Start(ctx, name))
}

// StopService stops a service for good, and returns when its process is gone.
func (m *Machine) StopService(ctx context.Context, name string) error {
	return m.named(m.control().Stop(ctx, name))
}

// RestartService stops a service if it runs, and starts it.
func (m *Machine) RestartService(ctx context.Context, name string) error {
	if err := m.StopService(ctx, name); err != nil {
		return err
	}
	return m.StartService(ctx, name)
}

// Kill sends a signal to the process of a service. If that ends it, it is started again after a second.
func (m *Machine) Kill(ctx context.Context, name string, sig syscall.Signal) error {
	return m.named(m.control().Signal(ctx, name, sig))
}

// Exec runs a command on the machine and returns what it prints; what it prints to standard error is part of the error.
func (m *Machine) Exec(ctx context.Context, argv ...string) ([]byte, error) {
	cmd, err := m.Command(ctx, argv...)
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: run %s: %w: %s", m.Hostname, strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, err
}

// LogFile returns the file that has what a service said.
func (m *Machine) LogFile(service string) string { return filepath.Join(m.Logs, service+".log") }

// HTTP returns a client that connects as a process on the machine would. Hosts of URLs must be addresses.
func (m *Machine) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: m.Dial}}
}

func (m *Machine) control() *proc.Client {
	return proc.NewClient(func(ctx context.Context) (net.Conn, error) { return m.Dial(ctx, "unix", socket) })
}

func (m *Machine) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", m.Hostname, err)
}
