package gauge

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"yurt/internal/playground/cgroup"
)

// Box is a control group with little memory.
type Box struct {
	tree cgroup.Tree
	name string
	dir  string
}

// NewBox makes a control group whose processes may have so many bytes together. It needs root.
func NewBox(name string, limit int64) (*Box, error) {
	tree, err := cgroup.Open()
	if err != nil {
		return nil, err
	}
	if err := tree.Create(name); err != nil {
		return nil, err
	}
	// In version 2 only a leaf has processes.
	b := &Box{tree: tree, name: name, dir: filepath.Join(cgroup.Root, name, "leaf")}
	file := "memory.max"
	if tree.Version() == 1 {
		b.dir, file = filepath.Join(cgroup.Root, "memory", name, "leaf"), "memory.limit_in_bytes"
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, file), []byte(strconv.FormatInt(limit, 10)), 0o644); err != nil {
		return nil, fmt.Errorf("limit memory: %w", err)
	}
	return b, nil
}

// Procs is the file that a process writes its number to, to be in the box.
func (b *Box) Procs() string { return filepath.Join(b.dir, "cgroup.procs") }

// Close removes the group. Its processes must have ended.
func (b *Box) Close() error { return b.tree.Remove(b.name) }
