// Command release builds all that a release consists of into one directory: static binaries, Debian packages, container images
// as OCI archives, bills of materials, and their checksums. It needs no daemon and no root.
//
// It guarantees that the same sources, Go and version give the same bytes, wherever they lie: nothing that it writes has a time
// but the given one, nor a path of the machine. It publishes nothing.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	var r release
	var platforms string
	var epoch int64
	flag.StringVar(&r.source, "source", ".", "the checkout")
	flag.StringVar(&r.out, "out", "dist", "directory to write to; it is made anew")
	flag.StringVar(&r.version, "version", "devel", "what the programs call themselves")
	flag.StringVar(&platforms, "platforms", strings.Join(allPlatforms(), ","), "what to build for")
	flag.Int64Var(&epoch, "epoch", 0, "the time of all that is written, in seconds: the commit's")
	flag.Parse()
	r.platforms, r.time = strings.Split(platforms, ","), time.Unix(epoch, 0).UTC()
	if err := r.build(); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func allPlatforms() []string { return []string{"amd64", "arm64", "armv7"} }

// release is what is built.
type release struct {
	source, out, version string
	platforms            []string
	time                 time.Time
}

func (r *release) build() error {
	var err error
	if r.source, err = filepath.Abs(r.source); err != nil {
		return err
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	for _, platform := range r.platforms {
		if !slices.Contains(allPlatforms(), platform) {
			return fmt.Errorf("platform %q: there are %s", platform, strings.Join(allPlatforms(), ", "))
		}
	}
	if err := os.RemoveAll(r.out); err != nil {
		return fmt.Errorf("empty the output directory: %w", err)
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return fmt.Errorf("make the output directory: %w", err)
	}
	programs, err := r.programs()
	if err != nil {
		return err
	}
	for _, platform := range r.platforms {
		for _, program := range programs {
			if err := r.compile(program, platform); err != nil {
				return err
			}
			if err := r.materials(program, platform); err != nil {
				return err
			}
		}
		if err := r.debian(platform, programs); err != nil {
			return err
		}
	}
	for _, image := range images() {
		if err := r.image(image); err != nil {
			return err
		}
	}
	return r.checksums()
}

// checksums writes SHA256SUMS, for sha256sum --check.
func (r *release) checksums() error {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return fmt.Errorf("read the output directory: %w", err)
	}
	var sums strings.Builder
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(r.out, entry.Name()))
		if err != nil {
			return fmt.Errorf("read what was built: %w", err)
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(content), entry.Name())
	}
	return r.write("SHA256SUMS", []byte(sums.String()))
}

func (r *release) write(name string, content []byte) error {
	if err := os.WriteFile(filepath.Join(r.out, name), content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
