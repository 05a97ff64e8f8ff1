// Package peer finds out which process is at the other end of a TCP connection
// on this computer.
//
// It guarantees that only a process of root outside of containers counts as
// root of the host: one whose view of the file system is that of the host's
// first process. It answers no whenever it can't tell, and never asks the
// process itself.
package peer

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Host is where processes and connections are listed.
type Host struct {
	Proc  string // /proc
	First string // a process that sees the host's files as they are: 1
}

// RootOfHost tells whether the connection from remote to local, both "ip:port",
// comes from a process of root on the host. It walks through all processes, so
// it is not for every request.
func (h Host) RootOfHost(remote, local string) bool {
	inode, uid, err := h.socket(remote, local)
	if err != nil || uid != 0 {
		return false
	}
	host, err := os.Readlink(filepath.Join(h.Proc, h.First, "ns/mnt"))
	if err != nil {
		return false
	}
	owners := h.owners(inode)
	return len(owners) > 0 && !slices.ContainsFunc(owners, func(process string) bool {
		own, err := os.Readlink(filepath.Join(process, "ns/mnt"))
		return err != nil || own != host
	})
}

// socket finds the other end's socket: its addresses are ours turned round.
func (h Host) socket(remote, local string) (inode string, uid int, err error) {
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "", 0, err
	}
	to, err := netip.ParseAddrPort(local)
	if err != nil {
		return "", 0, err
	}
	for _, table := range []string{"self/net/tcp", "self/net/tcp6"} {
		inode, uid, err = find(filepath.Join(h.Proc, table), unmap(from), unmap(to))
		if err != nil || inode != "" {
			return inode, uid, err
		}
	}
	return "", 0, fmt.Errorf("no socket of this computer is connected from %s to %s", remote, local)
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// find reads a table of sockets as in proc_pid_net(5): local and remote
// address, in words of the computer's byte order, are fields 1 and 2, the user
// is field 7 and the inode field 9.
func find(path string, from, to netip.AddrPort) (inode string, uid int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || address(fields[1]) != from || address(fields[2]) != to {
			continue
		}
		if uid, err = strconv.Atoi(fields[7]); err != nil {
			return "", 0, fmt.Errorf("read %s: %w", path, err)
		}
		return fields[9], uid, nil
	}
	return "", 0, lines.Err()
}

// address reads "0100007F:2742". What is none is no address that anybody asks
// for.
func address(s string) netip.AddrPort {
	digits, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(digits)
	if err != nil {
		return netip.AddrPort{}
	}
	for word := range slices.Chunk(raw, 4) {
		slices.Reverse(word) // little endian, as all computers that this runs on
	}
	ip, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number))
}

// owners are the processes that have the socket open.
func (h Host) owners(inode string) []string {
	var owners []string
	fds, err := filepath.Glob(filepath.Join(h.Proc, "[0-9]*/fd/*"))
	if err != nil {
		return nil
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && target == "socket:["+inode+"]" {
			owners = append(owners, filepath.Dir(filepath.Dir(fd)))
		}
	}
	return slices.Compact(owners)
}
