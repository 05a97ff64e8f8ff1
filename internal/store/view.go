package store

import "iter"

// View is one committed state of a table. It never changes, and may be used by several goroutines.
type View struct{}

// Item is a record without its value.
type Item struct {
	Key      string
	Revision uint64
	Size     int // of the value
}

// Release unpins the view. It must not be used afterwards.
func (v *View) Release()         { panic("todo") }
func (v *View) Revision() uint64 { panic("todo") }
func (v *View) Meta() []byte     { panic("todo") }
func (v *View) Doubt() error     { panic("todo") }

// Len is the number of records, Size the sum of their values' sizes.
func (v *View) Len() int    { panic("todo") }
func (v *View) Size() int64 { panic("todo") }

// Get returns one record. Its value is the caller's.
func (v *View) Get(key string) (Record, bool, error) { panic("todo") }

// Items goes through the keys from the given one on, in byte order, without reading any value.
func (v *View) Items(from string) iter.Seq[Item] { panic("todo") }

// Records goes through the records from the given key on, in byte order. Values are read ahead in large pieces; each is
// valid until the next step. A record that can't be read is given with its key, no value and a *DamagedError; the
// iteration goes on behind it.
func (v *View) Records(from string) iter.Seq2[Record, error] { panic("todo") }

// Cursor returns a cursor that continues exactly behind this view. It outlives the view.
func (v *View) Cursor() *Cursor { panic("todo") }
