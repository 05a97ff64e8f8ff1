package failpoint

// Name is the name of a point: path of the package, then the step.
type Name string

// The points of internal/store, in the order in which a commit, a swap and a compaction come by them.
const (
	StoreBeforeWrite     Name = "store/before-write"      // a group is encoded, nothing of it is in the file
	StorePartWritten     Name = "store/part-written"      // the first half of a group is in the file
	StoreBeforeSync      Name = "store/before-sync"       // the group is in the file, not durable
	StoreAfterSync       Name = "store/after-sync"        // durable, not visible, nobody was told
	StoreBeforeCallback  Name = "store/before-callback"   // visible, nobody was told
	StoreBeforeCreate    Name = "store/before-create"     // the next segment is wanted
	StoreAfterCreate     Name = "store/after-create"      // its file exists, without a header
	StoreAfterHeader     Name = "store/after-header"      // its header is durable, its name may not be
	StoreBeforeFooter    Name = "store/before-footer"     // the full segment has no footer
	StoreAfterFooter     Name = "store/after-footer"      // it has one
	StoreStageChunk      Name = "store/stage-chunk"       // a piece of a stage is to be written
	StoreBeforeSwap      Name = "store/before-swap"       // all is staged, nothing swapped
	StoreCompactMove     Name = "store/compact-move"      // live records of the oldest segment are to be written again
	StoreBeforeRetire    Name = "store/before-retire"     // all are, the segment is still there
	StoreAfterUnlink     Name = "store/after-unlink"      // its name is gone, not durably
	StoreAfterRetire     Name = "store/after-retire"      // it is gone
	StoreOpenLocked      Name = "store/open-locked"       // Open holds the lock, nothing is read
	StoreOpenRecovered   Name = "store/open-recovered"    // Open has read all, nothing is written
	StoreRead            Name = "store/read"              // a value is to be read from the disk
	StoreBeforeCloseMark Name = "store/before-close-mark" // Run is about to end
)

// All lists every point.
func All() []Name {
	return []Name{
		StoreBeforeWrite, StorePartWritten, StoreBeforeSync, StoreAfterSync, StoreBeforeCallback,
		StoreBeforeCreate, StoreAfterCreate, StoreAfterHeader, StoreBeforeFooter, StoreAfterFooter,
		StoreStageChunk, StoreBeforeSwap,
		StoreCompactMove, StoreBeforeRetire, StoreAfterUnlink, StoreAfterRetire,
		StoreOpenLocked, StoreOpenRecovered, StoreRead, StoreBeforeCloseMark,
	}
}
