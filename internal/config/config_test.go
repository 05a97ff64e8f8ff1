package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/spf13/pflag"
)

// program has a flag of each type.
func program() *pflag.FlagSet {
	flags := pflag.NewFlagSet("program", pflag.ContinueOnError)
	flags.String("root-dir", "/var", "")
	flags.Bool("enable-insecure-proxy", false, "")
	flags.Int("serve-port", 10267, "")
	flags.Int64("store-max-bytes", 1<<30, "")
	flags.Duration("retention", time.Hour, "")
	flags.StringSlice("dummy-if-ip", []string{"169.254.2.1"}, "")
	flags.StringArray("identity", nil, "")
	flags.Float64("load", 1, "")
	flags.String("config", "", "")
	return flags
}

// TestRead: in testdata/read the input is a file, the arguments are the command line, and the output is what of the flags is
// not as it is by default, or what is wrong.
func TestRead(t *testing.T) {
	format := Format{APIVersion: "program/v1", Kind: "Configuration", Except: []string{"config"}}
	datadriven.RunTest(t, "testdata/read", func(t *testing.T, d *datadriven.TestData) string {
		flags := program()
		var args []string
		for _, arg := range d.CmdArgs {
			args = append(args, "--"+arg.Key+"="+strings.Join(arg.Vals, ","))
		}
		if err := flags.Parse(args); err != nil {
			d.Fatalf(t, "%v", err)
		}
		dir := t.TempDir()
		path := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(path, []byte(d.Input), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := format.Read(path, flags)
		if err == nil && d.Cmd == "explain" {
			err = file.Explain(errors.Join(
				fmt.Errorf("--root-dir %s: is wrong", flags.Lookup("root-dir").Value),
				errors.Join(errors.New("--serve-port 7 is not a port"), errors.New("something else"))), flags)
		}
		if err != nil {
			return strings.ReplaceAll(err.Error(), dir+"/", "")
		}
		var out strings.Builder
		flags.VisitAll(func(f *pflag.Flag) {
			if f.Value.String() != f.DefValue {
				fmt.Fprintf(&out, "--%s=%s\n", f.Name, f.Value)
			}
		})
		return out.String()
	})
}

func TestNoFile(t *testing.T) {
	_, err := Format{}.Read(filepath.Join(t.TempDir(), "missing.yaml"), program())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
