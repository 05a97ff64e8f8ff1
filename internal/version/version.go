// Package version says which build of the project this is.
//
// A release carries the number that the linker stamped into it; any other build says what Go knows of it: the module's version, or
// the revision of the checkout, or "devel". The answer is one word, never empty, and the same for the whole life of the process.
package version

import "runtime/debug"

// number is set by the linker: see Makefile.
var number string

// String returns the version, as in "v0.3.1" or "v0.3.1-4-g1b2c3d4-dirty".
func String() string {
	if number != "" {
		return number
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return fromBuild(info)
}

func fromBuild(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return "devel-" + setting.Value[:12]
		}
	}
	return "devel"
}
