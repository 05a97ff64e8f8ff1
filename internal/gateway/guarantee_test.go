package gateway

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"yurt/internal/wire"
)

// inBubble runs a test with a world of its own and a time of its own.
func inBubble(t *testing.T, test func(*testing.T, *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.stop()
		test(t, w)
	})
}

// TestNoMoreOfflineThanOnline asks, as everybody, for everything, in every way:
// what the cloud did not grant to an identity when it was there, nobody gets by
// that identity when it is away. One grant is taken back, and one token, before
// the cut; the hub is restarted after it.
func TestNoMoreOfflineThanOnline(t *testing.T) {
	identities := []string{"", " as=alice-token", " as=bob-token", " as=late-token"}
	var reads []string
	for _, path := range []string{
		"/api/v1/namespaces/shop/secrets/s", "/api/v1/namespaces/shop/secrets", "/api/v1/namespaces/shop/secrets?resourceVersion=0",
		"/api/v1/namespaces/shop/secrets?limit=5", "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Ds",
		"/api/v1/namespaces/shop/secrets?watch=1&timeoutSeconds=1",
		"/api/v1/namespaces/shop/secrets?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
		"/api/v1/namespaces/shop/configmaps/c", "/api/v1/namespaces/shop/configmaps?resourceVersion=0",
		"/api/v1/nodes/edge", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge",
	} {
		for _, accept := range []string{" accept=application/json", " accept=protobuf"} {
			reads = append(reads, "GET "+path+accept)
		}
	}
	secret := map[string]string{"secrets": "planted-secret", "configmaps": "planted-config", "nodes": "planted-node", "leases": "planted-lease"}
	inBubble(t, func(t *testing.T, w *world) {
		w.change(
			"put /api/v1/namespaces/shop/secrets/s planted-secret", "put /api/v1/namespaces/shop/configmaps/c planted-config",
			"put /api/v1/nodes/edge planted-node", "put /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge planted-lease",
			"issue late-token late",
			"deny bob /api/v1/namespaces/shop/secrets", "deny bob /apis/coordination", "deny alice /api/v1/nodes", "deny alice /apis/coordination",
			"deny late /apis/coordination",
		)
		granted := map[string]bool{}
		all := func(visit func(key, resource, request string)) {
			for _, identity := range identities {
				for _, read := range reads {
					for resource := range secret {
						if strings.Contains(read, "/"+resource) {
							visit(identity+" "+resource, resource, read+identity)
						}
					}
				}
			}
		}
		all(func(key, resource, request string) {
			if strings.Contains(w.do(request).out.String(), secret[resource]) {
				granted[key] = true
			}
		})
		w.change("deny alice /api/v1/namespaces/shop/secrets", "revoke late-token", "sleep 2m")
		for _, request := range []string{"GET /api/v1/namespaces/shop/secrets/s", "GET /api/v1/namespaces/shop/secrets"} {
			for _, accept := range []string{" accept=application/json", " accept=protobuf"} {
				for _, identity := range identities {
					w.do(request + accept + identity)
				}
			}
		}
		for key := range granted {
			if strings.HasPrefix(key, " as=alice-token secrets") || strings.HasPrefix(key, " as=late-token") {
				delete(granted, key)
			}
		}
		w.change("cut")
		w.do(`PUT /apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge body={"kind":"Lease","apiVersion":"coordination.k8s.io/v1","metadata":{"name":"edge","annotations":{"x":"planted-lease"}}}`)
		for _, when := range []string{"in the dark", "after a restart in the dark"} {
			answered := 0
			all(func(key, resource, request string) {
				c := w.do(request)
				got := strings.Contains(c.out.String(), secret[resource])
				if got && !granted[key] {
					t.Errorf("%s: %s: answered with what was never granted: %s", when, request, c)
				}
				if got {
					answered++
				}
			})
			if answered < 10 {
				t.Errorf("%s: %d requests were answered: the test proves nothing", when, answered)
			}
			w.restart()
		}
	})
}

// TestNeverEmptyOnDoubt puts the hub into every kind of doubt and asks for what
// exists: it answers with it, with an error that says so, or not at all; never
// with an empty list, a list without it, 404, or an empty 200.
func TestNeverEmptyOnDoubt(t *testing.T) {
	const collection, exists = "/api/v1/namespaces/shop/configmaps", "planted"
	reads := []string{
		"GET " + collection + "/" + exists,
		"GET " + collection, "GET " + collection + "?resourceVersion=0", "GET " + collection + "?limit=5",
		"GET " + collection + "?resourceVersion=1&resourceVersionMatch=NotOlderThan",
		"GET " + collection + "?fieldSelector=metadata.name%3D" + exists,
		"GET " + collection + "?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
	}
	put := "put " + collection + "/" + exists + " here"
	known := func(lines ...string) func(*world) { // everything has been asked once
		return func(w *world) {
			w.change(lines[0])
			for _, read := range reads {
				w.do(read)
				w.do(read + " accept=protobuf")
			}
			w.change(lines[1:]...)
		}
	}
	for _, tc := range []struct {
		name    string
		prepare func(w *world)
	}{
		{"nothing was ever known", func(w *world) { w.change(put, "cut") }},
		{"only another object was known", func(w *world) {
			w.change("put " + collection + "/other 1")
			w.do("GET " + collection + "/other")
			w.change(put, "cut")
		}},
		{"the first list breaks off", func(w *world) { w.change(put, "truncate") }},
		{"a captive portal answers", func(w *world) { w.change(put, "answer 200 text/html <html>log in</html>") }},
		{"an empty body", func(w *world) { w.change(put, "answer 200 application/json") }},
		{"a list without a kind", func(w *world) { w.change(put, `answer 200 application/json {"items":[]}`) }},
		{"a default backend says 404", func(w *world) { w.change(put, "answer 404 text/plain nothing here") }},
		{"a default backend says 404 in JSON", func(w *world) { w.change(put, `answer 502 application/json {"code":404}`) }},
		{"a load balancer redirects", func(w *world) { w.change(put, "answer 302 text/html x") }},
		{"known, then a captive portal", known(put, "answer 200 text/html <html>log in</html>")},
		{"known, then an empty body", known(put, "answer 200 application/json")},
		{"known, then a list without a kind", known(put, `answer 200 application/json {"items":[]}`)},
		{"known, then a list of Statuses", known(put, `answer 200 application/json {"kind":"Status","apiVersion":"v1","status":"Success"}`)},
		{"known, then half a list", known(put, "truncate")},
		{"known, then a default backend says 404", known(put, "answer 404 text/plain nothing here")},
		{"known, then silence", known(put, "hang")},
		{"made after the collection was parked", func(w *world) {
			w.do("GET " + collection + "?resourceVersion=0")
			w.change("sleep 30m", put, "cut")
		}},
		{"parked, and the hub restarted in the dark", func(w *world) {
			w.do("GET " + collection + "?resourceVersion=0")
			w.change("sleep 30m", put, "cut")
			w.restart()
		}},
		{"the store is damaged", func(w *world) {
			w.change(put)
			for _, read := range reads {
				w.do(read)
			}
			w.change("cut")
			w.stop()
			w.damage()
			w.start()
		}},
	} {
		for _, accept := range []string{"application/json", "protobuf"} {
			t.Run(tc.name+"/"+accept, func(t *testing.T) {
				inBubble(t, func(t *testing.T, w *world) {
					tc.prepare(w)
					for _, read := range reads {
						request := read + " accept=" + accept
						c := w.begin(request)
						time.Sleep(20 * time.Second)
						select {
						case <-c.done:
						default: // it waits, which is no answer
							c.cancel()
							<-c.done
							continue
						}
						c.cancel()
						if c.broken || c.code >= 500 || c.code == http.StatusGone || strings.Contains(c.out.String(), exists) {
							continue
						}
						if stale := strings.Contains(tc.name, "parked"); stale && c.code == http.StatusOK && c.header.Get("Warning") != "" {
							continue // frozen while nobody asked: old, and said to be
						}
						t.Errorf("%s: %s", request, c)
					}
				})
			})
		}
	}
}

// damage overwrites the middle of every file of the store.
func (w *world) damage() {
	for _, name := range w.storeFiles() {
		data, err := os.ReadFile(name)
		w.must(err)
		for i := len(data) / 3; i < len(data)*2/3; i++ {
			data[i] ^= 0x55
		}
		w.must(os.WriteFile(name, data, 0o600))
	}
}

// TestTimeNeverGoesBack lets a client read while the cloud comes and goes,
// hangs, and the hub restarts: what it has seen of an object by a consistent
// read, it never sees older, and what it knows to have gone does not come back.
func TestTimeNeverGoesBack(t *testing.T) {
	seed := time.Now().UnixNano()
	if s := os.Getenv("SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SEED=%d", seed)
	for round := range int64(20) {
		inBubble(t, func(t *testing.T, w *world) {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(round)))
			h := historian{t: t, w: w, rand: r, objects: map[string]uint64{}, gone: map[string]uint64{}, lists: map[string]uint64{}}
			for range 60 {
				h.step()
			}
			if t.Failed() {
				t.Logf("round %d of SEED=%d:\n%s", round, seed, strings.Join(h.log, "\n"))
			}
		})
	}
}

// historian is a client that remembers what it has seen.
type historian struct {
	t    *testing.T
	w    *world
	rand *rand.Rand
	log  []string

	objects map[string]uint64 // the newest version seen
	gone    map[string]uint64 // the version at which it was seen to be gone
	lists   map[string]uint64 // by kind of list
}

const shop = "/api/v1/namespaces/shop/configmaps"

func (h *historian) step() {
	name := string(rune('a' + h.rand.IntN(3)))
	switch h.rand.IntN(14) {
	case 0, 1, 2:
		h.change("put " + shop + "/" + name + " x")
	case 3:
		h.change("delete " + shop + "/" + name)
	case 4:
		h.change("cut")
	case 5, 6:
		h.change("properly", "heal", "sleep 3s")
	case 7:
		h.change("hang")
	case 8:
		if h.rand.IntN(4) == 0 {
			h.log = append(h.log, "restart")
			h.w.restart()
		}
	case 9, 10, 11:
		h.get(name)
	case 12:
		h.list(shop)
	case 13:
		h.list(shop + []string{"?limit=500", "?resourceVersion=0"}[h.rand.IntN(2)])
	}
}

func (h *historian) change(lines ...string) {
	h.log = append(h.log, lines...)
	h.w.change(lines...)
}

// ask sends a request and waits for it as long as a client would.
func (h *historian) ask(request string) *client {
	c := h.w.begin(request)
	time.Sleep(10 * time.Second)
	c.cancel()
	<-c.done
	h.log = append(h.log, fmt.Sprintf("%s -> %s", request, c))
	return c
}

func (h *historian) get(name string) {
	c := h.ask("GET " + shop + "/" + name)
	switch {
	case c.broken:
	case c.code == http.StatusOK:
		item, _, err := wire.ParseObject(wire.JSON, c.out.Bytes())
		if err != nil {
			h.t.Errorf("get %s: %v", name, err)
			return
		}
		h.saw(name, version(item.ResourceVersion))
	case c.code == http.StatusNotFound:
		h.gone[name] = max(h.gone[name], h.objects[name]+1)
	}
}

func (h *historian) saw(name string, at uint64) {
	if at < h.objects[name] || at < h.gone[name] {
		h.t.Errorf("%s is at %d; it was seen at %d before, and gone at %d", name, at, h.objects[name], h.gone[name])
	}
	h.objects[name] = at
}

// list checks that lists don't go back, and takes note of consistent ones.
func (h *historian) list(target string) {
	c := h.ask("GET " + target)
	if c.broken || c.code != http.StatusOK {
		return
	}
	seen := map[string]uint64{}
	list, err := readItems(c.out.Bytes(), seen)
	if err != nil {
		h.t.Errorf("%s: %v", target, err)
		return
	}
	at := version(list.ResourceVersion)
	kind := strings.TrimSuffix(target, "?limit=500") // version 0 is any version: it has a time of its own
	if at < h.lists[kind] {
		h.t.Errorf("%s is at %d; a list was at %d before", target, at, h.lists[kind])
	}
	h.lists[kind] = at
	if kind != shop {
		return
	}
	for _, name := range []string{"a", "b", "c"} {
		switch {
		case seen[name] > 0 && seen[name] >= h.objects[name]:
			h.objects[name] = seen[name]
		case seen[name] == 0 && at > h.objects[name]:
			h.gone[name] = max(h.gone[name], at)
		}
	}
}

func readItems(body []byte, seen map[string]uint64) (wire.List, error) {
	return wire.ReadList(strings.NewReader(string(body)), wire.JSON, 1<<20, func(item wire.Item) error {
		seen[item.Name] = version(item.ResourceVersion)
		return nil
	})
}

func version(s string) uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// TestDenialThatCameTooEarly: the node authorizer denies the feed's list because
// it has not seen the pod's binding yet, and allows the kubelet's own watch a
// moment later. The collection is fed all the same, and there in the dark.
func TestDenialThatCameTooEarly(t *testing.T) {
	const (
		path  = "/api/v1/namespaces/shop/configmaps"
		named = "fieldSelector=metadata.name%3Dc"
	)
	inBubble(t, func(t *testing.T, w *world) {
		w.change("put "+path+"/c planted", "deny node list:"+path)
		stream := w.begin("GET " + path + "?watch=1&resourceVersion=100&allowWatchBookmarks=true&" + named)
		rest()
		if stream.code != http.StatusOK || !strings.Contains(stream.takeEvents(), "c=planted") {
			t.Fatalf("the client's own watch, which the API server allows: %s", stream)
		}
		w.cloud.takeSeen()
		time.Sleep(10 * time.Minute)
		if asked := len(w.cloud.takeSeen()); asked < 2 || asked > 20 {
			t.Errorf("a feed that was denied asks %d times in 10 minutes", asked)
		}
		w.change("allow node list:" + path)
		select {
		case <-stream.done: // the client begins again, from the replica
		case <-time.After(2 * reaskCap):
			t.Error("the stream past the replica goes on when the replica is fed")
		}
		stream.cancel()
		w.change("cut")
		w.restart()
		if got := w.do("GET " + path + "?resourceVersion=0&" + named); got.code != http.StatusOK || !strings.Contains(got.out.String(), "planted") {
			t.Errorf("in the dark after a restart: %s", got)
		}
	})
}
