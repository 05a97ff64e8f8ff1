package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"yurt/internal/config"
)

var update = flag.Bool("update", false, "write docs/configuration.md anew")

// TestConfigurationIsDocumented: docs/configuration.md lists every key, as the program has it.
func TestConfigurationIsDocumented(t *testing.T) {
	var table strings.Builder
	table.WriteString("\n\n| key | flag | value | default | |\n|---|---|---|---|---|\n")
	command().Flags().VisitAll(func(f *pflag.Flag) {
		if !format().Has(f) {
			return
		}
		changes := ""
		if slices.Contains(reloadable(), f.Name) {
			changes = " **Reloaded.**"
		}
		fmt.Fprintf(&table, "| `%s` | `--%s` | %s | %s | %s.%s |\n", config.Key(f.Name), f.Name, words(f), byDefault(f), sentence(f.Usage), changes)
	})
	table.WriteString("\n")

	path := filepath.Join("..", "..", "docs", "configuration.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- keys: go test ./cmd/yurthub -run TestConfigurationIsDocumented -update -->", "<!-- end of keys -->"
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", path)
	}
	want := head + begin + table.String() + end + tail
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if want != string(page) {
		t.Errorf("%s is not up to date: go test ./cmd/yurthub -run TestConfigurationIsDocumented -update", path)
	}
}

func words(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "stringSlice", "stringArray":
		return "list of strings"
	case "bool":
		return "true, false"
	case "int", "int64":
		return "number"
	}
	return f.Value.Type()
}

func byDefault(f *pflag.Flag) string {
	if f.DefValue == "" || f.DefValue == "[]" {
		return ""
	}
	return "`" + f.DefValue + "`"
}

func sentence(usage string) string {
	return strings.ToUpper(usage[:1]) + strings.ReplaceAll(usage[1:], "|", `\|`)
}

// TestShippedConfiguration: the file that packages install is right, and so it is when its examples are taken.
func TestShippedConfiguration(t *testing.T) {
	shipped := filepath.Join("..", "..", "deploy", "config", "config.yaml")
	text, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# ") {
			examples++
		}
	}
	taken := filepath.Join(t.TempDir(), "taken.yaml")
	if err := os.WriteFile(taken, []byte(strings.NewReplacer("\n# ", "\n# ", "\n#", "\n").Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{shipped, taken} {
		if err := checkFile(path, true); err != nil {
			t.Error(err)
		}
	}
	if examples < 5 {
		t.Errorf("%d examples: are they still written as they were?", examples)
	}
}
