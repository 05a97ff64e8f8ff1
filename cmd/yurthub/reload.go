package main

import (
	"context"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"yurt/internal/config"
)

// reloadable are the flags whose new values a running hub takes. All others are wired through it; as a restart refuses no
// connection and breaks no client, that is how they change.
func reloadable() []string { return []string{"max-requests-in-flight", "retention", "log-level"} }

// reloader reads the configuration file again when it is told to.
type reloader struct {
	hangup <-chan os.Signal
	args   []string
	values map[string]string // what the program runs with, by flag
	apply  func(*settings) error
	log    *slog.Logger
}

func newReloader(flags *pflag.FlagSet, hangup <-chan os.Signal, log *slog.Logger) *reloader {
	return &reloader{hangup: hangup, args: os.Args[1:], values: values(flags), log: log}
}

func values(flags *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	flags.VisitAll(func(f *pflag.Flag) { all[f.Name] = f.Value.String() })
	return all
}

// Run reloads at each signal until ctx ends. A file that is wrong changes nothing.
func (r *reloader) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.hangup:
			if err := r.reload(); err != nil {
				r.log.Error("the configuration is not reloaded: all stays as it was", "error", err)
			}
		}
	}
}

func (r *reloader) reload() error {
	var fresh settings
	cmd := &cobra.Command{}
	fresh.define(cmd)
	if err := cmd.ParseFlags(r.args); err != nil {
		return err
	}
	if err := fresh.complete(cmd.Flags()); err != nil {
		return err
	}
	if err := r.apply(&fresh); err != nil {
		return err
	}
	changed := 0
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		was, ok := r.values[f.Name]
		is := f.Value.String()
		switch {
		case !ok || was == is:
		case slices.Contains(reloadable(), f.Name):
			r.values[f.Name] = is
			changed++
			r.log.Info("setting changed", "key", config.Key(f.Name), "from", was, "to", is)
		default:
			r.log.Warn("a changed setting needs a restart, which refuses no connection: systemctl restart yurthub", "key", config.Key(f.Name), "from", was, "to", is)
		}
	})
	r.log.Info("configuration reloaded", "file", fresh.file, "changed", changed)
	return nil
}
