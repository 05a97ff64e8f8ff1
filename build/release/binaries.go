package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are the commands of a release, those for nodes and those for the cloud.
func (r *release) programs() ([]string, error) {
	var there []string
	for _, name := range []string{"yurt-controller-manager", "yurtctl", "yurthub"} {
		if _, err := os.Stat(filepath.Join(r.source, "cmd", name)); err == nil {
			there = append(there, name)
		}
	}
	if !slices.Contains(there, "yurthub") {
		return nil, fmt.Errorf("%s is no checkout: it has no cmd/yurthub", r.source)
	}
	return there, nil
}

func (r *release) binary(program, platform string) string {
	return filepath.Join(r.out, program+"-linux-"+platform)
}

// compile builds a static binary.
func (r *release) compile(program, platform string) error {
	arch, arm, _ := strings.Cut(platform, "v")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X yurt/internal/version.number="+r.version,
		"-o", r.binary(program, platform), "./cmd/"+program)
	cmd.Dir, cmd.Stderr = r.source, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH="+arch, "GOARM="+arm, "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("compile %s for %s: %w", program, platform, err)
	}
	return nil
}

// A component is a program or a module in a bill of materials in CycloneDX's form.
type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	PURL    string `json:"purl,omitempty"`
}

// materials writes what a binary consists of, as the linker has written it down there.
func (r *release) materials(program, platform string) error {
	info, err := buildinfo.ReadFile(r.binary(program, platform))
	if err != nil {
		return fmt.Errorf("read what %s consists of: %w", program, err)
	}
	bill := struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Version  int    `json:"version"`
		Metadata struct {
			Timestamp string    `json:"timestamp"`
			Component component `json:"component"`
		} `json:"metadata"`
		Components []component `json:"components"`
	}{Format: "CycloneDX", Spec: "1.5", Version: 1}
	bill.Metadata.Timestamp = r.time.Format("2006-01-02T15:04:05Z")
	bill.Metadata.Component = component{Type: "application", Name: program, Version: r.version}
	std := strings.TrimPrefix(info.GoVersion, "go")
	bill.Components = append(bill.Components, component{Type: "library", Name: "std", Version: info.GoVersion, PURL: "pkg:golang/std@" + std})
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		bill.Components = append(bill.Components, component{Type: "library", Name: module.Path, Version: module.Version, PURL: "pkg:golang/" + module.Path + "@" + module.Version})
	}
	text, err := json.MarshalIndent(bill, "", "  ")
	if err != nil {
		return err
	}
	return r.write(filepath.Base(r.binary(program, platform))+".cdx.json", append(text, '\n'))
}
