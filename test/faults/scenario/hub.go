package scenario

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"yurt/test/faults/traffic"
)

// startPatience is how long a hub may take to serve, on a machine that does a lot beside.
const startPatience = 60 * time.Second

// hubProcess is a hub that runs.
type hubProcess struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has gone
	ready chan struct{} // closed when it serves

	plain, admin string // URLs, once it is ready

	mu  sync.Mutex
	log bytes.Buffer
}

// startHub starts the program on a root directory.
func startHub(program, kubeconfig, root string, env ...string) (*hubProcess, error) {
	h := &hubProcess{ended: make(chan struct{}), ready: make(chan struct{})}
	h.cmd = exec.Command(program, "--kubeconfig", kubeconfig, "--node-name", traffic.NodeName, "--root-dir", root,
		"--serve-port", "0", "--proxy-secure-port", "0", "--proxy-port", "0", "--enable-insecure-proxy", "--store-max-bytes", "16777216")
	h.cmd.Env = append(os.Environ(), env...)
	stderr, err := h.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start hub: %w", err)
	}
	go func() {
		defer close(h.ended)
		h.read(stderr)
		_ = h.cmd.Wait() // it is killed, or its log says why it ended
	}()
	return h, nil
}

var (
	plainAddress = regexp.MustCompile(`the plain port is open.* address=(\S+)`)
	adminAddress = regexp.MustCompile(`yurthub serves.* admin=(\S+)`)
)

func (h *hubProcess) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		h.mu.Lock()
		fmt.Fprintln(&h.log, line)
		h.mu.Unlock()
		if m := plainAddress.FindStringSubmatch(line); m != nil {
			h.plain = "http://" + m[1]
		}
		if m := adminAddress.FindStringSubmatch(line); m != nil {
			h.admin = m[1]
			close(h.ready)
		}
	}
}

// awaitReady returns nil when the hub serves, or when ctx ends. An error says why it ended by itself.
func (h *hubProcess) awaitReady(ctx context.Context) error {
	select {
	case <-h.ready:
		return nil
	case <-ctx.Done():
		return nil
	case <-h.ended:
		return h.lastWords()
	case <-time.After(startPatience):
		return fmt.Errorf("the hub does not serve after %s: %w", startPatience, h.lastWords())
	}
}

func (h *hubProcess) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.log.String()
}

func (h *hubProcess) lastWords() error {
	lines := strings.Split(strings.TrimSpace(h.said()), "\n")
	return errors.New(strings.Join(lines[max(0, len(lines)-4):], " | "))
}

func (h *hubProcess) gone() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// kill ends the process as a power cut does. It may be in the middle of a call to a disk that does not answer: ended is
// closed once it does.
func (h *hubProcess) kill() error {
	if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill hub: %w", err)
	}
	return nil
}
