package offline

import "yurt/internal/request"

// kind is what a write is, as far as its answer in the dark goes.
type kind int

const (
	refuse      kind = iota // 503, with the outage's start
	lease                   // of this node: kept in memory
	nodeCreate              // 409 when the node is known
	nodeStatus              // the known node
	eventCreate             // journaled
	eventPatch              // journaled
	token                   // the last one issued
	review                  // the last answer
	podCreate               // 409 for a mirror pod that is known
	podStatus               // laid over the pod
)

// decide sorts a write. It looks at the request's path and verb only.
func decide(q *request.Request, node string) kind {
	in := func(group, resource, subresource string) bool {
		return q.Resource.Group == group && q.Resource.Resource == resource && q.Subresource == subresource
	}
	switch {
	case isLease(q, node) && q.Verb == request.Update:
		return lease
	case in("", "nodes", "") && q.Verb == request.Create:
		return nodeCreate
	case in("", "nodes", "status") && q.Name == node && (q.Verb == request.Patch || q.Verb == request.Update):
		return nodeStatus
	case in("", "events", ""), in("events.k8s.io", "events", ""):
		return decideEvent(q)
	case in("", "serviceaccounts", "token") && q.Verb == request.Create:
		return token
	case q.Verb == request.Create && reviewed(q.Resource):
		return review
	case in("", "pods", "") && q.Verb == request.Create:
		return podCreate
	case isPodStatus(q):
		return podStatus
	}
	return refuse
}

// isPodStatus tells whether the request writes a pod's status.
func isPodStatus(q *request.Request) bool {
	return q.Resource == pods && q.Subresource == "status" && (q.Verb == request.Patch || q.Verb == request.Update)
}

// isLease tells whether the request is for the node's own lease.
func isLease(q *request.Request, node string) bool {
	return q.Resource.Group == "coordination.k8s.io" && q.Resource.Resource == "leases" && q.Subresource == "" &&
		q.Namespace == "kube-node-lease" && q.Name == node
}

func decideEvent(q *request.Request) kind {
	switch q.Verb {
	case request.Create:
		return eventCreate
	case request.Patch:
		return eventPatch
	}
	return refuse
}

func reviewed(r request.Resource) bool {
	switch r.Resource {
	case "tokenreviews":
		return r.Group == "authentication.k8s.io"
	case "subjectaccessreviews":
		return r.Group == "authorization.k8s.io"
	}
	return false
}

// Asked tells whether a write is a question, whose answer is remembered: a
// token request or a review.
func Asked(q *request.Request) bool {
	k := decide(q, "")
	return k == token || k == review
}
