package logging_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"yurt/internal/logging"
)

// TestLogger: what the flags ask for is what is written; a wrong value is named.
func TestLogger(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string // of what is written at debug and warn, or of the error
	}{
		{nil, "level=WARN msg=loud\n"},
		{[]string{"--log-level=error"}, ""},
		{[]string{"--log-level=debug"}, "level=DEBUG msg=quiet"},
		{[]string{"--log-format=json"}, `"level":"WARN","msg":"loud"}`},
		{[]string{"--log-level=loud"}, `--log-level "loud": want debug, info, warn or error`},
		{[]string{"--log-format=xml"}, `--log-format "xml": want text or json`},
	} {
		var flags logging.Flags
		cmd := &cobra.Command{}
		flags.Define(cmd)
		if err := cmd.ParseFlags(tc.args); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		logger, err := flags.Logger(&out)
		if err != nil {
			out.WriteString(err.Error())
		} else {
			logger.Debug("quiet")
			logger.Warn("loud")
		}
		if got := out.String(); !strings.Contains(got, tc.want) || tc.want == "" && got != "" || tc.args == nil && strings.Contains(got, "quiet") {
			t.Errorf("%q: %q, want %q", tc.args, got, tc.want)
		}
	}
}
