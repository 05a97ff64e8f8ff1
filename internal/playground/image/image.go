// Package image makes container images out of one static program, as tar files that containerd imports.
//
// The same program and config always give the same bytes. An image has one layer; nothing is fetched from anywhere.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
)

// Config describes an image.
type Config struct {
	Name    string   // with tag, as pods name it
	Program string   // file of the static program
	Path    string   // where the image has it
	Args    []string // what it is given unless a pod says otherwise
	Env     []string // NAME=value
	Version string   // a label, so that two images of one program are different ones
}

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// descriptor refers to a blob, as the OCI image specification has it.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Config        descriptor   `json:"config"`
	Layers        []descriptor `json:"layers"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

type imageConfig struct {
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       runConfig `json:"config"`
	RootFS       rootFS    `json:"rootfs"`
}

type runConfig struct {
	Env        []string          `json:"Env,omitempty"`
	Entrypoint []string          `json:"Entrypoint"`
	Cmd        []string          `json:"Cmd,omitempty"`
	Labels     map[string]string `json:"Labels,omitempty"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

// Write writes images as one tar file. Images of the same program share their layer.
func Write(w io.Writer, images ...Config) error {
	blobs := map[string][]byte{}
	all := index{SchemaVersion: 2, MediaType: indexType}
	for _, cfg := range images {
		d, err := add(blobs, cfg)
		if err != nil {
			return fmt.Errorf("make image %s: %w", cfg.Name, err)
		}
		all.Manifests = append(all.Manifests, d)
	}
	indexData, err := json.Marshal(all)
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	files := []file{
		{"oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644},
		{"index.json", indexData, 0o644},
	}
	for _, digest := range slices.Sorted(maps.Keys(blobs)) {
		files = append(files, file{"blobs/sha256/" + digest, blobs[digest], 0o644})
	}
	if err := writeFiles(out, files); err != nil {
		return err
	}
	return out.Close()
}

// add adds the blobs of one image and returns the descriptor of its manifest.
func add(blobs map[string][]byte, cfg Config) (descriptor, error) {
	layer, err := layerOf(cfg)
	if err != nil {
		return descriptor{}, err
	}
	layerDescriptor := put(blobs, layerType, layer)
	config, err := json.Marshal(imageConfig{
		Architecture: runtime.GOARCH,
		OS:           "linux",
		Config: runConfig{
			Env:        cfg.Env,
			Entrypoint: []string{cfg.Path},
			Cmd:        cfg.Args,
			Labels:     map[string]string{"version": cfg.Version},
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{layerDescriptor.Digest}},
	})
	if err != nil {
		return descriptor{}, err
	}
	data, err := json.Marshal(manifest{
		SchemaVersion: 2,
		MediaType:     manifestType,
		Config:        put(blobs, configType, config),
		Layers:        []descriptor{layerDescriptor},
	})
	if err != nil {
		return descriptor{}, err
	}
	d := put(blobs, manifestType, data)
	// containerd takes the image's whole name from this annotation.
	d.Annotations = map[string]string{"io.containerd.image.name": cfg.Name}
	return d, nil
}

func put(blobs map[string][]byte, mediaType string, data []byte) descriptor {
	sum := sha256.Sum256(data)
	digest := hex.EncodeToString(sum[:])
	blobs[digest] = data
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: len(data)}
}

func layerOf(cfg Config) ([]byte, error) {
	program, err := os.ReadFile(cfg.Program)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777, Format: tar.FormatPAX}); err != nil {
		return nil, err
	}
	if err := writeFiles(w, []file{{cfg.Path[1:], program, 0o755}}); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}

type file struct {
	name string
	data []byte
	mode int64
}

func writeFiles(w *tar.Writer, files []file) error {
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: f.mode, Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("write header of %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}
