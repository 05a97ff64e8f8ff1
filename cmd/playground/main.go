// Command playground runs a whole Kubernetes on this computer, with nodes whose link can be cut and whose power can fail.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/host"
	"yurt/internal/playground/machine"
	"yurt/internal/playground/proc"
)

func main() { os.Exit(run()) }

// run returns the exit code.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && errors.Is(err, errRan):
		return exit.ExitCode() // it has said itself what is wrong
	default:
		fmt.Fprintln(os.Stderr, "playground:", message(err))
		return 1
	}
}

// message says what is wrong and, where there is something, what to do about it.
func message(err error) string {
	if hint := hintFor(err); hint != "" {
		return err.Error() + "; " + hint
	}
	return err.Error()
}

func hintFor(err error) string {
	var missing *host.MissingError
	switch {
	case errors.Is(err, host.ErrNotRoot):
		return `run it again as root: sudo --preserve-env=PATH,HOME playground ...`
	case errors.As(err, &missing):
		return "playground prepare installs them on Debian"
	case errors.Is(err, cluster.ErrNoCluster):
		return "playground up brings one up, playground list shows those that there are"
	case errors.Is(err, cluster.ErrNoNode):
		return "playground status shows the nodes that there are"
	case errors.Is(err, cluster.ErrDifferent):
		return "playground down takes it down, --name NAME makes another"
	case errors.Is(err, cluster.ErrInUse):
		return "wait for it, or choose another --name"
	case errors.Is(err, machine.ErrOff):
		return "playground boot NODE switches it on"
	case errors.Is(err, proc.ErrUnknown):
		return "playground status shows the services that there are"
	}
	return ""
}
