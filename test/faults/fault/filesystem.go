package fault

import (
	"os"
	"slices"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// fileSystem answers the kernel. Nothing may be cached there but what FUSE caches of data: names and attributes are asked
// for each time.
type fileSystem struct {
	fuse.RawFileSystem
	disk *Disk
	tree *tree
}

func (fs *fileSystem) node(id uint64) *node { return fs.tree.nodes[id] }

func (n *node) attr(out *fuse.Attr) {
	owner := fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
	*out = fuse.Attr{Ino: n.id, Size: uint64(len(n.content)), Blocks: uint64(len(n.content)+sector-1) / sector, Mode: n.mode, Nlink: n.links, Owner: owner, Blksize: 4096}
	out.SetTimes(&n.mtime, &n.mtime, &n.mtime)
}

func (n *node) entry(out *fuse.EntryOut) {
	*out = fuse.EntryOut{NodeId: n.id, Generation: 1}
	n.attr(&out.Attr)
}

func (fs *fileSystem) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if status := fs.disk.enter(); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	n := fs.node(header.NodeId).entries[name]
	if n == nil {
		return fuse.ENOENT
	}
	n.entry(out)
	return fuse.OK
}

func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := fs.disk.enter(); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	fs.node(in.NodeId).attr(&out.Attr)
	return fuse.OK
}

func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if status := fs.disk.enterChange(Attribute); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	n := fs.node(in.NodeId)
	if mode, ok := in.GetMode(); ok {
		n.mode = n.mode&^0o7777 | mode&0o7777
	}
	if size, ok := in.GetSize(); ok {
		fs.tree.resize(n, int64(size))
	}
	if mtime, ok := in.GetMTime(); ok {
		n.mtime = mtime
	}
	n.attr(&out.Attr)
	return fuse.OK
}

func (fs *fileSystem) make(parent uint64, name string, mode uint32, out *fuse.EntryOut) fuse.Status {
	if status := fs.disk.enterChange(Create); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	dir := fs.node(parent)
	if dir.entries[name] != nil {
		return fuse.Status(syscall.EEXIST)
	}
	n := fs.tree.newNode(mode)
	fs.tree.change(step{dir, name, n})
	n.entry(out)
	return fuse.OK
}

func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return fs.make(in.NodeId, name, dirMode|in.Mode&0o7777, out)
}

func (fs *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return fs.make(in.NodeId, name, fileMode|in.Mode&0o7777, &out.EntryOut)
}

func (fs *fileSystem) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	if status := fs.disk.enterChange(Remove); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	dir := fs.node(header.NodeId)
	n := dir.entries[name]
	if n == nil {
		return fuse.ENOENT
	}
	if n.isDir() {
		return fuse.Status(syscall.EISDIR)
	}
	n.links--
	fs.tree.change(step{dir, name, nil})
	return fuse.OK
}

func (fs *fileSystem) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	if status := fs.disk.enterChange(Remove); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	dir := fs.node(header.NodeId)
	n := dir.entries[name]
	switch {
	case n == nil:
		return fuse.ENOENT
	case len(n.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	fs.tree.change(step{dir, name, nil})
	return fuse.OK
}

func (fs *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	if status := fs.disk.enterChange(Rename); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	source, target := fs.node(in.NodeId), fs.node(in.Newdir)
	n := source.entries[from]
	if n == nil {
		return fuse.ENOENT
	}
	if old := target.entries[to]; old != nil {
		old.links--
	}
	fs.tree.change(step{source, from, nil}, step{target, to, n})
	return fuse.OK
}

func (fs *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_TRUNC == 0 {
		return fuse.OK
	}
	if status := fs.disk.enterChange(Attribute); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	fs.tree.resize(fs.node(in.NodeId), 0)
	return fuse.OK
}

func (fs *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if status := fs.disk.enter(); !status.Ok() {
		return nil, status
	}
	defer fs.disk.mu.Unlock()
	content := fs.node(in.NodeId).content
	if in.Offset >= uint64(len(content)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, content[in.Offset:])]), fuse.OK
}

func (fs *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if status := fs.disk.enterChange(Write); !status.Ok() {
		return 0, status
	}
	defer fs.disk.mu.Unlock()
	fs.tree.write(fs.node(in.NodeId), int64(in.Offset), data)
	return uint32(len(data)), fuse.OK
}

func (fs *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Mode != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	if status := fs.disk.enterChange(Allocate); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	n := fs.node(in.NodeId)
	if end := int64(in.Offset + in.Length); end > int64(len(n.content)) {
		fs.tree.resize(n, end)
	}
	return fuse.OK
}

func (fs *fileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if status := fs.disk.enter(); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	const seekData, seekHole = 3, 4
	size := uint64(len(fs.node(in.NodeId).content))
	switch {
	case in.Offset >= size:
		return fuse.Status(syscall.ENXIO)
	case in.Whence == seekData:
		out.Offset = in.Offset
	case in.Whence == seekHole:
		out.Offset = size
	default:
		return fuse.EINVAL
	}
	return fuse.OK
}

func (fs *fileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := fs.disk.enterChange(Sync); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	fs.node(in.NodeId).sync()
	return fuse.OK
}

func (fs *fileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if status := fs.disk.enterChange(Sync); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	fs.tree.syncNames(fs.node(in.NodeId))
	return fuse.OK
}

func (fs *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (fs *fileSystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if status := fs.disk.enter(); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	var entries []fuse.DirEntry
	for name, n := range fs.node(in.NodeId).entries {
		entries = append(entries, fuse.DirEntry{Name: name, Ino: n.id, Mode: n.mode})
	}
	slices.SortFunc(entries, func(a, b fuse.DirEntry) int { return int(int64(a.Ino) - int64(b.Ino)) }) // new ones come last
	for i, e := range entries {
		if uint64(i) < in.Offset {
			continue
		}
		e.Off = uint64(i) + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (fs *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	if status := fs.disk.enter(); !status.Ok() {
		return status
	}
	defer fs.disk.mu.Unlock()
	const block = 4096
	free, files := uint64(Size/block), uint64(1<<20)
	switch fs.disk.policy.Errno {
	case syscall.ENOSPC, syscall.EDQUOT:
		if len(fs.disk.policy.Ops) == 1 {
			files = 0
		} else {
			free = 0
		}
	}
	*out = fuse.StatfsOut{Blocks: Size / block, Bfree: free, Bavail: free, Files: 1 << 20, Ffree: files, Bsize: block, NameLen: 255, Frsize: block}
	return fuse.OK
}
