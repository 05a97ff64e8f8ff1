// Command yurthub is the gateway of a node to its Kubernetes API server: it
// answers kubelet, kube-proxy and the others there from a durable local replica
// and keeps that up to date while there is a link.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"yurt/internal/failpoint"
	"yurt/internal/hub"
	"yurt/internal/systemd"
	"yurt/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "yurthub:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:           "yurthub --kubeconfig FILE",
		Short:         "Serve the Kubernetes API to this node from a durable replica",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			if err := s.complete(cmd.Flags()); err != nil {
				return err
			}
			logger, err := s.log.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			s.hub.Logger, s.hub.Version = logger, version.String()
			s.hub.Credentials = os.Getenv("CREDENTIALS_DIRECTORY")
			return run(cmd.Context(), &s, newReloader(cmd.Flags(), hangup, logger))
		},
	}
	s.define(cmd)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(configCommand())
	return cmd
}

// gcPercent trades processor time for memory: the hub allocates little, and
// shares small machines with the workload.
const gcPercent = 50

func run(ctx context.Context, s *settings, reloads *reloader) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := failpoint.FromEnv(); err != nil {
		return err
	}
	var err error
	if s.hub.Sockets, err = systemd.Inherited(); err != nil {
		return err
	}
	h, err := hub.New(s.hub)
	if err != nil {
		return err
	}
	reloads.apply = func(to *settings) error {
		h.Adjust(to.hub.MaxInFlight, to.hub.Retention)
		return s.log.SetLevel(to.log.Level)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.Run(ctx) })
	g.Go(func() error { return reloads.Run(ctx) })
	return errors.Join(g.Wait(), h.Close())
}
