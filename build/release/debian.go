package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
)

// startLine is what the units of deploy/systemd start; the package has its own paths.
var startLine = regexp.MustCompile(`(?m)^ExecStart=.*$`)

const packagedStart = "ExecStart=/usr/bin/yurthub --config /etc/yurthub/config.yaml"

// debian makes the package of a node. It is installed and not started: it has to be told of its cluster first.
func (r *release) debian(platform string, programs []string) error {
	work, err := os.MkdirTemp("", "release-*")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer os.RemoveAll(work)
	contents, err := r.installed(work, platform, programs)
	if err != nil {
		return err
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name:          "yurthub",
		Arch:          map[string]string{"amd64": "amd64", "arm64": "arm64", "armv7": "arm7"}[platform],
		Platform:      "linux",
		Version:       debianVersion(r.version),
		VersionSchema: "none",
		Section:       "admin",
		Priority:      "optional",
		Maintainer:    "The yurt authors",
		Description:   "Kubernetes API of a node, from a durable replica\nKeeps the node's pods, and brings them back after a power cut, while the link to the cloud is bad or gone.",
		License:       "Apache-2.0",
		MTime:         r.time,
		Overridables: nfpm.Overridables{
			Contents: contents,
			Umask:    0o022,
			Scripts: nfpm.Scripts{
				PostInstall: filepath.Join(r.source, "deploy", "debian", "postinst"),
				PreRemove:   filepath.Join(r.source, "deploy", "debian", "prerm"),
				PostRemove:  filepath.Join(r.source, "deploy", "debian", "postrm"),
			},
		},
	})
	if err := nfpm.PrepareForPackager(info, "deb"); err != nil {
		return fmt.Errorf("prepare the package for %s: %w", platform, err)
	}
	var archive bytes.Buffer
	if err := deb.Default.Package(info, &archive); err != nil {
		return fmt.Errorf("make the package for %s: %w", platform, err)
	}
	return r.write(deb.Default.ConventionalFileName(info), archive.Bytes())
}

// installed is what the package puts on a node.
func (r *release) installed(work, platform string, programs []string) (files.Contents, error) {
	file := func(source, target, kind string, mode os.FileMode) *files.Content {
		return &files.Content{Source: source, Destination: target, Type: kind, FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: mode, MTime: r.time}}
	}
	contents := files.Contents{
		file(filepath.Join(r.source, "deploy", "config", "config.yaml"), "/etc/yurthub/config.yaml", files.TypeConfigNoReplace, 0o644),
		file(filepath.Join(r.source, "LICENSE"), "/usr/share/doc/yurthub/copyright", files.TypeFile, 0o644),
	}
	for _, program := range programs {
		if program != "yurt-controller-manager" { // that is the cloud's
			contents = append(contents, file(r.binary(program, platform), "/usr/bin/"+program, files.TypeFile, 0o755))
		}
	}
	if slices.Contains(programs, "yurtctl") { // kubectl's plugins are found by their names
		contents = append(contents, file("yurtctl", "/usr/bin/kubectl-yurt", files.TypeSymlink, 0o777))
	}
	units, err := filepath.Glob(filepath.Join(r.source, "deploy", "systemd", "yurthub*"))
	if err != nil || len(units) == 0 {
		return nil, fmt.Errorf("find systemd's units in %s: %d, %w", r.source, len(units), err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			return nil, fmt.Errorf("read unit: %w", err)
		}
		packaged := filepath.Join(work, filepath.Base(unit))
		if err := os.WriteFile(packaged, startLine.ReplaceAll(text, []byte(packagedStart)), 0o644); err != nil {
			return nil, fmt.Errorf("write unit: %w", err)
		}
		contents = append(contents, file(packaged, "/lib/systemd/system/"+filepath.Base(unit), files.TypeFile, 0o644))
	}
	return contents, nil
}

// debianVersion is a version that dpkg takes, and orders before all releases if it is none.
func debianVersion(version string) string {
	number := strings.TrimPrefix(version, "v")
	if number != version && number != "" && number[0] >= '0' && number[0] <= '9' {
		return strings.ReplaceAll(number, "-", "+")
	}
	return "0.0.0~" + strings.ReplaceAll(version, "-", "+")
}
