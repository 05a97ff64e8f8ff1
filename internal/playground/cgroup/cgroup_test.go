package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, root, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCreateInVersion1(t *testing.T) {
	root := t.TempDir()
	put(t, root, map[string]string{"cpuset/cpuset.cpus": "0-1\n", "cpuset/cpuset.mems": "0\n", "memory/memory.stat": ""})
	if err := os.Symlink("cpuset", filepath.Join(root, "another-name")); err != nil {
		t.Fatal(err)
	}
	tree := Tree{root: root, version: 1}
	for range 2 { // the second time it is there already
		if err := tree.Create("yurt.demo.edge"); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, root, "cpuset/yurt.demo.edge/cpuset.cpus"); got != "0-1\n" {
		t.Errorf("the group has the processors %q", got)
	}
	if _, err := os.Stat(filepath.Join(root, "memory/yurt.demo.edge")); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(root, "memory/yurt.other.edge"), 0o755); err != nil {
		t.Fatal(err)
	}
	names, err := tree.Names("yurt.demo.")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"yurt.demo.edge"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestDelegate(t *testing.T) {
	for _, tc := range []struct{ name, enabled, want string }{
		{"nothing enabled", "", "+memory"}, // each write adds one; a file keeps the last
		{"all enabled", "cpu memory", "cpu memory"},
		{"one missing", "memory\n", "+cpu"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, map[string]string{"cgroup.controllers": "cpu memory\n", "cgroup.subtree_control": tc.enabled})
			if err := delegate(root); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, read(t, root, "cgroup.subtree_control")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"cpu/gone/a/b", "memory/gone", "memory/kept"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	tree := Tree{root: root, version: 1}
	for range 2 { // the second time it is gone already
		if err := tree.Remove("gone"); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(root, "memory/kept")}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}
