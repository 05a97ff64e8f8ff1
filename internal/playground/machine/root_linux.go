package machine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// masked are settings of the whole computer that a kubelet wants to write. On a machine they are files that hold what it wants.
var masked = map[string]string{
	"kernel/keys/root_maxbytes": "25000000\n",
	"kernel/keys/root_maxkeys":  "1000000\n",
	"kernel/panic":              "10\n",
	"kernel/panic_on_oops":      "1\n",
	"vm/overcommit_memory":      "1\n",
	"vm/panic_on_oom":           "0\n",
}

// enterRoot makes the machine's file system and moves the process into it. The process must be the first of new mount, PID, network
// and UTS namespaces.
func enterRoot(spec Spec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach from the computer's mounts: %w", err)
	}
	// Any directory will do to build upon; after the pivot nobody sees it.
	root := filepath.Join(spec.Dir, "disk")
	b := &builder{root: root}
	disk := "/proc/self/fd/" + b.open(root)
	b.mount("tmpfs", "", "tmpfs", "mode=755,size=16m")
	for _, dir := range disks {
		b.bind(filepath.Join(disk, dir), dir)
	}
	b.computer()
	b.bind(filepath.Join(disk, "usr/local"), "usr/local")
	b.bind("/dev", "dev")
	b.mount("proc", "proc", "proc", "")
	b.mount("sysfs", "sys", "sysfs", "")
	b.bind("/sys/fs/cgroup", "sys/fs/cgroup")
	b.mount("tmpfs", "run", "tmpfs", "mode=755")
	b.mount("tmpfs", "tmp", "tmpfs", "mode=1777")
	for _, dir := range spec.Programs {
		b.bindReadOnly(dir, filepath.Join(programsDir, filepath.Base(dir)))
	}
	b.bind(spec.Logs, "logs")
	b.kernelSettings()
	if b.err != nil {
		return b.err
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter file system: %w", err)
	}
	// With both arguments the same directory, the old root lies on top of the new one until it is taken away.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make file system the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the computer's file system: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	// As on any system booted by systemd; the kubelet relies on it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// builder puts a file system together. After the first error it does nothing more.
type builder struct {
	root string
	err  error
}

// open returns the number of a descriptor of dir, which stays open until the process execs.
func (b *builder) open(dir string) string {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.err = fmt.Errorf("open %s: %w", dir, err)
	}
	return fmt.Sprint(fd)
}

func (b *builder) mount(source, target, fstype, options string) {
	if b.err != nil {
		return
	}
	target = filepath.Join(b.root, target)
	if err := os.MkdirAll(target, 0o755); err != nil {
		b.err = err
		return
	}
	if err := unix.Mount(source, target, fstype, 0, options); err != nil {
		b.err = fmt.Errorf("mount %s on %s: %w", fstype, target, err)
	}
}

func (b *builder) bind(source, target string) {
	if b.err != nil {
		return
	}
	target = filepath.Join(b.root, target)
	info, err := os.Stat(source)
	if err != nil {
		b.err = err
		return
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o755)
	}
	if err == nil {
		err = unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err != nil {
		b.err = fmt.Errorf("bind %s to %s: %w", source, target, err)
	}
}

// bindReadOnly protects what belongs to the computer from what runs on the machine as root.
func (b *builder) bindReadOnly(source, target string) {
	b.bind(source, target)
	if b.err != nil {
		return
	}
	target = filepath.Join(b.root, target)
	var st unix.Statfs_t
	if b.err = unix.Statfs(target, &st); b.err != nil {
		return
	}
	// Other flags of the mount can't be taken away, so they are said again.
	flags := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME)
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|flags, ""); err != nil {
		b.err = fmt.Errorf("make %s read-only: %w", target, err)
	}
}

// computer adds the programs and libraries of the computer: /usr and the names at the top that lead there, or that are directories
// of their own where /usr isn't merged.
func (b *builder) computer() {
	b.bindReadOnly("/usr", "usr")
	for _, name := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		target, err := os.Readlink("/" + name)
		switch {
		case err == nil:
			if b.err == nil {
				b.err = os.Symlink(target, filepath.Join(b.root, name))
			}
		case !errors.Is(err, fs.ErrNotExist):
			b.bindReadOnly("/"+name, name)
		}
	}
}

// kernelSettings hides settings that belong to the whole computer, and gives the machine a boot id of its own.
func (b *builder) kernelSettings() {
	files := map[string]string{"kernel/random/boot_id": newBootID()}
	for name, content := range masked {
		files[name] = content
	}
	for name, content := range files {
		if b.err != nil {
			return
		}
		file := filepath.Join(b.root, "run/machine", name)
		if b.err = os.MkdirAll(filepath.Dir(file), 0o755); b.err != nil {
			return
		}
		if b.err = os.WriteFile(file, []byte(content), 0o644); b.err != nil {
			return
		}
		b.bind(file, filepath.Join("proc/sys", name))
	}
}

func newBootID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
