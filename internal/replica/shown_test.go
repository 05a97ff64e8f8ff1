package replica

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"yurt/internal/filter"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/wire"
)

var serviceKey = Key{Resource: request.Resource{Version: "v1", Resource: "services"}, Representation: wire.Representation{Preference: wire.OnlyJSON}}

// proxied is a node with a Service, web, and its slice, and the filters of a
// kube-proxy.
type proxied struct {
	*dark
	services                     *Collection
	throughServices, throughEnds *filter.Chain
}

func newProxied(t *testing.T) *proxied {
	p := &proxied{dark: newDark(t)}
	var err error
	p.services, err = p.set.open(serviceKey)
	p.must(err)
	p.must(arrive(t.Context(), p.services, wire.JSON, listOf(t, wire.JSON, "v1", "Service", p.service("web"), p.service("lb", discard, "true"))))
	site := &filter.Site{Node: "edge", Find: p.set.Find}
	p.throughServices = site.For("kube-proxy/v1", serviceKey.Resource)
	p.throughEnds = site.For("kube-proxy/v1", sliceKey.Resource)
	return p
}

const (
	discard  = "svc.openyurt.io/discard"
	topology = "openyurt.io/topologyKeys"
)

func (p *proxied) service(name string, annotation ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "s", ResourceVersion: strconv.FormatUint(p.revision, 10)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	if len(annotation) > 0 {
		s.Annotations = map[string]string{annotation[0]: annotation[1]}
	}
	return s
}

func (p *proxied) feedService(name string, annotation ...string) {
	p.feed(p.services, wire.JSON, func() apiObject { return p.service(name, annotation...) })
}

// TestLeftOutIsDeleted: a client is told of an object that crosses the edge of a
// filter as if it came and went, and of one beyond it nothing.
func TestLeftOutIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t)
		defer p.close()
		var proxy *watcher
		p.step("it comes", func() { proxy = p.watchThrough("proxy", p.services, p.throughServices) }, `
			proxy: ADDED web @10
			proxy: BOOKMARK @10
		`)
		p.step("a visible one is left out", func() { p.feedService("web", discard, "true") }, `
			proxy: DELETED web @11
		`)
		p.step("and changes unseen", func() { p.feedService("web", discard, "true") }, `
			proxy: BOOKMARK @12
		`)
		p.step("and is back", func() { p.feedService("web") }, `
			proxy: ADDED web @13
		`)
		p.step("it changes", func() { p.feedService("web") }, `
			proxy: MODIFIED web @14
		`)
		p.step("one that was never seen shows", func() { p.feedService("lb") }, `
			proxy: ADDED lb @15
		`)
		p.step("one comes unseen", func() { p.feedService("new", discard, "true") }, `
			proxy: BOOKMARK @16
		`)
		p.step("and goes unseen", func() { p.removeService("new") }, `
			proxy: BOOKMARK @17
		`)
		p.step("a visible one goes", func() { p.removeService("lb") }, `
			proxy: DELETED lb @18
		`)
		p.leave(proxy)
		p.step("while it is away", func() { p.feedService("web", discard, "true") }, "")
		p.step("it is told when it is back", func() { p.back(proxy) }, `
			proxy: DELETED web @19
		`)
	})
}

func (p *proxied) removeService(name string) {
	p.revision++
	var b store.Batch
	b.Delete(p.services.table, "shop/"+name, p.revision, nil)
	p.must(p.store.Commit(p.t.Context(), &b))
}

// TestFiltersInLists: lists are as the filters show them, and as long as they say.
func TestFiltersInLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t)
		defer p.close()
		inProtobuf := Key{Resource: serviceKey.Resource, Representation: wire.Representation{Preference: wire.OnlyProtobuf}}
		other, err := p.set.open(inProtobuf)
		p.must(err)
		p.must(arrive(t.Context(), other, wire.Protobuf, listOf(t, wire.Protobuf, "v1", "Service", p.service("web"), p.service("lb", discard, "true"))))
		for _, c := range []*Collection{p.services, other} {
			m, _ := c.current()
			client := &client{header: http.Header{}}
			p.must(c.List(client, p.throughServices))
			if n := client.header.Get("Content-Length"); n != "" && n != strconv.Itoa(client.out.Len()) {
				t.Errorf("Content-Length is %s, the list has %d bytes", n, client.out.Len())
			}
			var names []string
			list, err := wire.ReadList(bytes.NewReader(client.out.Bytes()), m.Encoding, 1<<20, func(i wire.Item) error { names = append(names, i.Name); return nil })
			p.must(err)
			if got := strings.Join(names, " "); got != "web" || list.ResourceVersion != "10" {
				t.Errorf("%s: %q at %s", m.Encoding, got, list.ResourceVersion)
			}
		}
	})
}

// TestFiltersFollowOtherObjects: what a slice shows goes by its Service, too. The
// slice is sent again when that changes, at the version that it has.
func TestFiltersFollowOtherObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProxied(t)
		defer p.close()
		far := func() apiObject {
			s := p.slice("10.0.0.1", "10.0.0.2")
			s.Endpoints[1].NodeName = nil // somewhere else
			s.Labels[discoveryv1.LabelServiceName] = "web"
			return s
		}
		p.feed(p.slices, wire.JSON, far)
		change := func(do func()) func() {
			return func() { do(); time.Sleep(2 * dependence) }
		}
		p.step("it comes", func() { p.watchThrough("proxy", p.slices, p.throughEnds) }, `
			proxy: ADDED else 10.9.0.1 ready @10
			proxy: ADDED web 10.0.0.1 ready 10.0.0.2 ready @11
			proxy: BOOKMARK @11
		`)
		p.step("the Service wants its own node", change(func() { p.feedService("web", topology, "kubernetes.io/hostname") }), `
			proxy: MODIFIED else @10
			proxy: MODIFIED web 10.0.0.1 ready @11
			proxy: BOOKMARK @11
		`)
		p.step("something else changes", change(func() { p.feedService("lb") }), "")
		p.step("the slice changes", func() { p.feed(p.slices, wire.JSON, far) }, `
			proxy: MODIFIED web 10.0.0.1 ready @14
		`)
		p.step("the Service takes all", change(func() { p.feedService("web") }), `
			proxy: MODIFIED else 10.9.0.1 ready @10
			proxy: MODIFIED web 10.0.0.1 ready 10.0.0.2 ready @14
			proxy: BOOKMARK @14
		`)
	})
}
