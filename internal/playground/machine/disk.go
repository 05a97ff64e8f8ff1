package machine

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disks are the directories of a machine that are on its disk.
var disks = [...]string{"etc", "var", "root", "home", "opt", "srv"}

// settings are what a new machine has of the computer's /etc: enough for its programs to find users, libraries and authorities.
var settings = [...]string{
	"alternatives", "ca-certificates.conf", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "os-release",
	"passwd", "protocols", "services", "ssl",
}

// prepareDisk fills the disk of a new machine. What is there already is left alone.
func (m *Machine) prepareDisk() error {
	if err := os.MkdirAll(m.Logs, 0o755); err != nil {
		return err
	}
	id := m.Path("etc/machine-id")
	if _, err := os.Stat(id); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range disks {
		if err := os.MkdirAll(m.Path(dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"usr/local/bin", "usr/local/lib", "usr/local/sbin", "var/lib", "var/log", "var/tmp"} {
		if err := os.MkdirAll(m.Path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", m.Path("var/run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	args := []string{"-a"}
	for _, name := range settings {
		file := filepath.Join("/etc", name)
		if _, err := os.Lstat(file); err == nil {
			args = append(args, file)
		}
	}
	cmd := exec.Command("cp", append(args, m.Path("etc"))...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy settings: %w: %s", err, strings.TrimSpace(string(out)))
	}
	hosts := "127.0.0.1 localhost\n127.0.1.1 " + m.Hostname + "\n"
	if err := os.WriteFile(m.Path("etc/hosts"), []byte(hosts), 0o644); err != nil {
		return err
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	// Last, because it says that the rest is there.
	return os.WriteFile(id, []byte(hex.EncodeToString(random)+"\n"), 0o444)
}
