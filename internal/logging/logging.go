// Package logging makes the logger that a program's flags --log-level and --log-format ask for, the same in all programs.
//
// A value that it does not know is an error that names the flag. It holds no logger of its own, and never sets the default one.
package logging

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// Flags are the values of the two flags.
type Flags struct {
	Level  string // debug, info, warn or error
	Format string // text or json

	level slog.LevelVar // of the logger that was made
}

// Define defines the flags of a command.
func (f *Flags) Define(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.Level, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&f.Format, "log-format", "text", "text or json")
}

// Logger returns a logger that writes to w. Its error names the flag that is wrong.
func (f *Flags) Logger(w io.Writer) (*slog.Logger, error) {
	if err := f.SetLevel(f.Level); err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: &f.level}
	switch f.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format %q: want text or json", f.Format)
}

// SetLevel changes the level of the logger that was made.
func (f *Flags) SetLevel(to string) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(to)); err != nil {
		return fmt.Errorf("--log-level %q: want debug, info, warn or error", to)
	}
	f.level.Set(level)
	return nil
}
