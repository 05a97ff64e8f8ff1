package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"yurt/bench/canned"
	"yurt/bench/lab"
	"yurt/bench/result"
	"yurt/internal/playground/cluster"
)

func command() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the hub beside a direct connection", SilenceUsage: true, SilenceErrors: true}
	cmd.AddCommand(runCommand(), quickCommand(), compareCommand(), tableCommand(), cannedCommand())
	return cmd
}

func runCommand() *cobra.Command {
	var cfg lab.Config
	var gateways []string
	var out string
	cmd := &cobra.Command{
		Use: "run", Args: cobra.NoArgs,
		Short: "Measure everything, print a table and write the result",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, text := range gateways {
				g, err := lab.ParseGateway(text)
				if err != nil {
					return err
				}
				cfg.Gateways = append(cfg.Gateways, g)
			}
			if err := complete(cmd, &cfg); err != nil {
				return err
			}
			r, err := lab.Run(cmd.Context(), cfg)
			if r != nil { // what was measured before an error is worth something too
				err = errors.Join(err, r.Table(cmd.OutOrStdout()), r.Write(out))
			}
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	// Not a slice that is split at commas: a gateway has some.
	f.StringArrayVar(&gateways, "gateway", nil, "another gateway, as name=URL[,pid=N][,start='command']; the command gets UPSTREAM, KUBECONFIG and DIR")
	f.StringVar(&out, "out", "bench.json", "file that the result is written to")
	f.StringVar(&cfg.Hub, "hub", "", "file of yurthub (default: built from this checkout)")
	f.IntSliceVar(&cfg.Rows, "rows", nil, "rows to measure (default: all)")
	f.IntVar(&cfg.Rounds, "rounds", 5, "how often each figure is taken")
	f.DurationVar(&cfg.Idle, "idle", 4*time.Minute, "how long the idle node is looked at")
	f.StringVar(&cfg.Dir, "dir", "", "directory for the replicas, on the disk that is to be measured (default: the temporary one)")
	return cmd
}

func complete(cmd *cobra.Command, cfg *lab.Config) (err error) {
	if cfg.Self, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if cfg.Checkout, err = cluster.FindCheckout(); err != nil {
		return err
	}
	cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	return nil
}

func quickCommand() *cobra.Command {
	var cfg lab.Config
	var baseline string
	var update bool
	cmd := &cobra.Command{
		Use: "quick", Args: cobra.NoArgs,
		Short: "Compare some ratios with a baseline, in less than two minutes; fail if one is twice as bad",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := complete(cmd, &cfg); err != nil {
				return err
			}
			if update {
				return lab.WriteBaseline(cmd.Context(), cfg, baseline)
			}
			return lab.Quick(cmd.Context(), cfg, baseline, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&cfg.Hub, "hub", "", "file of yurthub (default: built from this checkout)")
	cmd.Flags().StringVar(&baseline, "baseline", "bench/baseline.json", "file of the ratios to compare with")
	cmd.Flags().BoolVar(&update, "update", false, "write the baseline instead")
	return cmd
}

func compareCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compare BEFORE.json AFTER.json", Args: cobra.ExactArgs(2),
		Short: "Print two results side by side, with their spread",
		RunE: func(cmd *cobra.Command, args []string) error {
			before, err := result.Read(args[0])
			if err != nil {
				return err
			}
			after, err := result.Read(args[1])
			if err != nil {
				return err
			}
			return result.Compare(cmd.OutOrStdout(), before, after)
		},
	}
}

func tableCommand() *cobra.Command {
	var into string
	cmd := &cobra.Command{
		Use: "table RESULT.json", Args: cobra.ExactArgs(1),
		Short: "Print a result as docs/performance.md has it, or put it there",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := result.Read(args[0])
			if err != nil {
				return err
			}
			if into == "" {
				r.Markdown(cmd.OutOrStdout())
				return nil
			}
			return r.Insert(into)
		},
	}
	cmd.Flags().StringVar(&into, "into", "", "document whose table is replaced")
	return cmd
}

func cannedCommand() *cobra.Command {
	var listen, cert, key string
	var pods, slices int
	cmd := &cobra.Command{
		Use: "canned", Args: cobra.NoArgs, Hidden: true,
		Short: "Be an API server that has nothing behind it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := canned.New(pods, slices)
			if err != nil {
				return err
			}
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return fmt.Errorf("read certificate: %w", err)
			}
			l, err := new(net.ListenConfig).Listen(cmd.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			return server.Run(cmd.Context(), l, pair)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "address")
	f.StringVar(&cert, "cert", "", "file of the certificate")
	f.StringVar(&key, "key", "", "file of its key")
	f.IntVar(&pods, "pods", 5000, "how many pods there are")
	f.IntVar(&slices, "slices", 10000, "how many EndpointSlices there are")
	return cmd
}
