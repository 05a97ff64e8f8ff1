package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/playground/cluster"
	"yurt/internal/playground/machine"
	"yurt/internal/playground/proc"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show machines, links and services",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.open()
			if err != nil {
				return err
			}
			return writeStatus(cmd.Context(), cmd.OutOrStdout(), c)
		},
	}
}

func writeStatus(ctx context.Context, out io.Writer, c *cluster.Cluster) error {
	ready := readiness(ctx, c)
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "MACHINE\tPOWER\tLINK\tNODE\tSERVICES")
	fmt.Fprintf(table, "%s\t%s\t-\t-\t%s\n", c.Cloud().Hostname, power(c.Cloud()), services(ctx, c.Cloud()))
	for _, n := range c.Nodes() {
		link, err := n.Link()
		if err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", n.Hostname, power(n.Machine), link, ready(n.Hostname), services(ctx, n.Machine))
	}
	return table.Flush()
}

func power(m *machine.Machine) string {
	if _, err := m.PID(); err != nil {
		return "off"
	}
	return "on"
}

// services names what runs, and says of what doesn't what it does instead.
func services(ctx context.Context, m *machine.Machine) string {
	all, err := m.Services(ctx)
	if err != nil {
		return "-"
	}
	var words []string
	for _, s := range all {
		word := s.Name
		if s.State != proc.Running {
			word += "(" + s.State.String() + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, " ")
}

// readiness returns what the API server thinks of each node.
func readiness(ctx context.Context, c *cluster.Cluster) func(node string) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	states := map[string]string{}
	if client, err := c.Client(); err == nil {
		if nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
			for _, n := range nodes.Items {
				states[n.Name] = nodeState(n)
			}
		}
	}
	return func(node string) string {
		if s, ok := states[node]; ok {
			return s
		}
		return "?"
	}
}

func nodeState(n corev1.Node) string {
	for _, condition := range n.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		switch condition.Status {
		case corev1.ConditionTrue:
			return "Ready"
		case corev1.ConditionFalse:
			return "NotReady"
		case corev1.ConditionUnknown:
			return "Unknown"
		}
	}
	return "?"
}

func (a *app) containersCommand() *cobra.Command {
	return a.onNode("containers NODE", "List the containers that a node's runtime has", cobra.ExactArgs(1),
		func(ctx context.Context, n *cluster.Node, _ []string) error {
			all, err := n.Containers(ctx)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tNAMESPACE\tPOD\tCONTAINER\tADDRESS\tSTATE\tAGE")
			for _, c := range all {
				state := "ended"
				if c.Running {
					state = "running"
				}
				fmt.Fprintf(table, "%.12s\t%s\t%s\t%s\t%s\t%s\t%s\n",
					c.ID, c.Namespace, c.Pod, c.Name, c.PodIP, state, time.Since(c.Created).Round(time.Second))
			}
			return table.Flush()
		})
}
