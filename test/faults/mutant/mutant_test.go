package mutant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../../.."

// TestOverlay: every mutant has its place in the sources as they are.
func TestOverlay(t *testing.T) {
	name, err := Overlay(root, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range All() {
		if seen[m.Name] || m.Violates == nil {
			t.Errorf("mutant %q has a name twice, or violates nothing", m.Name)
		}
		seen[m.Name] = true
		for _, e := range m.Edits {
			if !strings.Contains(string(overlay), e.File) || !strings.Contains(e.New, m.Name) {
				t.Errorf("mutant %q: its edit of %s is not in the overlay, or lives always", m.Name, e.File)
			}
		}
	}
}

// TestEditKnowsItsPlace: a mutant whose text has been rewritten is not silently none.
func TestEditKnowsItsPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("package a // one one two"), 0o600); err != nil {
		t.Fatal(err)
	}
	for old, want := range map[string]string{"two": "", "one": "2 times", "three": "0 times"} {
		err := Edit{"a.go", old, "x"}.apply(dir, map[string]string{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("replace %q: got %v, want %q", old, err, want)
		}
	}
}
