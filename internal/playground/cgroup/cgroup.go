// Package cgroup makes and removes the control groups of machines, in version 1's many hierarchies or in version 2's one.
//
// A machine has one group of its own name at the top of each hierarchy; everything that its containers get is below. Nothing else
// is ever written to or removed, but for version 2's list of controllers at the top, to which missing ones are added.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Root is where control groups are mounted.
const Root = "/sys/fs/cgroup"

// Tree is the control groups of this system.
type Tree struct {
	root    string
	version int
}

// Open finds out which version the system has.
func Open() (Tree, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil {
		return Tree{}, fmt.Errorf("find control groups at %s: %w", Root, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Tree{root: Root, version: 2}, nil
	}
	return Tree{root: Root, version: 1}, nil
}

// Version is 1 or 2.
func (t Tree) Version() int { return t.version }

// hierarchies returns the directories in which a machine's group has to be.
func (t Tree) hierarchies() ([]string, error) {
	if t.version == 2 {
		return []string{t.root}, nil
	}
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return nil, fmt.Errorf("list hierarchies of control groups: %w", err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() { // a link is a second name of a hierarchy
			all = append(all, filepath.Join(t.root, e.Name()))
		}
	}
	return all, nil
}

// Create makes the group in every hierarchy.
func (t Tree) Create(name string) error {
	hierarchies, err := t.hierarchies()
	if err != nil {
		return err
	}
	if t.version == 2 {
		if err := delegate(t.root); err != nil {
			return err
		}
	}
	for _, h := range hierarchies {
		dir := filepath.Join(h, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make control group: %w", err)
		}
		if err := inheritCPUs(h, dir); err != nil {
			return fmt.Errorf("prepare control group %s: %w", dir, err)
		}
	}
	if t.version == 2 {
		return delegate(filepath.Join(t.root, name))
	}
	return nil
}

// delegate lets the groups below dir use all controllers that dir has.
func delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("list controllers: %w", err)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := os.ReadFile(control)
	if err != nil {
		return fmt.Errorf("list enabled controllers: %w", err)
	}
	for _, c := range strings.Fields(string(available)) {
		if strings.Contains(" "+strings.TrimSpace(string(enabled))+" ", " "+c+" ") {
			continue
		}
		if err := os.WriteFile(control, []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("enable controller %s in %s: %w", c, dir, err)
		}
	}
	return nil
}

// inheritCPUs gives a new group of version 1's cpuset what its parent has; an empty set would admit no process.
func inheritCPUs(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		data, err := os.ReadFile(filepath.Join(parent, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Names returns the names of all groups at the top that begin with prefix.
func (t Tree) Names(prefix string) ([]string, error) {
	hierarchies, err := t.hierarchies()
	if err != nil {
		return nil, err
	}
	var names []string
	seen := map[string]bool{}
	for _, h := range hierarchies {
		found, err := filepath.Glob(filepath.Join(h, prefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, dir := range found {
			if name := filepath.Base(dir); !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// Remove removes the group and all below it. Its processes must have been killed; the kernel may take a moment to notice.
func (t Tree) Remove(name string) error {
	hierarchies, err := t.hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		if err := removeTree(filepath.Join(h, name)); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for attempt := 0; ; attempt++ {
		err := unix.Rmdir(dir) // os.Remove would try to unlink first
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || attempt == 500 {
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		time.Sleep(20 * time.Millisecond)
	}
}
