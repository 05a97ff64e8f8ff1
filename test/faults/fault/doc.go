// Package fault is a disk whose power can be cut, and that can fail: a file system in memory, mounted by FUSE.
//
// It keeps what was synced. Of what was not, a cut loses what a seeded draw says: nothing, all, the newest changes, or any
// of them; whole writes, sectors of writes, truncations, creations, renames and removals, in any order. A file's sync
// makes its content durable and not its name; a directory's sync its names and not their content. Who passes on this disk
// passes on any that keeps to POSIX.
//
// It guarantees that no program sees anything of the disk after the instant of the cut, and that what is there afterwards
// follows from the seed and from what was done before. It never touches a real disk.
package fault
