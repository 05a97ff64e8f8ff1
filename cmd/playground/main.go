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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && errors.Is(err, errRan) {
		os.Exit(exit.ExitCode()) // it has said itself what is wrong
	}
	fmt.Fprintln(os.Stderr, "playground:", err)
	if hint := hintFor(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	os.Exit(1)
}

// hintFor says what to do about an error, if there is something.
func hintFor(err error) string {
	var missing *host.MissingError
	switch {
	case errors.Is(err, host.ErrNotRoot):
		return "run it as root, for example with: sudo -E env PATH=\"$PATH\" ..."
	case errors.As(err, &missing):
		return "playground prepare installs them"
	case errors.Is(err, cluster.ErrNoCluster):
		return "playground up brings one up; playground list shows which there are"
	case errors.Is(err, cluster.ErrNoNode):
		return "playground status shows which nodes there are"
	case errors.Is(err, cluster.ErrDifferent):
		return "take it down first, or choose another --name"
	case errors.Is(err, cluster.ErrInUse):
		return "wait for that process, or choose another --name"
	case errors.Is(err, machine.ErrOff):
		return "playground boot NODE switches the power on"
	case errors.Is(err, proc.ErrUnknown):
		return "playground status shows which services there are"
	}
	return ""
}
