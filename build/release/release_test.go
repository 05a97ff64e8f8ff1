package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const checkout = "../.."

// made builds a release of a checkout for this test, for one platform.
func made(t *testing.T, source string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "dist")
	r := release{source: source, out: out, version: "v1.2.3", platforms: []string{"amd64"}, time: time.Unix(1700000000, 0).UTC()}
	if err := r.build(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRelease builds once, and looks at everything that there is.
func TestRelease(t *testing.T) {
	dist := made(t, checkout)
	t.Run("checksums", func(t *testing.T) {
		sums, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dist)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(sums), "\n"); got != len(entries)-1 {
			t.Errorf("%d sums of %d files:\n%s", got, len(entries)-1, sums)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(sums)), "\n") {
			sum, name, _ := strings.Cut(line, "  ")
			if got := fmt.Sprintf("%x", sha256.Sum256(read(t, filepath.Join(dist, name)))); got != sum {
				t.Errorf("%s: %s, the list says %s", name, got, sum)
			}
		}
	})
	t.Run("binary", func(t *testing.T) { checkBinary(t, filepath.Join(dist, "yurthub-linux-amd64")) })
	t.Run("materials", func(t *testing.T) { checkMaterials(t, filepath.Join(dist, "yurthub-linux-amd64.cdx.json")) })
	t.Run("image", func(t *testing.T) { checkImage(t, filepath.Join(dist, "yurt-controller-manager.oci.tar")) })
	t.Run("package", func(t *testing.T) { checkPackage(t, filepath.Join(dist, "yurthub_1.2.3_amd64.deb")) })
}

// TestReproducible: the same sources elsewhere make the same bytes.
func TestReproducible(t *testing.T) {
	elsewhere := t.TempDir()
	for _, name := range []string{"cmd", "internal", "deploy", "go.mod", "go.sum", "LICENSE"} {
		if out, err := exec.Command("cp", "-r", filepath.Join(checkout, name), elsewhere).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	here, there := made(t, checkout), made(t, elsewhere)
	entries, err := os.ReadDir(here)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 7 {
		t.Errorf("only %d files", len(entries))
	}
	for _, entry := range entries {
		content := read(t, filepath.Join(here, entry.Name()))
		if !bytes.Equal(content, read(t, filepath.Join(there, entry.Name()))) {
			t.Errorf("%s differs", entry.Name())
		}
		if absolute, err := filepath.Abs(checkout); err != nil || bytes.Contains(content, []byte(absolute)) {
			t.Errorf("%s names the directory that it was built in (%v)", entry.Name(), err)
		}
	}
}

func checkBinary(t *testing.T, path string) {
	out, err := exec.Command(path, "--version").CombinedOutput()
	if err != nil || string(out) != "yurthub version v1.2.3\n" {
		t.Errorf("%v: %s", err, out)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("is linked dynamically")
		}
	}
	const most = 30 << 20
	if info, err := os.Stat(path); err != nil || info.Size() > most {
		t.Errorf("has more than %d bytes, or: %v", most, err)
	}
}

func checkMaterials(t *testing.T, path string) {
	var bill struct {
		Format     string `json:"bomFormat"`
		Components []component
	}
	if err := json.Unmarshal(read(t, path), &bill); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, c := range bill.Components {
		if c.Version == "" || !strings.HasPrefix(c.PURL, "pkg:golang/") {
			t.Errorf("%+v: has no version, or no address", c)
		}
		names[c.Name] = c.Version
	}
	if bill.Format != "CycloneDX" || names["github.com/spf13/cobra"] == "" || names["std"] == "" || names["github.com/goreleaser/nfpm/v2"] != "" {
		t.Errorf("%s: %v", bill.Format, names)
	}
}

// checkImage follows an image from its index to the bytes of its program, by sums.
func checkImage(t *testing.T, path string) {
	blobs := map[string][]byte{}
	archive := tar.NewReader(bytes.NewReader(read(t, path)))
	for {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		blobs[header.Name] = content
	}
	load := func(d v1.Descriptor, into any) []byte {
		t.Helper()
		content := blobs["blobs/sha256/"+d.Digest.Encoded()]
		if fmt.Sprintf("%x", sha256.Sum256(content)) != d.Digest.Encoded() || int64(len(content)) != d.Size {
			t.Fatalf("%s: is not there, or something else", d.Digest)
		}
		if into != nil {
			if err := json.Unmarshal(content, into); err != nil {
				t.Fatal(err)
			}
		}
		return content
	}
	var top, index v1.Index
	var manifest v1.Manifest
	var config v1.Image
	if err := json.Unmarshal(blobs["index.json"], &top); err != nil || len(top.Manifests) != 1 {
		t.Fatalf("index.json: %v", err)
	}
	load(top.Manifests[0], &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Platform.Architecture != "amd64" {
		t.Fatalf("platforms: %+v", index.Manifests)
	}
	load(index.Manifests[0], &manifest)
	load(manifest.Config, &config)
	if config.Config.User != "65532:65532" || config.Config.Entrypoint[0] != "/yurt-controller-manager" {
		t.Errorf("config: %+v", config.Config)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(load(manifest.Layers[0], nil)))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(unzipped)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("sha256:%x", sha256.Sum256(layer)); got != config.RootFS.DiffIDs[0].String() {
		t.Errorf("layer %s, the config says %s", got, config.RootFS.DiffIDs[0])
	}
	header, err := tar.NewReader(bytes.NewReader(layer)).Next()
	if err != nil || header.Name != "yurt-controller-manager" || header.Mode != 0o755 {
		t.Errorf("%v: %+v", err, header)
	}
}

// checkPackage installs the package into a directory, looks at what systemd thinks of its units, and takes it away again.
func checkPackage(t *testing.T, path string) {
	for _, tool := range []string{"dpkg", "systemd-analyze"} {
		if _, err := exec.LookPath(tool); err != nil || os.Getuid() != 0 {
			why := fmt.Sprintf("needs root and %s (%v)", tool, err)
			if os.Getenv("CI") == "true" {
				t.Fatal(why)
			}
			t.Skip(why)
		}
	}
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "dpkg", "--root="+root, "--force-script-chrootless", "--install", path)
	run(t, filepath.Join(root, "usr/bin/yurthub"), "config", "check", "--no-files", filepath.Join(root, "etc/yurthub/config.yaml"))
	if out := run(t, filepath.Join(root, "usr/bin/kubectl-yurt"), "status", "--help"); !strings.Contains(out, "kubectl yurt status [NODE...]") {
		t.Errorf("the plugin of kubectl says:\n%s", out)
	}

	// What the units name of the system, so that systemd looks at them as on a node.
	run(t, "sh", "-c", `cp -a /lib/systemd/system/*.target "$0/lib/systemd/system" && mkdir "$0/bin" && cp -L /bin/kill "$0/bin"`, root)
	if out := run(t, "systemd-analyze", "--root="+root, "verify", "yurthub.service", "yurthub-secure.socket", "yurthub-admin.socket"); strings.Contains(out, "yurthub") {
		t.Errorf("systemd has something to say:\n%s", out)
	}
	if unit := string(read(t, filepath.Join(root, "lib/systemd/system/yurthub.service"))); strings.Count(unit, "\n"+packagedStart+"\n") != 1 {
		t.Errorf("the unit starts something else:\n%s", unit)
	}

	kept := filepath.Join(root, "var/lib/yurthub/store")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "dpkg", "--root="+root, "--force-script-chrootless", "--remove", "yurthub")
	for _, stays := range []string{kept, filepath.Join(root, "etc/yurthub/config.yaml")} {
		if _, err := os.Stat(stays); err != nil {
			t.Errorf("removal: %v", err)
		}
	}
	run(t, "dpkg", "--root="+root, "--force-script-chrootless", "--purge", "yurthub")
	if err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(path), "yurthub") && !strings.Contains(path, "var/lib/dpkg") {
			t.Errorf("purging leaves %s", path)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestDebianVersion: dpkg orders the versions as they came.
func TestDebianVersion(t *testing.T) {
	versions := []string{"1b2c3d4", "v0.3.1", "v0.3.1-4-g1b2c3d4", "v0.3.2"}
	for i, version := range versions[1:] {
		before, after := debianVersion(versions[i]), debianVersion(version)
		if out, err := exec.Command("dpkg", "--compare-versions", before, "lt", after).CombinedOutput(); err != nil {
			t.Errorf("%s is not before %s: %v %s", before, after, err, out)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
