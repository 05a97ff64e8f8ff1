// Command yurtctl shows people how the hubs of their nodes stand: on a node by
// the hub's admin port, from elsewhere by what the API server has of nodes.
//
// As kubectl-yurt on the PATH it is a plugin: kubectl yurt status.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"yurt/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Args[0]).ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted:
		os.Exit(130) // as a shell says of who was interrupted
	default:
		fmt.Fprintln(os.Stderr, "yurtctl:", err)
		os.Exit(1)
	}
}

// command is the program under the name by which it was called.
func command(called string) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "yurtctl",
		Short:         "Show how nodes behind YurtHub stand",
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if strings.HasPrefix(filepath.Base(called), "kubectl-") {
		cmd.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl yurt"}
	}
	cmd.AddCommand(statusCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version.String()) },
	})
	return cmd
}
