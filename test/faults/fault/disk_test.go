package fault

import (
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files is the content of every file.
func (t *tree) files() map[string]string {
	files := map[string]string{}
	t.walk(t.root, "", func(path string, content []byte) { files[path] = string(content) })
	return files
}

// written is a tree with a file that is durable, and things that are not.
func written() *tree {
	t := newTree()
	kept := t.newNode(fileMode | 0o600)
	t.change(step{t.root, "kept", kept})
	t.write(kept, 0, []byte(strings.Repeat("a", 3*sector)))
	kept.sync()
	t.syncNames(t.root)

	t.change(step{t.root, "kept", nil}, step{t.root, "renamed", kept})
	unnamed := t.newNode(fileMode | 0o600)
	t.change(step{t.root, "unnamed", unnamed})
	t.write(unnamed, 0, []byte("synced, but not its name"))
	unnamed.sync()
	t.write(kept, 0, []byte(strings.Repeat("b", 3*sector)))
	return t
}

func TestSurvivors(t *testing.T) {
	a, b := strings.Repeat("a", 3*sector), strings.Repeat("b", 3*sector)
	survival := func(l Loss, seed uint64) Survival { return Survival{l, rand.New(rand.NewPCG(seed, 0))} }
	if diff := cmp.Diff(map[string]string{"kept": a}, written().survivors(survival(LoseAll, 1)).files()); diff != "" {
		t.Errorf("nothing kept (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"renamed": b, "unnamed": "synced, but not its name"}, written().survivors(survival(KeepAll, 1)).files()); diff != "" {
		t.Errorf("all kept (-want +got):\n%s", diff)
	}
	seen := map[string]bool{}
	for seed := range uint64(300) {
		for _, loss := range []Loss{LoseNewest, LoseAny, Tear} {
			files := written().survivors(survival(loss, seed)).files()
			names := strings.Join(slicesSorted(files), " ")
			content := files["kept"] + files["renamed"]
			if len(content) != 3*sector {
				t.Fatalf("%s, seed %d: a rename is there in part: %s", loss, seed, names)
			}
			for at := 0; at < len(content); at += sector {
				if part := content[at : at+sector]; part != a[:sector] && part != b[:sector] {
					t.Fatalf("%s, seed %d: a sector is torn: %q", loss, seed, part)
				}
			}
			seen[loss.String()+": "+names] = true
			if content != a && content != b {
				seen[loss.String()+": torn"] = true
			}
		}
	}
	for _, want := range []string{
		"the newest lost: kept", "the newest lost: renamed", "the newest lost: renamed unnamed", "the newest lost: torn",
		"any lost, torn, reordered: kept", "any lost, torn, reordered: kept unnamed", "any lost, torn, reordered: renamed", "any lost, torn, reordered: torn",
		"the newest write torn: renamed unnamed", "the newest write torn: torn",
	} {
		if !seen[want] {
			t.Errorf("never seen: %s", want)
		}
	}
}

func slicesSorted(files map[string]string) []string {
	var names []string
	for _, name := range []string{"kept", "renamed", "unnamed"} {
		if _, ok := files[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

// newDisk mounts a disk. Only other processes may look at it: a process that waits for its own file system may wait for
// ever.
func newDisk(t *testing.T) *Disk {
	t.Helper()
	d, err := New(t.TempDir())
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) shell(script string) (string, error) {
	cmd := exec.Command("sh", "-c", "cd \"$0\" && "+script, d.Dir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (d *Disk) files() map[string]string {
	files := map[string]string{}
	d.Files(func(path string, content []byte) { files[path] = string(content) })
	return files
}

// TestDisk: programs find a file system, and after a cut what was synced.
func TestDisk(t *testing.T) {
	d := newDisk(t)
	out, err := d.shell("mkdir sub && printf one >sub/a && sync sub/a && sync sub . && printf two >b && mv sub/a sub/c && cat sub/c && ls && chmod 600 b && rm b && truncate -s 2 sub/c && cat sub/c")
	if want := "onesub\n"; err != nil || out != "oneb\n"+"sub\non" {
		t.Fatalf("got %q, %v; want %q", out, err, want)
	}
	cuts := 0
	d.OnCut(func() { cuts++ })
	d.Cut()
	d.Cut()
	if err := d.Boot(Survival{LoseAll, rand.New(rand.NewPCG(1, 1))}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"sub/a": "one"}, d.files()); diff != "" || cuts != 1 {
		t.Errorf("%d cuts; files (-want +got):\n%s", cuts, diff)
	}
	if out, err := d.shell("cat sub/a"); out != "one" {
		t.Errorf("after the cut: %q, %v", out, err)
	}
}

// TestDiskFails: each policy fails what it says, and nothing else, until it is lifted.
func TestDiskFails(t *testing.T) {
	d := newDisk(t)
	if out, err := d.shell("printf old >a && sync a"); err != nil {
		t.Fatal(out, err)
	}
	for _, p := range Policies(0) {
		d.Fail(p)
		got := map[string]string{}
		for _, c := range []string{"printf new >>a", "printf new >b", "sync a", "cat a >/dev/null"} {
			out, _ := d.shell(c)
			_, got[c], _ = strings.Cut(out, ": a: ")
			got[c] = strings.TrimSpace(out)
		}
		d.Fail(Policy{})
		maps.DeleteFunc(got, func(_, out string) bool { return out == "" })
		want := map[string]int{"no space": 2, "quota": 2, "no inodes": 1, "writes fail": 1, "syncs fail": 1, "read only": 3, "slow syncs": 0}
		// An empty file can be made where writes fail only, and what can't be created can't be written.
		if n := len(got); n != want[p.Name] && (p.Name != "writes fail" || n != 2) {
			t.Errorf("%s: %d commands fail, want %d: %v", p.Name, n, want[p.Name], got)
		}
		if out, err := d.shell("printf x >b && rm b && sync a"); err != nil {
			t.Errorf("after %s: %s: %v", p.Name, out, err)
		}
	}
}

// TestCutAt: the power goes at the change that was asked for, and who is in the middle of it never comes back.
func TestCutAt(t *testing.T) {
	d := newDisk(t)
	cut := make(chan struct{})
	d.OnCut(func() { close(cut) })
	d.CutAt(3, true)
	cmd := exec.Command("sh", "-c", "cd \"$0\" && printf 1 >a && printf 2 >b && printf 3 >c && sync a && printf 4 >d", d.Dir())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-cut
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.Release()
	_ = cmd.Wait() // it is killed
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "2", "c": "3"}, d.files()); diff != "" {
		t.Errorf("files at the cut (-want +got):\n%s", diff)
	}
}
