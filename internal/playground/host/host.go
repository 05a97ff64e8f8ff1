// Package host knows what a playground needs of the computer it runs on, and says or installs what is missing.
//
// Check changes nothing. Install installs Debian packages and nothing else; on other systems it only says what is missing.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// need is a file without which a playground doesn't work.
type need struct {
	program string // looked for on the PATH, or a whole path
	pkg     string // of Debian
}

var needs = [...]need{
	{"/usr/lib/cni/host-local", "containernetworking-plugins"},
	{"/usr/lib/cni/portmap", "containernetworking-plugins"},
	{"/usr/lib/cni/ptp", "containernetworking-plugins"},
	{"conntrack", "conntrack"},
	{"ip", "iproute2"},
	{"iptables", "iptables"},
	{"mkfs.ext4", "e2fsprogs"},
	{"mkfs.xfs", "xfsprogs"},
	{"mount", "mount"},
	{"nft", "nftables"},
	{"nsenter", "util-linux"},
	{"runc", "runc"},
	{"setpriv", "util-linux"},
	{"tc", "iproute2"},
}

// ErrNotRoot says that the caller isn't root, or not enough of one.
var ErrNotRoot = errors.New("not root")

// MissingError names the Debian packages that are missing.
type MissingError struct{ Packages []string }

func (e *MissingError) Error() string {
	return "missing Debian packages: " + strings.Join(e.Packages, " ")
}

// Check says what keeps a playground from running here, if anything: ErrNotRoot, or a *MissingError.
func Check() error {
	if err := CheckRoot(); err != nil {
		return err
	}
	if missing := Missing(); len(missing) > 0 {
		return &MissingError{Packages: missing}
	}
	return checkNamespaces()
}

// CheckRoot returns ErrNotRoot unless the caller is root.
func CheckRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the playground's machines are namespaces, mounts and containers, which only root can make: %w", ErrNotRoot)
	}
	return nil
}

// checkNamespaces finds out whether this root may do what root may: in many containers it may not.
func checkNamespaces() error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("make new namespaces, as root may unless it is a container's: %w: %w", err, ErrNotRoot)
	}
	return nil
}

// Missing returns the Debian packages that are missing, sorted.
func Missing() []string {
	// Some systems leave the directories of the administrator's programs out of a user's PATH.
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin")
	return missing(func(file string) bool {
		if filepath.IsAbs(file) {
			return exists(file)
		}
		return slices.ContainsFunc(dirs, func(dir string) bool { return exists(filepath.Join(dir, file)) })
	})
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func missing(has func(file string) bool) []string {
	var pkgs []string
	for _, n := range needs {
		if !has(n.program) && !slices.Contains(pkgs, n.pkg) {
			pkgs = append(pkgs, n.pkg)
		}
	}
	slices.Sort(pkgs)
	return pkgs
}

// Install installs the missing packages. What apt-get says goes to out.
func Install(ctx context.Context, out io.Writer) error {
	pkgs := Missing()
	if len(pkgs) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("install packages without apt-get: %w", &MissingError{Packages: pkgs})
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("install packages: %w: %w", ErrNotRoot, &MissingError{Packages: pkgs})
	}
	fmt.Fprintln(out, "installing Debian packages:", strings.Join(pkgs, " "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, pkgs...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("run apt-get %s: %w:\n%s", args[0], err, strings.TrimSpace(string(output)))
		}
	}
	if left := Missing(); len(left) > 0 {
		return fmt.Errorf("install packages: still %w", &MissingError{Packages: left})
	}
	return nil
}

// Snapshotter returns the name of the containerd snapshotter that works on the file system of dir: overlays don't stack.
func Snapshotter(dir string) (string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "", &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native", nil
	}
	return "overlayfs", nil
}
