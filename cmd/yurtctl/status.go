package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"yurt/internal/adminapi"
)

const (
	defaultAdmin = "127.0.0.1:10267"
	patience     = 5 * time.Second // with a hub: it answers from memory
	interval     = 2 * time.Second // of --watch
)

// statusFlags are what status is asked for.
type statusFlags struct {
	admin   string
	output  string
	watch   bool
	all     bool
	cluster clusterFlags
}

func statusCommand() *cobra.Command {
	var f statusFlags
	cmd := &cobra.Command{
		Use:   "status [NODE...]",
		Short: "Tell how this node's hub stands, or what the cloud knows of nodes",
		Long: `Without nodes, status asks the hub of the node that it runs on: the link and since when, how old what each client
is shown would be, what waits for the link, memory, and bytes. That works in the dark.

With nodes, or --all, it asks the API server what it knows of them.`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, nodes []string) error {
			show, err := f.shower(nodes)
			if err != nil {
				return err
			}
			return f.repeat(cmd.Context(), cmd.OutOrStdout(), show)
		},
	}
	cmd.Flags().StringVar(&f.admin, "admin", defaultAdmin, "address of the hub's admin port")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "text, wide, json or yaml")
	cmd.Flags().BoolVarP(&f.watch, "watch", "w", false, "show it again every two seconds")
	cmd.Flags().BoolVar(&f.all, "all", false, "all nodes of the cluster")
	cmd.Flags().StringVar(&f.cluster.kubeconfig, "kubeconfig", "", "how to reach the API server (default: as kubectl)")
	cmd.Flags().StringVar(&f.cluster.context, "context", "", "context of the kubeconfig")
	// Its only error is that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// A shower writes the status once.
type shower func(context.Context, io.Writer) error

func (f *statusFlags) shower(nodes []string) (shower, error) {
	switch f.output {
	case "text", "wide", "json", "yaml":
	default:
		return nil, fmt.Errorf("--output %q: want text, wide, json or yaml", f.output)
	}
	switch {
	case f.all && len(nodes) > 0:
		return nil, errors.New("--all and names of nodes: want one of them")
	case f.all || len(nodes) > 0:
		return f.ofNodes(nodes)
	case f.cluster != clusterFlags{}:
		return nil, errors.New("--kubeconfig and --context are for nodes elsewhere: name some, or say --all")
	}
	return f.ofHub, nil
}

// repeat shows it once, or with --watch until it is interrupted. Then an error is shown in the place of the status: that a
// hub or a link goes and comes back is what one watches for.
func (f *statusFlags) repeat(ctx context.Context, w io.Writer, show shower) error {
	if !f.watch {
		return show(ctx, w)
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for first := true; ; first = false {
		switch {
		case isTerminal(w):
			fmt.Fprint(w, "\x1b[H\x1b[2J")
		case f.output == "yaml":
			fmt.Fprintln(w, "---")
		case !first && f.output != "json":
			fmt.Fprintln(w)
		}
		if err := show(ctx, w); err != nil {
			if first || ctx.Err() != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "yurtctl:", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// ofHub shows what the hub of this node says.
func (f *statusFlags) ofHub(ctx context.Context, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: it is a port of this node
	var err error
	switch f.output {
	case "text", "wide":
		err = adminapi.WriteText(ctx, client, f.admin, w)
	default:
		var status *adminapi.Status
		if status, err = adminapi.Get(ctx, client, f.admin); err == nil {
			return writeAs(w, f.output, status)
		}
	}
	if err != nil {
		return fmt.Errorf("%w\nOn a node: is the hub running (systemctl status yurthub), and is its admin port %s (--admin)?\n"+
			"From elsewhere, name nodes: yurtctl status NODE..., or yurtctl status --all", err, f.admin)
	}
	return nil
}

// writeAs writes a document as JSON or YAML.
func writeAs(w io.Writer, format string, document any) error {
	data, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	if format == "yaml" {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return err
		}
	}
	_, err = w.Write(data)
	return err
}
