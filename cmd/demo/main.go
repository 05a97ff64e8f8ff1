// Command demo tells the founding story as it happens on a real Kubernetes: two
// nodes, one behind YurtHub and one bare, lose the link and their power, boot in
// the dark, and the link returns.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/host"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

const clusterName = "the-demo" // beside the playground's own "demo"

func command() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:           "demo",
		Short:         "Show a node that survives an outage, a power cut and a boot in the dark",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), keep)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the cluster up, to look around with: go run ./cmd/playground --name "+clusterName+" status")
	return cmd
}

func run(ctx context.Context, keep bool) (err error) {
	if err := host.Check(); err != nil {
		return fmt.Errorf("%w; run it again as root: sudo --preserve-env=PATH,HOME make demo", err)
	}
	b := &board{w: os.Stdout, color: terminal(os.Stdout) && os.Getenv("NO_COLOR") == "", start: time.Now()}
	b.title()
	c, err := cluster.Up(ctx, cluster.Config{
		Name:     clusterName,
		Owned:    !keep,
		Nodes:    []cluster.NodeConfig{{Name: "edge", Hub: true}, {Name: "bare"}},
		Progress: &binaries.Progress{Out: os.Stderr, Terminal: terminal(os.Stderr)},
	})
	if err != nil {
		return fmt.Errorf("%w (see also: go run ./cmd/playground prepare)", err)
	}
	defer func() {
		if keep {
			c.Close()
			return
		}
		err = errors.Join(err, c.Down())
	}()
	s, err := newStory(c, b)
	if err != nil {
		return err
	}
	err = s.tell(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted; the cluster is taken down")
	}
	logs, copied := c.KeepLogs()
	if copied != nil {
		logs = copied.Error()
	}
	b.end(s.facts, logs)
	if err == nil && keep {
		b.note("the cluster is still up: go run ./cmd/playground --name %s status", clusterName)
	}
	return err
}

func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}
