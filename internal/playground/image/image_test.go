package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"yurt/internal/playground/image"
)

func write(t *testing.T, program string, images ...image.Config) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range images {
		images[i].Program, images[i].Path = file, "/run-me"
	}
	var b bytes.Buffer
	if err := image.Write(&b, images...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// decode reads a blob of the image as JSON.
func decode(t *testing.T, files map[string][]byte, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(files[name], into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func blob(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }

func TestWrite(t *testing.T) {
	files := untar(t, write(t, "#!", image.Config{Name: "localhost/a:1", Args: []string{"serve"}, Env: []string{"V=1"}, Version: "1"},
		image.Config{Name: "localhost/a:2", Version: "2"}))
	for name, data := range files {
		if digest, isBlob := strings.CutPrefix(name, "blobs/sha256/"); isBlob {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
				t.Errorf("%s has other content", name)
			}
		}
	}
	type descriptor struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	var index struct{ Manifests []descriptor }
	decode(t, files, "index.json", &index)
	var names, layers []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations["io.containerd.image.name"])
		var manifest struct {
			Config descriptor
			Layers []descriptor
		}
		decode(t, files, blob(m.Digest), &manifest)
		if len(files[blob(m.Digest)]) != m.Size || len(manifest.Layers) != 1 {
			t.Fatalf("manifest %s: %+v", m.Digest, manifest)
		}
		layers = append(layers, manifest.Layers[0].Digest)
		var config struct {
			Config struct{ Entrypoint, Cmd, Env []string }
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			} `json:"rootfs"`
		}
		decode(t, files, blob(manifest.Config.Digest), &config)
		if diff := cmp.Diff([]string{"/run-me"}, config.Config.Entrypoint); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{manifest.Layers[0].Digest}, config.RootFS.DiffIDs); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff([]string{"localhost/a:1", "localhost/a:2"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if layers[0] != layers[1] {
		t.Error("images of one program don't share their layer")
	}
	if index.Manifests[0].Digest == index.Manifests[1].Digest {
		t.Error("two versions are one image")
	}
	if got := string(untar(t, files[blob(layers[0])])["run-me"]); got != "#!" {
		t.Errorf("the layer has the program %q", got)
	}
}

func TestWriteIsReproducible(t *testing.T) {
	cfg := image.Config{Name: "localhost/a:1"}
	if !bytes.Equal(write(t, "#!", cfg), write(t, "#!", cfg)) {
		t.Error("the same image has other bytes the second time")
	}
}
