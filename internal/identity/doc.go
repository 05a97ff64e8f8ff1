// Package identity tells who asks, and what they may be shown from this node's
// replica.
//
// Both are the API server's word. Whose a bearer token is it says in a
// TokenReview, and what somebody may read in a SubjectAccessReview for exactly
// that; both are remembered, and hold as they are while the cloud is away. A
// kubelet's client certificate is held against the cluster's authority.
//
// The package guarantees that nobody is allowed offline what the API server had
// not allowed to the same user, groups and pod, that a token of a pod that is
// gone, and one that has expired by any clock that API servers have shown, is
// worth nothing, and that a token is never stored: what is remembered is kept
// under a keyed hash of it. It never decides by itself what somebody may do, and
// it never widens what the API server said.
package identity

import (
	"errors"

	"yurt/internal/credential"
)

var (
	// ErrUnauthenticated: no credential, or none that the API server knows.
	ErrUnauthenticated = errors.New("no credential that the API server knows")
	// ErrForeign: a certificate of the cluster's, of somebody whom this hub does
	// not speak for.
	ErrForeign = errors.New("the client certificate is not this node's")
	// ErrUnknown: it can't be learned now, and is not known from before.
	ErrUnknown = errors.New("not known here")
	// ErrDenied: the API server does not allow it.
	ErrDenied = errors.New("not allowed")
)

// Port is a listener, as far as it matters for who a client is.
type Port int

const (
	// Plain HTTP on loopback: a request without a credential is the node's.
	Plain Port = iota
	// Host is TLS on loopback: client certificates and tokens.
	Host
	// Pods is TLS where pods reach it: tokens only.
	Pods
)

// User is who somebody is to the API server's authorizers.
type User struct {
	Name   string              `json:"username"`
	UID    string              `json:"uid,omitempty"`
	Groups []string            `json:"groups,omitempty"`
	Extra  map[string][]string `json:"extra,omitempty"`
}

// Keys of a service account token's extra,
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/.
const (
	extraPodName      = "authentication.kubernetes.io/pod-name"
	extraPodUID       = "authentication.kubernetes.io/pod-uid"
	extraCredentialID = "authentication.kubernetes.io/credential-id"
)

// Caller is who makes a request.
type Caller struct {
	credential.Credential
	User User // empty for the node

	subject string // of User
}

// pod is what a token is bound to; its UID is empty for one that is bound to no
// pod.
type pod struct{ namespace, name, uid string }

func (u User) pod() pod {
	first := func(key string) string {
		if values := u.Extra[key]; len(values) == 1 {
			return values[0]
		}
		return ""
	}
	namespace, _ := serviceAccount(u.Name)
	return pod{namespace: namespace, name: first(extraPodName), uid: first(extraPodUID)}
}
