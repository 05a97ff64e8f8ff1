package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"yurt/internal/playground/binaries"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/host"
	"yurt/internal/playground/machine"
)

// errRan marks the error of a program that was run for the user and wrote its own message.
var errRan = errors.New("the program failed")

// app is what all commands share.
type app struct {
	name string
	root string
}

func newCommand() *cobra.Command {
	a := &app{}
	cmd := &cobra.Command{
		Use:           "playground",
		Short:         "A whole Kubernetes on this computer, with nodes whose link and power can fail",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.PersistentFlags().StringVar(&a.name, "name", "demo", "name of the cluster")
	cmd.PersistentFlags().StringVar(&a.root, "root-dir", cluster.DefaultRoot, "directory of all clusters")
	cmd.AddCommand(
		a.prepareCommand(), a.upCommand(), a.downCommand(), a.listCommand(), a.statusCommand(),
		a.cutCommand(), a.healCommand(), a.blackholeCommand(), a.slowCommand(), a.lossyCommand(), a.flapCommand(),
		a.powercutCommand(), a.bootCommand(),
		a.startCommand(), a.stopCommand(), a.restartCommand(), a.killCommand(),
		a.execCommand(), a.kubectlCommand(), a.logsCommand(), a.containersCommand(),
	)
	return cmd
}

func (a *app) prepareCommand() *cobra.Command {
	var kubernetes string
	cmd := &cobra.Command{
		Use:   "prepare",
		Short: "Install the Debian packages and build the programs that a playground needs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			if err := host.Install(ctx, out); err != nil {
				return err
			}
			checkout, err := cluster.FindCheckout()
			if err != nil {
				return err
			}
			b := binaries.Builder{Checkout: checkout, Progress: progressOn(out)}
			_, err = b.Build(ctx, kubernetes)
			return err
		},
	}
	cmd.Flags().StringVar(&kubernetes, "kubernetes", binaries.DefaultKubernetes(), "release of Kubernetes")
	return cmd
}

func (a *app) upCommand() *cobra.Command {
	var nodes, kubernetes string
	var dns, verbose bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the cluster up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			parsed, err := parseNodes(nodes)
			if err != nil {
				return err
			}
			cfg := cluster.Config{
				Name: a.name, Root: a.root, Nodes: parsed, Kubernetes: kubernetes, DNS: dns, Progress: progressOn(out),
			}
			if verbose {
				cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			}
			begun := time.Now()
			c, err := cluster.Up(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "cluster %s is up after %.1f s; logs are in %s\n", c.Config.Name, time.Since(begun).Seconds(), c.LogDir())
			return nil
		},
	}
	cmd.Flags().StringVar(&nodes, "nodes", "edge:hub,bare", "nodes by name, with :hub those behind YurtHub")
	cmd.Flags().StringVar(&kubernetes, "kubernetes", binaries.DefaultKubernetes(), "release of Kubernetes")
	cmd.Flags().BoolVar(&dns, "dns", false, "run CoreDNS on each node")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say what happens")
	return cmd
}

// parseNodes reads a list such as edge:hub,bare.
func parseNodes(list string) ([]cluster.NodeConfig, error) {
	var nodes []cluster.NodeConfig
	for item := range strings.SplitSeq(list, ",") {
		name, kind, _ := strings.Cut(item, ":")
		if name == "" || kind != "" && kind != "hub" {
			return nil, fmt.Errorf("read nodes: %q is neither NAME nor NAME:hub", item)
		}
		nodes = append(nodes, cluster.NodeConfig{Name: name, Hub: kind == "hub"})
	}
	return nodes, nil
}

func (a *app) downCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the cluster and remove all of it",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := host.CheckRoot(); err != nil {
				return err
			}
			return cluster.Down(a.root, a.name)
		},
	}
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the clusters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := cluster.Names(a.root)
			for _, name := range names {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		},
	}
}

// open returns the cluster that the user means.
func (a *app) open() (*cluster.Cluster, error) {
	if err := host.CheckRoot(); err != nil {
		return nil, err
	}
	return cluster.Open(a.root, a.name)
}

// machine returns a node of the cluster, or its cloud.
func (a *app) machine(name string) (*machine.Machine, error) {
	c, err := a.open()
	if err != nil {
		return nil, err
	}
	if name == c.Cloud().Hostname {
		return c.Cloud(), nil
	}
	n, err := c.Node(name)
	if err != nil {
		return nil, err
	}
	return n.Machine, nil
}

// onNode makes a command that does something to one node, named by the first argument.
func (a *app) onNode(use, short string, args cobra.PositionalArgs, do func(context.Context, *cluster.Node, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.open()
			if err != nil {
				return err
			}
			n, err := c.Node(args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), n, args[1:])
		},
	}
}

func (a *app) cutCommand() *cobra.Command {
	return a.onNode("cut NODE", "Cut a node's link: both ends notice", cobra.ExactArgs(1),
		func(ctx context.Context, n *cluster.Node, _ []string) error { return n.Cut(ctx) })
}

func (a *app) healCommand() *cobra.Command {
	return a.onNode("heal NODE", "Make a node's link good again", cobra.ExactArgs(1),
		func(ctx context.Context, n *cluster.Node, _ []string) error { return n.Heal(ctx) })
}

func (a *app) blackholeCommand() *cobra.Command {
	return a.onNode("blackhole NODE", "Let a node's link drop everything without a sign", cobra.ExactArgs(1),
		func(ctx context.Context, n *cluster.Node, _ []string) error { return n.Blackhole(ctx) })
}

func (a *app) slowCommand() *cobra.Command {
	return a.onNode("slow NODE KBIT", "Limit a node's link, in kbit/s each way; 0 takes the limit away", cobra.ExactArgs(2),
		func(ctx context.Context, n *cluster.Node, args []string) error {
			rate, err := strconv.Atoi(args[0])
			if err != nil {
				return fmt.Errorf("read rate: %q is no number of kbit/s", args[0])
			}
			return n.Slow(ctx, rate)
		})
}

func (a *app) lossyCommand() *cobra.Command {
	return a.onNode("lossy NODE PERCENT", "Let a node's link lose packets, each way; 0 ends it", cobra.ExactArgs(2),
		func(ctx context.Context, n *cluster.Node, args []string) error {
			percent, err := strconv.Atoi(strings.TrimSuffix(args[0], "%"))
			if err != nil {
				return fmt.Errorf("read loss: %q is no percentage", args[0])
			}
			return n.Lossy(ctx, percent)
		})
}

func (a *app) flapCommand() *cobra.Command {
	return a.onNode("flap NODE PERIOD", "Cut and heal a node's link again and again, until interrupted", cobra.ExactArgs(2),
		func(ctx context.Context, n *cluster.Node, args []string) error {
			period, err := time.ParseDuration(args[0])
			if err != nil || period <= 0 {
				return fmt.Errorf("read period: %q is no duration such as 700ms", args[0])
			}
			return n.Flap(ctx, period)
		})
}

func (a *app) powercutCommand() *cobra.Command {
	return a.onNode("powercut NODE", "Cut a node's power: all that runs on it is gone", cobra.ExactArgs(1),
		func(_ context.Context, n *cluster.Node, _ []string) error { return n.PowerCut() })
}

func (a *app) bootCommand() *cobra.Command {
	return a.onNode("boot NODE", "Switch a node on", cobra.ExactArgs(1),
		func(ctx context.Context, n *cluster.Node, _ []string) error { return n.Boot(ctx) })
}

// onService makes a command that does something to a service of a machine.
func (a *app) onService(verb, short string, do func(context.Context, *machine.Machine, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NODE SERVICE", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), m, args[1])
		},
	}
}

func (a *app) startCommand() *cobra.Command {
	return a.onService("start", "Start a service of a node or of the cloud",
		func(ctx context.Context, m *machine.Machine, service string) error {
			return m.StartService(ctx, service)
		})
}

func (a *app) stopCommand() *cobra.Command {
	return a.onService("stop", "Stop a service, until it is started or the node boots",
		func(ctx context.Context, m *machine.Machine, service string) error {
			return m.StopService(ctx, service)
		})
}

func (a *app) restartCommand() *cobra.Command {
	return a.onService("restart", "Stop and start a service",
		func(ctx context.Context, m *machine.Machine, service string) error {
			return m.RestartService(ctx, service)
		})
}

func (a *app) killCommand() *cobra.Command {
	var name string
	cmd := a.onService("kill", "Send a signal to a service; it is started again if it ends",
		func(ctx context.Context, m *machine.Machine, service string) error {
			sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG"))
			if sig == 0 {
				return fmt.Errorf("send signal %q: there is no such signal", name)
			}
			return m.Kill(ctx, service, sig)
		})
	cmd.Flags().StringVarP(&name, "signal", "s", "KILL", "the signal; STOP freezes, CONT goes on")
	return cmd
}

func (a *app) execCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec NODE [--] COMMAND...", Short: "Run a command on a node or in the cloud", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			argv := args[1:]
			if argv[0] == "--" && len(argv) > 1 { // as kubectl exec is called
				argv = argv[1:]
			}
			c, err := m.Command(cmd.Context(), argv...)
			if err != nil {
				return err
			}
			return attach(c)
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl ...", Short: "Run kubectl as the cluster's administrator", DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := a.takeOwnFlags(cmd, args)
			if err != nil {
				return err
			}
			c, err := a.open()
			if err != nil {
				return err
			}
			k, err := c.Kubectl(cmd.Context(), args...)
			if err != nil {
				return err
			}
			return attach(k)
		},
	}
}

// takeOwnFlags reads the flags of playground that stand before kubectl's first argument. All that follows is kubectl's, whatever
// it looks like.
func (a *app) takeOwnFlags(cmd *cobra.Command, args []string) ([]string, error) {
	own := cmd.InheritedFlags()
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		name, value, inline := strings.Cut(strings.TrimPrefix(args[0], "--"), "=")
		if own.Lookup(name) == nil {
			break
		}
		args = args[1:]
		if !inline {
			if len(args) == 0 {
				return nil, fmt.Errorf("flag needs an argument: --%s", name)
			}
			value, args = args[0], args[1:]
		}
		if err := own.Set(name, value); err != nil {
			return nil, err
		}
	}
	return args, nil
}

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use: "logs NODE SERVICE", Short: "Show what a service said", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.machine(args[0])
			if err != nil {
				return err
			}
			file := m.LogFile(args[1])
			if follow {
				return attach(exec.CommandContext(cmd.Context(), "tail", "-n", "+1", "-F", file))
			}
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(cmd.OutOrStdout(), f)
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on")
	return cmd
}

// attach runs a program with the user's terminal.
func attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errors.Join(errRan, err)
	}
	return err
}

// progressOn shows progress on an output, as fits it.
func progressOn(out io.Writer) *binaries.Progress {
	p := &binaries.Progress{Out: out}
	if f, ok := out.(*os.File); ok {
		_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
		p.Terminal = err == nil
	}
	return p
}
