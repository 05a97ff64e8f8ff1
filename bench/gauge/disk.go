package gauge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is an ext4 file system of one's own on a loop device, so that the device's counter has nobody else's writes.
type Disk struct {
	Dir    string // where it is mounted
	Device string // "/dev/loop3"
}

// NewDisk makes a file system of a size below dir. It needs root.
func NewDisk(ctx context.Context, dir string, megabytes int64) (*Disk, error) {
	image, mount := filepath.Join(dir, "disk.img"), filepath.Join(dir, "disk")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	f, err := os.Create(image)
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	err = errors.Join(f.Truncate(megabytes<<20), f.Close())
	if err != nil {
		return nil, fmt.Errorf("make disk: %w", err)
	}
	// Inode tables are written now, not while something is measured.
	if _, err := output(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image); err != nil {
		return nil, err
	}
	device, err := output(ctx, "losetup", "--find", "--show", image)
	if err != nil {
		return nil, err
	}
	d := &Disk{Dir: mount, Device: strings.TrimSpace(device)}
	if _, err := output(ctx, "mount", d.Device, mount); err != nil {
		return nil, errors.Join(err, d.detach(ctx))
	}
	return d, nil
}

// Written returns the bytes that have reached the device, after all that was written has.
func (d *Disk) Written() (int64, error) {
	dir, err := os.Open(d.Dir)
	if err != nil {
		return 0, fmt.Errorf("sync disk: %w", err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return 0, fmt.Errorf("sync disk: %w", err)
	}
	return d.written()
}

func (d *Disk) written() (int64, error) {
	data, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(d.Device), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read counter of %s: %w", d.Device, err)
	}
	f := strings.Fields(string(data))
	if len(f) < 7 {
		return 0, fmt.Errorf("read counter of %s: %q", d.Device, data)
	}
	sectors, err := strconv.ParseInt(f[6], 10, 64)
	return sectors * 512, err
}

// Close takes the disk away. What has it open must have ended.
func (d *Disk) Close(ctx context.Context) error {
	_, err := output(ctx, "umount", "--lazy", d.Dir)
	return errors.Join(err, d.detach(ctx))
}

func (d *Disk) detach(ctx context.Context) error {
	_, err := output(ctx, "losetup", "--detach", d.Device)
	return err
}

func output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// Fdatasync returns the median and the slowest percentile of an fdatasync that has 4 KiB to write, into blocks that are there.
func Fdatasync(dir string) (p50, p99 time.Duration, err error) {
	const block, rounds = 4096, 300
	f, err := os.CreateTemp(dir, "fdatasync")
	if err != nil {
		return 0, 0, fmt.Errorf("measure fdatasync: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, block*rounds)); err != nil {
		return 0, 0, fmt.Errorf("measure fdatasync: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, 0, fmt.Errorf("measure fdatasync: %w", err)
	}
	var took []time.Duration
	data := make([]byte, block)
	for i := range rounds {
		data[0] = byte(i)
		start := time.Now()
		if _, err := f.WriteAt(data, int64(i*block)); err != nil {
			return 0, 0, fmt.Errorf("measure fdatasync: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, 0, fmt.Errorf("measure fdatasync: %w", err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[rounds/2], took[rounds*99/100], nil
}
