package offline

// bound is how much there may be of something, for all owners together.
type bound struct {
	entries int
	bytes   int64
}

// shares is who holds how much of it. When there is no room the owner with the
// most gives way, with what it wrote longest ago: nobody can push out what others
// hold, however much they write.
type shares struct {
	most  bound
	node  string // the owner that counts for half: the site lives from what it holds
	total bound
	of    map[string]bound
}

func newShares(most bound, node string) *shares {
	return &shares{most: most, node: node, of: map[string]bound{}}
}

// reserve makes room for an entry that is to come.
func (s *shares) reserve(bytes int64) { s.total = s.total.plus(bytes, 1) }

// add counts an entry of an owner, or, with sign -1, counts it no longer.
func (s *shares) add(owner string, bytes int64, sign int) {
	s.total = s.total.plus(bytes, sign)
	s.of[owner] = s.of[owner].plus(bytes, sign)
}

func (b bound) plus(bytes int64, sign int) bound {
	return bound{b.entries + sign, b.bytes + int64(sign)*bytes}
}

// over tells whether there is more than there may be.
func (s *shares) over() bool { return s.total.entries > s.most.entries || s.total.bytes > s.most.bytes }

// greediest is the owner that gives way.
func (s *shares) greediest() string {
	var owner string
	most := -1.0
	for name, held := range s.of {
		share := max(float64(held.entries)/float64(s.most.entries), float64(held.bytes)/float64(s.most.bytes))
		if name == s.node {
			share /= 2
		}
		if held.entries > 0 && (share > most || share == most && name < owner) {
			owner, most = name, share
		}
	}
	return owner
}
