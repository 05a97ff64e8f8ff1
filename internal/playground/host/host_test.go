package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMissing(t *testing.T) {
	for _, tc := range []struct {
		name string
		has  func(string) bool
		want []string
	}{
		{"all there", func(string) bool { return true }, nil},
		{
			"each package once", func(file string) bool { return file != "ip" && file != "tc" && file != "runc" },
			[]string{"iproute2", "runc"},
		},
		{
			"one of a package's files", func(file string) bool { return !strings.HasSuffix(file, "ptp") },
			[]string{"containernetworking-plugins"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, missing(tc.has)); diff != "" {
				t.Errorf("packages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMissingError(t *testing.T) {
	err := &MissingError{Packages: []string{"iproute2", "runc"}}
	if diff := cmp.Diff("missing Debian packages: iproute2 runc", err.Error()); diff != "" {
		t.Error(diff)
	}
}

func TestSnapshotter(t *testing.T) {
	got, err := Snapshotter(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got != "overlayfs" && got != "native" {
		t.Errorf("snapshotter is %q", got)
	}
	if _, err := Snapshotter("/nowhere"); err == nil {
		t.Error("a directory that isn't there has a snapshotter")
	}
}
