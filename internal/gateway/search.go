package gateway

import (
	"bytes"
	"strconv"

	"yurt/internal/offline"
	"yurt/internal/replica"
	"yurt/internal/wire"
)

// known is an answer, or the knowledge that there is nothing.
type known struct {
	offline.Answer
	absent bool
}

// search finds the newest that is known of one object, in whatever order the
// sources are looked at. Absence counts as knowledge where a source that covers
// the name is newer than all in which the object was seen; otherwise a deleted
// object would come back. That an object does not exist takes more: a source
// that is as new as the cloud was.
type search struct {
	question
	best   offline.Answer // the newest that the client can read
	ok     bool           // best is one
	seen   uint64         // the newest version at which the object existed, in any form
	gone   uint64         // the newest version at which it did not
	proven bool           // by a replica that is frozen there
	doubt  bool           // something can't be read
}

// inAnswer looks at the remembered answer to a get, of this client's wording if
// exact.
func (s *search) inAnswer(a offline.Answer, exact bool) {
	if a.ContentType == tombstone {
		s.missing(a.Revision+1, false)
		return
	}
	s.seen = max(s.seen, a.Revision)
	if exact {
		s.best, s.ok = a, true
	}
}

// inList looks into a remembered list. One without selectors shows what there
// was not.
func (s *search) inList(list offline.Answer, whole bool) {
	encoding, ok := wire.ParseContentType(list.ContentType)
	if !ok {
		return
	}
	var item wire.Item
	found := false
	content, err := wire.ReadList(bytes.NewReader(list.Body), encoding, len(list.Body)+1, func(i wire.Item) error {
		if i.Name == s.q.Name && i.Namespace == s.q.Namespace {
			item, found = i, true
			item.Raw = bytes.Clone(i.Raw)
		}
		return nil
	})
	switch {
	case err != nil:
	case found:
		transform := wire.Whole
		if content.Envelope.Item.Kind == "PartialObjectMetadata" {
			transform = wire.PartialMetadata
		}
		revision, _ := strconv.ParseUint(item.ResourceVersion, 10, 64) // 0 is older than everything
		s.found(revision, list.ContentType, transform, func() offline.Answer {
			return offline.Answer{ContentType: list.ContentType, Revision: revision, At: list.At, Body: wire.AppendObject(nil, encoding, content.Envelope.Item, item.Raw)}
		})
	case whole:
		s.missing(list.Revision, false)
	}
}

// inReplica looks into a collection. frozen tells whether it followed the cloud
// to the end.
func (s *search) inReplica(c *replica.Collection, frozen bool) {
	object, at, found, err := c.Get(s.q.Namespace, s.q.Name)
	switch {
	case err != nil:
		s.doubt = true
	case found:
		s.found(object.Revision, object.ContentType, c.Representation.Transform, func() offline.Answer {
			return offline.Answer{ContentType: object.ContentType, Revision: object.Revision, At: c.FreshAt(), Body: object.Body}
		})
	case c.Key.Covers(s.q.Resource, s.q.Namespace, s.q.Name):
		s.missing(at, frozen && c.Covers(s.q.Resource, s.q.Namespace, s.q.Name))
	}
}

func (s *search) found(revision uint64, contentType string, transform wire.Transform, answer func() offline.Answer) {
	s.seen = max(s.seen, revision)
	if s.takes(contentType, transform) && (!s.ok || revision > s.best.Revision || revision == s.best.Revision && s.prefers(contentType)) {
		s.best, s.ok = answer(), true
	}
}

// prefers tells whether the client would rather have this than what was found.
func (s *search) prefers(contentType string) bool {
	this, _ := wire.ParseContentType(contentType)
	other, _ := wire.ParseContentType(s.best.ContentType)
	return s.representation.Preference != wire.OnlyJSON && this == wire.Protobuf && other == wire.JSON
}

func (s *search) missing(at uint64, proven bool) {
	if at > s.gone || at == s.gone && proven {
		s.gone, s.proven = at, proven
	}
}

// result is the newest. ok is false if nothing is known, or if the object has
// gone and may have come back since.
func (s *search) result() (newest known, ok bool) {
	switch {
	case s.gone <= s.seen:
		return known{Answer: s.best}, s.ok
	case s.proven && !s.doubt:
		return known{absent: true}, true
	}
	return known{}, false
}

// takes tells whether the client can read an object in this form.
func (k question) takes(contentType string, transform wire.Transform) bool {
	if !k.splittable || transform != k.representation.Transform {
		return false
	}
	encoding, _ := wire.ParseContentType(contentType)
	switch k.representation.Preference {
	case wire.OnlyJSON:
		return encoding == wire.JSON
	case wire.OnlyProtobuf:
		return encoding == wire.Protobuf
	}
	return true
}
