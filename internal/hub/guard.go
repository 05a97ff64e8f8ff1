package hub

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"yurt/internal/offline"
	"yurt/internal/wire"
)

// socketToken is how a browser sends a bearer token with a WebSocket: the API
// server takes it for a credential, beside the one that the connection has.
const socketToken = "base64url.bearer.authorization.k8s.io."

// guarded refuses what no client of an API server sends: a token outside of the
// Authorization header (the API server would see a credential that the hub has
// not, and one of the two might answer for the other), and a connection to
// somewhere else.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "the hub is no proxy to anywhere but the API server")
		case carriesSocketToken(r.Header):
			refuse(w, http.StatusUnauthorized, "Unauthorized", "a token in Sec-WebSocket-Protocol is not taken here: send it as Authorization")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func carriesSocketToken(h http.Header) bool {
	return slices.ContainsFunc(h.Values("Sec-Websocket-Protocol"), func(value string) bool {
		return strings.Contains(strings.ToLower(value), socketToken)
	})
}

// forPrograms refuses web pages. Where no credential is asked for, a browser on
// the node would lend its reach to whatever page it shows: by its Origin, or by a
// name of the page's own that leads to loopback.
func forPrograms(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "" || !loopbackName(r.Host) {
			refuse(w, http.StatusForbidden, "Forbidden", "this port answers programs on the node, by its loopback address")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackName tells whether a Host header names this host by an address that
// nobody else can give a meaning to.
func loopbackName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

func refuse(w http.ResponseWriter, code int, reason, message string) {
	reply := offline.StatusReply(wire.JSON, wire.Status{Code: code, Reason: reason, Message: message})
	w.Header().Set("Content-Type", reply.ContentType)
	w.WriteHeader(reply.Code)
	_, _ = w.Write(reply.Body) // a client that has gone does not need it
}
