package store

// Record is one entry of a table.
type Record struct {
	Key      string
	Revision uint64
	// Identity tells an object from its successor of the same key (a uid): where it differs from the stored one, a put
	// is a deletion and an addition. Empty compares equal to all. Only a hash is kept: it is empty in what is read.
	Identity string
	Value    []byte
}

// Batch collects changes that are committed together, all or nothing, possibly over several tables. The zero value is
// an empty batch. Values are copied: the caller's buffers are its own again when Put returns.
type Batch struct{}

// Put adds or replaces a record. In a table with history its revision becomes the table's and must not be lower.
func (b *Batch) Put(t *Table, r Record) { panic("todo") }

// Delete removes the record of that key at the given revision. last is the content that the Deleted event shows; nil
// stands for the stored one. Deleting what is not there only moves the revision.
func (b *Batch) Delete(t *Table, key string, revision uint64, last []byte) { panic("todo") }

// SetRevision moves the table's revision without a change (a bookmark).
func (b *Batch) SetRevision(t *Table, revision uint64) { panic("todo") }

// SetMeta replaces the small opaque blob that the table carries.
func (b *Batch) SetMeta(t *Table, meta []byte) { panic("todo") }

// Len is the number of changes in b, Size the bytes of their values.
func (b *Batch) Len() int  { panic("todo") }
func (b *Batch) Size() int { panic("todo") }
