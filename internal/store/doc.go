// Package store is the durable memory of the hub: ordered tables of records, with a revision of their own and a bounded
// history of changes, in one directory that belongs to one process.
//
// It guarantees that
//   - a batch is durable (fdatasync) before it is visible, all of it or nothing of it, also after a power cut;
//   - batches that arrive while the disk is busy share the next write and fdatasync (group commit);
//   - every record carries a checksum that is verified whenever its value is read from the disk: a damaged record is a
//     [DamagedError], never a different value and never a shorter list;
//   - a View is one committed state of a table, and a Cursor yields each change after it once, in order;
//   - with keys, every value on the disk is sealed (AES-256-GCM), bound to its table, key and revision; a value whose key
//     is not known is a [DamagedError] as well, and its table in doubt, and what is in clear is sealed soon;
//   - memory is a few words and the key for each record; values stay on the disk, and are read by pread, never mapped;
//   - after a failed write (no space, I/O error) reads go on, and commits succeed again once the disk takes them.
//
// It never holds a lock or a transaction across its caller's work: Views and Cursors only pin files. It never repeats an
// fsync that failed, never answers from data it could not verify, and knows nothing of Kubernetes: keys are byte strings,
// values opaque. It does not hide names, sizes and revisions, and can't tell an older copy of the whole directory. See docs/store-format.md for the files.
package store
