package binaries

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// build builds one module into its result, unless somebody else does so meanwhile.
func (b *Builder) build(ctx context.Context, p plan) error {
	if err := os.MkdirAll(filepath.Dir(p.result), 0o755); err != nil {
		return err
	}
	stage := b.Progress.start(fmt.Sprintf("building %s %s (%s, once)", p.title, p.version, p.effort))
	defer stage.end()
	lock, err := lockFile(ctx, p.result+".lock", func() { stage.set("another build of it is under way, waiting") })
	if err != nil {
		return err
	}
	defer lock.Close() // and with it the lock
	if p.built() {
		return nil
	}
	// A build that was killed leaves its directory; under the lock it can be nobody else's.
	temp := p.result + ".tmp"
	if err := os.RemoveAll(temp); err != nil {
		return err
	}
	defer os.RemoveAll(temp)

	stage.set("fetching modules")
	fetched := 0
	stale, err := run(ctx, p.goCommand(ctx, "list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", p.target), func(string) {
		fetched++
		stage.set("fetching modules, %d", fetched)
	})
	if err != nil {
		return err
	}
	total, done := bytes.Count(stale, []byte("\n")), 0
	stage.set("packages 0/%d", total)
	_, err = run(ctx, p.goCommand(ctx, "build", "-v", "-o", temp+"/", p.target), func(string) {
		done++
		stage.set("packages %d/%d", min(done, total), total)
	})
	if err != nil {
		return err
	}
	for _, name := range p.programs {
		if _, err := os.Stat(filepath.Join(temp, name)); err != nil {
			return fmt.Errorf("find what was built: %w", err)
		}
	}
	stage.set("done")
	return os.Rename(temp, p.result)
}

// goCommand returns a run of the go command in the nested module, with everything fixed that could make the result another one.
// go list is given the same flags as go build, or it would call everything stale.
func (p plan) goCommand(ctx context.Context, verb string, args ...string) *exec.Cmd {
	args = append([]string{verb, "-trimpath", "-ldflags", p.flags}, args...)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = p.source
	// The lock ends with this process, and so must the build that it is for.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	return cmd
}

// run runs the go command and returns its output. It calls line for each line on standard error, and if the command fails
// these lines are the error.
func run(ctx context.Context, cmd *exec.Cmd, line func(string)) ([]byte, error) {
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, errors.New("there is no go command on the PATH: install Go from https://go.dev/dl")
		}
		return nil, err
	}
	said := readLines(stderr, line)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, explain(said, err)
	}
	return stdout.Bytes(), nil
}

func readLines(r io.Reader, line func(string)) []string {
	var lines []string
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line(s.Text())
		lines = append(lines, s.Text())
	}
	_, _ = io.Copy(io.Discard, r) // a line beyond the buffer must not block the command
	return lines
}

// unreachable is what the go command says when the module proxy, or the network before it, doesn't answer.
var unreachable = []string{
	"dial tcp", "no such host", "i/o timeout", "connection refused", "proxyconnect", "network is unreachable",
	"TLS handshake timeout", "server misbehaving", "module lookup disabled",
}

// explain makes an error of what the go command said.
func explain(lines []string, err error) error {
	var said []string
	for _, line := range lines {
		if strings.HasPrefix(line, "go: downloading ") || !strings.ContainsAny(line, " :") { // progress, and packages under -v
			continue
		}
		for _, symptom := range unreachable {
			if strings.Contains(line, symptom) {
				return fmt.Errorf("the Go module proxy can't be reached (set GOPROXY to one that can): %s", strings.TrimSpace(line))
			}
		}
		said = append(said, line)
	}
	if len(said) == 0 {
		return fmt.Errorf("run go: %w", err)
	}
	said = said[max(0, len(said)-15):]
	return fmt.Errorf("run go: %w:\n%s", err, strings.Join(said, "\n"))
}

// lockFile takes the exclusive lock of a file, which lasts until the file is closed or the process dies. It calls waiting once if
// somebody else holds it.
func lockFile(ctx context.Context, name string, waiting func()) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
