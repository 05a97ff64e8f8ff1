package fault

import (
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Size is how large the disk says it is.
const Size = 4 << 30

// Disk is the file system, mounted at a directory.
type Disk struct {
	dir string

	mu      sync.Mutex
	tree    *tree
	server  *fuse.Server
	policy  Policy
	changes int  // since the power came on
	limit   int  // the change at which the power goes; 0: none
	atSync  bool // or rather the first sync from there on
	dark    bool
	onCut   func()
	resume  chan struct{} // closed when those who were in the middle of something may go on, to be told that it failed
}

// New mounts an empty disk at dir, which must exist.
func New(dir string) (*Disk, error) {
	d := &Disk{dir: dir, tree: newTree()}
	if err := d.mount(); err != nil {
		return nil, err
	}
	return d, nil
}

// Dir is where the disk is mounted.
func (d *Disk) Dir() string { return d.dir }

func (d *Disk) mount() error {
	d.mu.Lock()
	d.changes, d.limit, d.dark, d.onCut = 0, 0, false, nil
	d.resume = make(chan struct{})
	fs := &fileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), disk: d, tree: d.tree}
	d.mu.Unlock()
	server, err := fuse.NewServer(fs, d.dir, &fuse.MountOptions{
		FsName: "fault", Name: "fault", DirectMountStrict: true, DisableXAttrs: true, DisableReadDirPlus: true,
		Logger: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	})
	if err != nil {
		return fmt.Errorf("mount disk at %s: %w", d.dir, err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return fmt.Errorf("mount disk at %s: %w", d.dir, err)
	}
	d.server = server
	return nil
}

// Close unmounts the disk and waits for it to end. No program may use it any more.
func (d *Disk) Close() error {
	d.Release()
	if err := d.unmount(); err != nil {
		return err
	}
	d.server.Wait()
	return nil
}

// unmount tries again while the kernel lets go of a killed program's files.
func (d *Disk) unmount() error {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = syscall.Unmount(d.dir, 0); err != syscall.EBUSY {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("unmount disk at %s: %w", d.dir, err)
	}
	return nil
}

// CutAt makes the power go at the nth change from now on, or at the first sync from there on, before it is done. An n of 0
// leaves the power on.
func (d *Disk) CutAt(n int, atSync bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limit, d.atSync = 0, atSync
	if n > 0 {
		d.limit = d.changes + n
	}
}

// OnCut has f called in the instant of the cut: whatever the programs do later they do without a disk.
func (d *Disk) OnCut(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onCut = f
}

// Cut takes the power away, if it has not gone yet. Whoever uses the disk waits for Release.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutLocked()
}

func (d *Disk) cutLocked() {
	if d.dark {
		return
	}
	d.dark = true
	if d.onCut != nil {
		d.onCut()
	}
}

// Changes is how much has been done on the disk since the power came on.
func (d *Disk) Changes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes
}

// Release lets those who wait on a disk without power go, with an error. Their processes should have been killed by now.
func (d *Disk) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dark = true
	select {
	case <-d.resume:
	default:
		close(d.resume)
	}
}

// Boot brings the power back, with what has survived. All who used the disk must have ended.
func (d *Disk) Boot(survive Survival) error {
	if err := d.Close(); err != nil {
		return err
	}
	d.mu.Lock()
	d.tree = d.tree.survivors(survive)
	d.mu.Unlock()
	return d.mount()
}

// Fail makes the disk fail as the policy says, from now on.
func (d *Disk) Fail(p Policy) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.policy = p
}

// Kind says in a report what a cut did.
func (d *Disk) Kind(l Loss) string { return l.String() }

// Files calls f with the name and the content of every file, as programs see them.
func (d *Disk) Files(f func(path string, content []byte)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tree.walk(d.tree.root, "", f)
}

// enter is called before anything that reads, and returns with the disk's lock held if it returns OK.
func (d *Disk) enter() fuse.Status {
	d.mu.Lock()
	if d.dark {
		return d.away()
	}
	return fuse.OK
}

// enterChange is enter before something that changes the disk.
func (d *Disk) enterChange(op Op) fuse.Status {
	d.mu.Lock()
	delay, errno := d.policy.verdict(op)
	if delay > 0 && !d.dark {
		resume := d.resume
		d.mu.Unlock()
		select {
		case <-time.After(delay):
		case <-resume:
		}
		d.mu.Lock()
	}
	if !d.dark {
		d.changes++
		if d.limit > 0 && d.changes >= d.limit && (op == Sync || !d.atSync) {
			d.cutLocked()
		}
	}
	if d.dark {
		return d.away()
	}
	if errno != 0 {
		d.mu.Unlock()
		return fuse.Status(errno)
	}
	return fuse.OK
}

// away holds whoever comes to a disk without power until he may be told. It releases the lock.
func (d *Disk) away() fuse.Status {
	resume := d.resume
	d.mu.Unlock()
	<-resume
	return fuse.EIO
}
