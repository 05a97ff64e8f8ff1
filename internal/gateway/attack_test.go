package gateway

import (
	"strings"
	"testing"
)

// TestAttacksOnIdentity: who has no credential, or another's, gets nothing of
// what the node has read, online and in the dark, and nothing of theirs leaves
// under the node's identity. Attacks on connections and parsers are in
// internal/hub.
func TestAttacksOnIdentity(t *testing.T) {
	const (
		secret  = "/api/v1/namespaces/shop/secrets/s"
		planted = "planted"
	)
	inBubble(t, func(t *testing.T, w *world) {
		w.change(
			"put "+secret+" "+planted, "put /api/v1/nodes/edge "+planted, "put /apis/metrics.k8s.io/v1beta1/nodes/edge "+planted,
			"issue mallory-token mallory", "deny mallory /",
		)
		// The node has read everything, in every way.
		for _, read := range []string{
			secret, "/api/v1/namespaces/shop/secrets", "/api/v1/namespaces/shop/secrets?resourceVersion=0",
			"/api/v1/nodes/edge", "/apis/metrics.k8s.io/v1beta1/nodes/edge", "/apis/metrics.k8s.io/v1beta1/nodes?resourceVersion=0",
		} {
			if got := w.do("GET " + read).out.String(); !strings.Contains(got, planted) {
				t.Fatalf("the node reads %s: %s", read, got)
			}
		}
		attacks := map[string]string{
			"no credential, and the kubelet's name":          "tls User-Agent=kubelet/v1.37.2",
			"a token that nobody knows":                      "tls as=guess",
			"another node's certificate":                     "cert=system:node:other",
			"another node's certificate, and a token":        "cert=system:node:other as=alice-token",
			"a user's certificate that is called after it":   "cert=system:node:edge:x",
			"somebody with a token and no rights":            "tls as=mallory-token",
			"the headers of an authenticating proxy":         "tls X-Remote-User=system:node:edge X-Remote-Group=system:nodes",
			"those headers, and a token":                     "tls as=mallory-token X-Remote-User=system:node:edge X-Remote-Group=system:nodes",
			"impersonation of the node":                      "tls as=mallory-token Impersonate-User=system:node:edge Impersonate-Group=system:nodes",
			"a password":                                     "tls Authorization=Basic%20bm9kZTo=",
			"a token among the protocols of a WebSocket":     "tls Sec-WebSocket-Protocol=base64url.bearer.authorization.k8s.io.YWxpY2UtdG9rZW4",
			"a token in the query, which is no credential":   "tls X-Query=access_token",
			"on the plain port, a token without rights":      "as=mallory-token",
			"on the plain port, the node as somebody else":   "Impersonate-User=mallory",
			"on the plain port, a password beside the token": "Authorization=Basic",
		}
		paths := []string{
			secret, "/api/v1/namespaces/shop/secrets", "/api/v1/namespaces/shop/secrets?resourceVersion=0", "/api/v1/namespaces/shop/secrets?limit=1",
			"/api/v1/namespaces/shop/secrets?watch=1&timeoutSeconds=1&resourceVersion=0",
			"/api/v1/nodes/edge", "/apis/metrics.k8s.io/v1beta1/nodes/edge", "/apis/metrics.k8s.io/v1beta1/nodes?resourceVersion=0",
			// What two parsers may read differently.
			"/api/v1//namespaces/shop/secrets/s", "/api/v1/namespaces/shop/./secrets/s", "/api/v1/namespaces/shop/pods/../secrets/s",
			"/api/v1/namespaces/shop/secrets%2Fs", "/api/v1/namespaces/shop%2Fsecrets/s", "/api/v1/namespaces/shop/secrets/s/", "//api/v1/namespaces/shop/secrets/s",
			"/api/v1/watch/namespaces/shop/secrets/s", "/api/v1/proxy/nodes/edge/pods",
			"/api/v1/nodes/edge/proxy/pods", "/api/v1/nodes/edge:10250/proxy/runningpods/",
		}
		try := func(when string) {
			for name, as := range attacks {
				w.cloud.takeSeen()
				for _, path := range paths {
					for _, accept := range []string{"accept=application/json", "accept=protobuf"} {
						got := w.do("GET " + path + " " + accept + " " + as)
						if strings.Contains(got.out.String(), planted) {
							t.Errorf("%s, %s: GET %s is answered:\n%s", when, name, path, got)
						}
					}
				}
				for _, line := range w.cloud.takeSeen() {
					if strings.HasSuffix(line, "as node") && !strings.Contains(line, "reviews as node") && !strings.Contains(line, "watch=1") && !strings.Contains(line, "resourceVersionMatch=") {
						t.Errorf("%s, %s: this left as the node: %s", when, name, line)
					}
					if strings.Contains(line, "X-Remote") {
						t.Errorf("%s, %s: this left: %s", when, name, line)
					}
				}
			}
		}
		try("online")
		w.change("cut")
		try("in the dark")
		w.restart()
		try("after a restart in the dark")
		// It can fail: the node itself, and whoever is allowed.
		if got := w.do("GET " + secret); !strings.Contains(got.out.String(), planted) {
			t.Errorf("the node in the dark: %s", got)
		}
		w.change("heal", "sleep 2s")
		if got := w.do("GET " + secret + " tls as=alice-token"); !strings.Contains(got.out.String(), planted) {
			t.Errorf("who may: %s", got)
		}
	})
}

// TestProxiedAnswersAreNotRemembered: what a container, another node's kubelet
// or an extension says is nobody's to hear later.
func TestProxiedAnswersAreNotRemembered(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		paths := []string{
			"/api/v1/nodes/edge/proxy/pods", "/api/v1/namespaces/shop/services/web/proxy/index.html",
			"/api/v1/namespaces/shop/pods/web/proxy/", "/api/v1/namespaces/shop/pods/web/log",
		}
		for _, path := range paths {
			if got := w.do("GET " + path).out.String(); !strings.Contains(got, "the container's own words") {
				t.Fatalf("%s: %s", path, got)
			}
		}
		w.change("cut")
		for _, path := range paths {
			if got := w.do("GET " + path); strings.Contains(got.out.String(), "the container's own words") {
				t.Errorf("%s in the dark: %s", path, got)
			}
		}
	})
}
