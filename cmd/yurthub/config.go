package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"yurt/internal/credential"
)

// defaultFile is where packages put the configuration file.
const defaultFile = "/etc/yurthub/config.yaml"

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Work with the configuration file", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("say what to do with the file: yurthub config check [FILE]")
		},
	}
	var noFiles bool
	check := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell what is wrong with a configuration file (" + defaultFile + ")",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := defaultFile
			if len(args) > 0 {
				path = args[0]
			}
			if err := checkFile(path, noFiles); err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
				return fmt.Errorf("%s: the hub would not start with this", path)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", path)
			return nil
		},
	}
	check.Flags().BoolVar(&noFiles, "no-files", false, "leave the files alone that it names: they are on another machine")
	cmd.AddCommand(check)
	return cmd
}

// checkFile returns all that is wrong with a file by itself, without a command line beside it.
func checkFile(path string, noFiles bool) error {
	var s settings
	cmd := &cobra.Command{}
	s.define(cmd)
	file, err := format().Read(path, cmd.Flags())
	if err != nil {
		return err
	}
	_, levels := s.log.Logger(cmd.ErrOrStderr())
	errs := []error{levels, s.hub.Validate()}
	if !noFiles {
		errs = append(errs, s.checkNamed())
	}
	return file.Explain(errors.Join(errs...), cmd.Flags())
}

// checkNamed reads the files that the settings name.
func (s *settings) checkNamed() error {
	var errs []error
	kubeconfig := func(flag, path string) {
		if _, err := credential.LoadKubeconfig(path); path != "" && err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	kubeconfig("kubeconfig", s.hub.Kubeconfig)
	for _, identity := range s.hub.Identities {
		_, path, _ := strings.Cut(identity, "=")
		kubeconfig("identity", path)
	}
	if path := s.hub.KeyFile; path != "" {
		if _, err := os.Stat(path); err != nil {
			errs = append(errs, fmt.Errorf("--encryption-key-file: %w", err))
		}
	}
	return errors.Join(errs...)
}
