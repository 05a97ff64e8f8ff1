package version

import (
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e"}
	for _, test := range []struct {
		name string
		info debug.BuildInfo
		want string
	}{
		{"installed as a module", debug.BuildInfo{Main: debug.Module{Version: "v0.3.1"}}, "v0.3.1"},
		{"built in a checkout", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: []debug.BuildSetting{revision}}, "devel-1b2c3d4e5f60"},
		{"built elsewhere", debug.BuildInfo{}, "devel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fromBuild(&test.info); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
