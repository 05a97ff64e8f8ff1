package gateway

import (
	"strconv"

	"yurt/internal/request"
	"yurt/internal/wire"
)

// route is the path that a request takes.
type route int

const (
	// pass: to the API server and back, streaming; 503 while the cloud is away.
	pass route = iota
	// watchReplica: the replica, whatever the link.
	watchReplica
	// listReplica: the replica once it has reached the version asked for.
	listReplica
	// listFresh: a consistent read.
	listFresh
	// listExact: a list at exactly one version.
	listExact
	// listNext: the rest of a list in pieces; its tokens mean nothing here.
	listNext
	// ask: forwarded; the answer is remembered, and given when there is no
	// other.
	ask
	// table: forwarded; while the cloud is away the objects themselves, if the
	// client takes them.
	table
	// write: forwarded; Desk answers while the cloud is away.
	write
)

// String is the route as metrics and logs name it.
func (r route) String() string {
	return [...]string{"pass", "watch", "list", "list-consistent", "list-exact", "list-continue", "ask", "table", "write"}[r]
}

// decide picks the route of a request. representation is what the client
// negotiated, if it can be split and stitched.
func decide(q *request.Request, representation wire.Representation, splittable bool) route {
	switch {
	case q.Upgrade, q.Write() && q.Streaming():
		return pass
	case q.Write():
		return write
	case q.Opaque:
		return pass
	case q.Resource.Resource == "":
		return decideOther(q)
	case representation.Transform == wire.Table:
		return decideTable(q)
	case q.Verb == request.Get:
		return decideGet(q)
	case !splittable || !keepable(q.Resource) || q.Subresource != "":
		return pass
	case q.Verb == request.Watch:
		return decideWatch(q.Options)
	case q.Verb == request.List:
		return decideList(q.Options)
	}
	return pass
}

// keepable: what is born and dies by the thousand (events), or changes every few
// seconds (leases), is not kept.
func keepable(r request.Resource) bool {
	return r.Resource != "events" && r.Resource != "leases"
}

// decideGet: the answer to a get of an object is remembered, that of its log or
// of a connection to it is not.
func decideGet(q *request.Request) route {
	if q.Streaming() || q.Resource.Resource == "events" {
		return pass
	}
	return ask
}

// decideTable: a Table is made for one look; it is never kept.
func decideTable(q *request.Request) route {
	if (q.Verb == request.Get || q.Verb == request.List) && !q.Streaming() && keepable(q.Resource) && q.Options.Continue == "" {
		return table
	}
	return pass
}

// path is what is left to go by for a request that names no resource:
// discovery is remembered; health, metrics and logs are not.
func decideOther(q *request.Request) route {
	if q.Verb == request.Get && q.Discovery {
		return ask
	}
	return pass
}

// decideWatch leaves what the API server would refuse to the API server.
func decideWatch(o request.Options) route {
	_, err := strconv.ParseUint(o.ResourceVersion, 10, 64)
	valid := (o.ResourceVersion == "" || err == nil) && o.Continue == ""
	if o.SendInitialEvents == nil {
		valid = valid && o.ResourceVersionMatch == ""
	} else {
		valid = valid && o.ResourceVersionMatch == "NotOlderThan"
	}
	if !valid {
		return pass
	}
	return watchReplica
}

// decideList follows the table of resourceVersion and resourceVersionMatch in
// the API concepts, https://kubernetes.io/docs/reference/using-api/api-concepts/.
func decideList(o request.Options) route {
	if o.Continue != "" {
		return listNext
	}
	if o.SendInitialEvents != nil || o.Limit < 0 {
		return pass
	}
	version := o.ResourceVersion
	if _, err := strconv.ParseUint(version, 10, 64); version != "" && err != nil {
		return pass
	}
	switch o.ResourceVersionMatch {
	case "":
		switch {
		case version == "":
			return listFresh
		case version == "0", o.Limit == 0:
			return listReplica
		}
		return listExact // a limit with a version, before there was a match
	case "NotOlderThan":
		if version != "" {
			return listReplica
		}
	case "Exact":
		if version != "" && version != "0" {
			return listExact
		}
	}
	return pass
}
