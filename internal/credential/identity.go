package credential

import (
	"log/slog"
	"strings"
)

// Identity says as whom a request acts. What was fetched for one identity is
// never shown to another.
type Identity struct {
	// Name is the user name that the API server gave to the token, or that of
	// a client certificate; empty for the node itself, whose identity is the
	// hub's own certificate.
	Name string
}

// Node is the identity of the node: the kubelet's, and the hub's own.
var Node = Identity{}

// IsNode tells whether this is the node itself.
func (i Identity) IsNode() bool { return i.Name == "" }

// String is the user name, or "node".
func (i Identity) String() string {
	if i.IsNode() {
		return "node"
	}
	return i.Name
}

// Credential is what a request is sent upstream with: a client's bearer token,
// or, if Token is empty, the certificate that the hub has for the identity.
type Credential struct {
	Identity Identity
	Token    string
}

// String names the identity and never the token.
func (c Credential) String() string { return c.Identity.String() }

// LogValue keeps the token out of every log line.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// GoString keeps the token out of %#v.
func (c Credential) GoString() string { return "credential.Credential(" + c.String() + ")" }

// BearerToken returns the token of an Authorization header, or "" if the header
// is of another kind.
func BearerToken(authorization string) string {
	scheme, token, ok := strings.Cut(strings.TrimSpace(authorization), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
