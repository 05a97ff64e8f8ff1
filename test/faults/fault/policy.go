package fault

import (
	"syscall"
	"time"
)

// Op is a kind of change.
type Op int

// The kinds of change.
const (
	Create   Op = iota // a file or directory
	Write              // into a file
	Allocate           // blocks
	Sync               // of a file or directory
	Rename
	Remove
	Attribute // size and mode
)

// Policy says how a disk fails. The zero value is a disk that works.
type Policy struct {
	Name   string
	Ops    []Op
	Errno  syscall.Errno
	Delay  time.Duration // of those Ops
	Remain int           // so many of them succeed first
	// count is of the Ops that have come by; a disk has a copy of its own.
	count int
}

// Policies are the ways of failing that a program must live with, for ever or for a while.
func Policies(slow time.Duration) []Policy {
	grow := []Op{Create, Write, Allocate}
	all := []Op{Create, Write, Allocate, Sync, Rename, Remove, Attribute}
	return []Policy{
		{Name: "no space", Ops: grow, Errno: syscall.ENOSPC},
		{Name: "quota", Ops: grow, Errno: syscall.EDQUOT},
		{Name: "no inodes", Ops: []Op{Create}, Errno: syscall.ENOSPC},
		{Name: "writes fail", Ops: []Op{Write}, Errno: syscall.EIO},
		{Name: "syncs fail", Ops: []Op{Sync}, Errno: syscall.EIO},
		{Name: "read only", Ops: all, Errno: syscall.EROFS},
		{Name: "slow syncs", Ops: []Op{Sync}, Delay: slow},
	}
}

func (p *Policy) verdict(op Op) (time.Duration, syscall.Errno) {
	for _, failing := range p.Ops {
		if failing == op {
			if p.count++; p.count <= p.Remain {
				return 0, 0
			}
			return p.Delay, p.Errno
		}
	}
	return 0, 0
}
