package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Device is a real file system, in a file on a loop device, that is shut down without a flush: what the kernel has not
// written by then, its journal included, is gone.
type Device struct {
	kind, image, dir string

	mu    sync.Mutex
	timer *time.Timer
	dark  bool
	onCut func()
}

// Kinds are the file systems of devices.
func Kinds() []string { return []string{"ext4", "xfs"} }

// NewDevice makes a file system of a kind and mounts it at dir, which must exist. Its image lies beside.
func NewDevice(kind, dir string) (*Device, error) {
	d := &Device{kind: kind, dir: dir, image: filepath.Join(filepath.Dir(dir), kind+".image")}
	quiet := map[string][]string{"ext4": {"mkfs.ext4", "-q", "-F", d.image}, "xfs": {"mkfs.xfs", "-q", "-f", d.image}}[kind]
	for _, args := range [][]string{{"truncate", "-s", "320M", d.image}, quiet} {
		if err := run(args...); err != nil {
			return nil, err
		}
	}
	return d, d.mount()
}

func run(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

func (d *Device) mount() error {
	d.mu.Lock()
	d.dark, d.onCut = false, nil
	d.mu.Unlock()
	return run("mount", "-o", "loop", d.image, d.dir)
}

// Dir is where the file system is mounted.
func (d *Device) Dir() string { return d.dir }

// Kind says in a report what a cut did: the file system decides what is lost.
func (d *Device) Kind(Loss) string { return d.kind + " shut down" }

// perChange is about how long a hub takes from one change of its disk to the next, its start included.
const perChange = 5 * time.Millisecond

// CutAt makes the power go after about the time that n changes take: nobody counts them here.
func (d *Device) CutAt(n int, _ bool) {
	if n > 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.timer = time.AfterFunc(time.Duration(n)*perChange, d.Cut)
	}
}

// OnCut has f called before the cut: whatever the programs do later they do without a disk.
func (d *Device) OnCut(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onCut = f
}

// Cut shuts the file system down, if that has not been done.
func (d *Device) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dark {
		return
	}
	d.dark = true
	if d.onCut != nil {
		d.onCut()
	}
	if err := d.shutDown(); err != nil {
		panic(err) // a cut that is none would make a test say what is not so
	}
}

func (d *Device) shutDown() error {
	const (
		shutdown   = 0x8004587d // FS_IOC_SHUTDOWN
		noLogFlush = 2
	)
	f, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("FS_IOC_SHUTDOWN", unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush))
}

// Release does nothing: a file system that is shut down answers with an error.
func (d *Device) Release() {}

// Files does nothing: what is in the files of a device can't be seen once it is shut down.
func (d *Device) Files(func(string, []byte)) {}

// Fail does nothing: a device does not fail.
func (d *Device) Fail(Policy) {}

// Boot mounts what is left. All who used the device must have ended.
func (d *Device) Boot(Survival) error {
	if err := d.Close(); err != nil {
		return err
	}
	return d.mount()
}

// Close unmounts the device.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.mu.Unlock()
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = unix.Unmount(d.dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("unmount %s at %s: %w", d.kind, d.dir, err)
	}
	return nil
}
