package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageOf is a container image: one program and nothing else.
type imageOf struct{ program, user string }

// images are what runs in the cloud.
func images() []imageOf {
	return []imageOf{{program: "yurt-controller-manager", user: "65532:65532"}}
}

// layout is an OCI image layout in a tar archive. Blobs are written in the order of their making.
type layout struct {
	archive *tar.Writer
	release *release
}

func (l *layout) add(name string, content []byte) error {
	header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: l.release.time, Format: tar.FormatUSTAR}
	if err := l.archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := l.archive.Write(content)
	return err
}

func (l *layout) blob(mediaType string, content []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	return d, l.add(path.Join("blobs", "sha256", d.Digest.Encoded()), content)
}

func (l *layout) object(mediaType string, object any) (v1.Descriptor, error) {
	text, err := json.Marshal(object)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return l.blob(mediaType, text)
}

// image writes an image for all platforms as one archive.
func (r *release) image(of imageOf) error {
	var out bytes.Buffer
	l := &layout{archive: tar.NewWriter(&out), release: r}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, platform := range r.platforms {
		manifest, err := l.platform(of, platform)
		if err != nil {
			return fmt.Errorf("make image %s for %s: %w", of.program, platform, err)
		}
		index.Manifests = append(index.Manifests, manifest)
	}
	all, err := l.object(v1.MediaTypeImageIndex, index)
	if err != nil {
		return fmt.Errorf("make image %s: %w", of.program, err)
	}
	all.Annotations = map[string]string{v1.AnnotationRefName: r.version}
	top, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{all}})
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{v1.ImageIndexFile, top}, {v1.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)}} {
		if err := l.add(file.name, file.content); err != nil {
			return fmt.Errorf("make image %s: %w", of.program, err)
		}
	}
	if err := l.archive.Close(); err != nil {
		return err
	}
	return r.write(of.program+".oci.tar", out.Bytes())
}

// platform adds the image of one platform, and returns its manifest.
func (l *layout) platform(of imageOf, platform string) (v1.Descriptor, error) {
	unpacked, packed, err := l.layer(of, platform)
	if err != nil {
		return v1.Descriptor{}, err
	}
	layer, err := l.blob(v1.MediaTypeImageLayerGzip, packed)
	if err != nil {
		return v1.Descriptor{}, err
	}
	arch, arm, _ := strings.Cut(platform, "v")
	on := v1.Platform{OS: "linux", Architecture: arch}
	if arm != "" {
		on.Variant = "v" + arm
	}
	config, err := l.object(v1.MediaTypeImageConfig, v1.Image{
		Created:  &l.release.time,
		Platform: on,
		Config: v1.ImageConfig{
			User: of.user, Entrypoint: []string{"/" + of.program}, WorkingDir: "/",
			Labels: map[string]string{v1.AnnotationVersion: l.release.version, v1.AnnotationLicenses: "Apache-2.0"},
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigestFromBytes(digest.SHA256, unpacked[:])}},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	manifest, err := l.object(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Config: config, Layers: []v1.Descriptor{layer},
	})
	manifest.Platform = &on
	return manifest, err
}

// layer is a file system with one file; it returns the sum of the archive, and the archive compressed.
func (l *layout) layer(of imageOf, platform string) (unpacked [sha256.Size]byte, packed []byte, err error) {
	program, err := os.ReadFile(l.release.binary(of.program, platform))
	if err != nil {
		return unpacked, nil, err
	}
	var archive bytes.Buffer
	files := &layout{archive: tar.NewWriter(&archive), release: l.release}
	header := &tar.Header{Name: of.program, Mode: 0o755, Size: int64(len(program)), ModTime: l.release.time, Format: tar.FormatUSTAR}
	if err := files.archive.WriteHeader(header); err != nil {
		return unpacked, nil, err
	}
	if _, err := files.archive.Write(program); err != nil {
		return unpacked, nil, err
	}
	if err := files.archive.Close(); err != nil {
		return unpacked, nil, err
	}
	var compressed bytes.Buffer
	zip := gzip.NewWriter(&compressed)
	if _, err := zip.Write(archive.Bytes()); err != nil {
		return unpacked, nil, err
	}
	if err := zip.Close(); err != nil {
		return unpacked, nil, err
	}
	return sha256.Sum256(archive.Bytes()), compressed.Bytes(), nil
}
