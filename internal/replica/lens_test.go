package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"yurt/internal/credential"
	"yurt/internal/filter"
	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/store"
	"yurt/internal/upstream"
	"yurt/internal/wire"
)

// dark is a node whose cloud is away, with the pods and the slices that the
// cloud had last. A kubelet reads the pods in protobuf, a kube-proxy the slices
// in JSON.
type dark struct {
	*world
	overlay      *overlay.Overlay
	pods, slices *Collection
	revision     uint64
	uids         int
	clients      []*watcher
}

// watcher is a client that goes on where it was when it comes back.
type watcher struct {
	*client
	name       string
	collection *Collection
	filters    *filter.Chain
	version    uint64
}

var (
	podKey   = Key{Resource: request.Resource{Version: "v1", Resource: "pods"}, FieldSelector: "spec.nodeName=edge", Representation: wire.Representation{Preference: wire.ProtobufOrJSON}}
	sliceKey = Key{Resource: request.Resource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}, Representation: wire.Representation{Preference: wire.OnlyJSON}}
)

func newDark(t *testing.T) *dark {
	w := &world{t: t, dir: t.TempDir(), cloud: newCloud(), watches: map[string]*client{}, mend: func() {}}
	w.cloud.set(upstream.Down)
	d := &dark{world: w, revision: 10}
	d.start()
	d.must(arrive(t.Context(), d.pods, wire.Protobuf, listOf(t, wire.Protobuf, "v1", "Pod", d.pod("web-a", "10.0.0.1", true), d.pod("web-b", "10.0.0.2", true))))
	d.must(arrive(t.Context(), d.slices, wire.JSON, listOf(t, wire.JSON, "discovery.k8s.io/v1", "EndpointSlice", d.slice("10.0.0.1", "10.0.0.2"), d.elsewhere())))
	return d
}

// arrive makes a list the contents of a collection.
func arrive(ctx context.Context, c *Collection, enc wire.Encoding, list []byte) error {
	in := &incoming{stage: c.table.Stage()}
	defer in.stage.Abort()
	if err := c.takeIn(ctx, in, enc.MediaType(), bytes.NewReader(list)); err != nil {
		return err
	}
	return c.swap(ctx, in)
}

func (d *dark) start() {
	d.world.start()
	var err error
	d.overlay, err = overlay.Open(d.store, overlay.Options{})
	d.must(err)
	d.set.ShowThrough(d.overlay, "edge")
	d.pods, err = d.set.open(podKey)
	d.must(err)
	d.slices, err = d.set.open(sliceKey)
	d.must(err)
}

func (d *dark) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *dark) pod(name, ip string, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name + strconv.Itoa(d.uids)), ResourceVersion: strconv.FormatUint(d.revision, 10)},
		Status:     corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

// slice is that of web-a and web-b, at these addresses, ready; - is one that is
// not.
func (d *dark) slice(addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "web", ResourceVersion: strconv.FormatUint(d.revision, 10),
			Labels: map[string]string{discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i, address := range addresses {
		ready := !strings.HasPrefix(address, "-")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{strings.TrimPrefix(address, "-")}, NodeName: ptr.To("edge"),
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: []string{"web-a", "web-b"}[i], UID: d.pod([]string{"web-a", "web-b"}[i], "", true).UID},
		})
	}
	return s
}

// elsewhere is a slice with which the node has nothing to do.
func (d *dark) elsewhere() *discoveryv1.EndpointSlice {
	s := d.slice()
	s.Name, s.UID = "else", "else"
	s.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.9.0.1"}}}
	return s
}

type apiObject interface {
	Marshal() ([]byte, error)
	GetName() string
}

func encoded(t testing.TB, enc wire.Encoding, o apiObject) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if enc == wire.JSON {
		raw, err = json.Marshal(o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func listOf(t testing.TB, enc wire.Encoding, version, kind string, objects ...apiObject) []byte {
	t.Helper()
	var items [][]byte
	var size int64
	for _, o := range objects {
		items = append(items, encoded(t, enc, o))
		size += wire.ItemSize(len(items[len(items)-1]))
	}
	var out bytes.Buffer
	envelope := wire.Envelope{List: wire.TypeMeta{APIVersion: version, Kind: kind + "List"}, Item: wire.TypeMeta{APIVersion: version, Kind: kind}}
	w := wire.NewListWriter(&out, enc, envelope, wire.ListMeta{ResourceVersion: "10"}, size)
	for _, item := range items {
		if err := w.WriteItem(item); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// feed brings a change of a collection.
func (d *dark) feed(c *Collection, enc wire.Encoding, make func() apiObject) {
	d.t.Helper()
	d.revision++
	o := make()
	var b store.Batch
	b.Put(c.table, store.Record{Key: "shop/" + o.GetName(), Revision: d.revision, Value: encoded(d.t, enc, o)})
	d.must(d.store.Commit(d.t.Context(), &b))
}

func (d *dark) feedPod(name, ip string, ready bool) {
	d.t.Helper()
	d.feed(d.pods, wire.Protobuf, func() apiObject { return d.pod(name, ip, ready) })
}

func (d *dark) feedSlice(addresses ...string) {
	d.t.Helper()
	d.feed(d.slices, wire.JSON, func() apiObject { return d.slice(addresses...) })
}

func (d *dark) deletePod(name string) {
	d.t.Helper()
	d.revision++
	var b store.Batch
	b.Delete(d.pods.table, "shop/"+name, d.revision, nil)
	d.must(d.store.Commit(d.t.Context(), &b))
}

// stored returns a pod as the cloud has it.
func (d *dark) stored(name string) []byte {
	d.t.Helper()
	record, ok, err := d.pods.table.Get("shop/" + name)
	if err != nil || !ok {
		d.t.Fatalf("pod %s: %t, %v", name, ok, err)
	}
	return record.Value
}

// write is the kubelet's status write, in the dark.
func (d *dark) write(name, ip string, ready bool) {
	d.t.Helper()
	pod := d.pod(name, ip, ready)
	pod.ResourceVersion = ""
	_, err := d.overlay.Replace(d.t.Context(), wire.Protobuf, d.stored(name), wire.Protobuf, encoded(d.t, wire.Protobuf, pod))
	d.must(err)
}

func (d *dark) watch(name string, c *Collection) *watcher { return d.watchThrough(name, c, nil) }

func (d *dark) watchThrough(name string, c *Collection, filters *filter.Chain) *watcher {
	w := &watcher{client: &client{header: http.Header{}}, name: name, collection: c, filters: filters}
	d.clients = append(d.clients, w)
	d.resume(w, request.Options{AllowWatchBookmarks: true, SendInitialEvents: ptr.To(true)})
	return w
}

func (d *dark) resume(w *watcher, o request.Options) {
	ctx, cancel := context.WithCancel(d.t.Context())
	w.cancel, w.done = cancel, make(chan struct{})
	go func() {
		defer close(w.done)
		w.err = w.collection.Watch(ctx, w, o, w.filters)
	}()
}

// leave and back: a client that is away, and comes back from its last version.
func (d *dark) leave(w *watcher) {
	w.cancel()
	<-w.done
}

func (d *dark) back(w *watcher) {
	d.resume(w, request.Options{AllowWatchBookmarks: true, ResourceVersion: strconv.FormatUint(w.version, 10)})
}

func (d *dark) close() {
	for _, w := range d.clients {
		d.leave(w)
	}
	d.world.stop()
}

// events returns what a client has got, a line each.
func (d *dark) events(w *watcher) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, _ := w.collection.current()
	decoder := wire.NewWatchDecoder(&w.out, m.Encoding, 1<<20)
	var out strings.Builder
	for {
		e, err := decoder.Next()
		if err != nil {
			break
		}
		w.version, _ = strconv.ParseUint(e.ResourceVersion, 10, 64)
		fmt.Fprintf(&out, "%s: %s", w.name, strings.ToUpper(fmt.Sprint(e.Type)))
		if e.Type != wire.Bookmark {
			fmt.Fprintf(&out, " %s", describe(d.t, w.collection.Resource.Resource, e.Raw))
		}
		fmt.Fprintf(&out, " @%s\n", e.ResourceVersion)
	}
	w.out.Reset()
	return out.String()
}

func describe(t testing.TB, resource string, item []byte) string {
	t.Helper()
	if resource == "pods" {
		var p corev1.Pod
		if err := p.Unmarshal(item); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s %s", p.Name, p.Status.PodIP, readiness(p.Status.Conditions[0].Status == corev1.ConditionTrue))
	}
	var s discoveryv1.EndpointSlice
	if err := json.Unmarshal(item, &s); err != nil {
		t.Fatal(err)
	}
	out := s.Name
	for _, e := range s.Endpoints {
		out += fmt.Sprintf(" %s %s", strings.Join(e.Addresses, ","), readiness(ptr.Deref(e.Conditions.Ready, true)))
	}
	return out
}

func readiness(ready bool) string {
	if ready {
		return "ready"
	}
	return "unready"
}

// step does something and tells what clients saw of it.
func (d *dark) step(what string, do func(), want string) {
	d.t.Helper()
	do()
	rest()
	var got strings.Builder
	for _, w := range d.clients {
		got.WriteString(d.events(w))
	}
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "")
	if diff := cmp.Diff(want, got.String()); diff != "" {
		d.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// TestServicesFollowTheirPods: what clients see of pods and slices, from an
// offline reboot to the heal.
func TestServicesFollowTheirPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer d.close()
		var proxy *watcher
		d.step("they come", func() { d.watch("kubelet", d.pods); proxy = d.watch("proxy", d.slices) }, `
			kubelet: ADDED web-a 10.0.0.1 ready @10
			kubelet: ADDED web-b 10.0.0.2 ready @10
			kubelet: BOOKMARK @10
			proxy: ADDED else 10.9.0.1 ready @10
			proxy: ADDED web 10.0.0.1 ready 10.0.0.2 ready @10
			proxy: BOOKMARK @10
			`)
		d.step("web-a has another address", func() { d.write("web-a", "10.0.0.9", true) }, `
			kubelet: MODIFIED web-a 10.0.0.9 ready @10
			kubelet: BOOKMARK @10
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 ready @10
			proxy: BOOKMARK @10
			`)
		d.step("web-b crashes while kube-proxy is away", func() { d.leave(proxy); d.write("web-b", "10.0.0.2", false) }, `
			kubelet: MODIFIED web-b 10.0.0.2 unready @10
			kubelet: BOOKMARK @10
			`)
		d.step("kube-proxy is back", func() { d.back(proxy) }, `
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @10
			proxy: BOOKMARK @10
			`)
		if diff := cmp.Diff("else 10.9.0.1 ready\nweb 10.0.0.9 ready 10.0.0.2 unready\n", d.listed(d.slices)); diff != "" {
			t.Errorf("slices (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff("web-a 10.0.0.9 ready\nweb-b 10.0.0.2 unready\n", d.listed(d.pods)); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		d.step("the heal: pods are the cloud's at once, slices are not", d.overlay.Heal, `
			kubelet: MODIFIED web-a 10.0.0.1 ready @10
			kubelet: MODIFIED web-b 10.0.0.2 ready @10
			kubelet: BOOKMARK @10
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @10
			proxy: BOOKMARK @10
			`)
		d.step("the cloud has given up on the node", func() { d.feedPod("web-a", "10.0.0.1", false); d.feedSlice("-10.0.0.1", "10.0.0.2") }, `
			kubelet: MODIFIED web-a 10.0.0.1 unready @11
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @12
			`)
		d.step("the kubelet reports", func() {
			d.revision++
			d.must(d.overlay.Report(t.Context(), wire.Protobuf, encoded(t, wire.Protobuf, d.pod("web-a", "10.0.0.9", true))))
		}, `
			kubelet: MODIFIED web-a 10.0.0.1 unready @11
			kubelet: BOOKMARK @11
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @12
			proxy: BOOKMARK @12
			`)
		d.step("the slice has caught up with web-a", func() { d.feedSlice("10.0.0.9", "10.0.0.2") }, `
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @14
			`)
		d.step("what it says of web-a from now on is the cloud's word", func() { d.feedSlice("-10.0.0.9", "10.0.0.2") }, `
			proxy: MODIFIED web 10.0.0.9 unready 10.0.0.2 unready @15
			`)
		d.step("the cloud has deleted web-b", func() { d.deletePod("web-b") }, `
			kubelet: DELETED web-b 10.0.0.2 ready @16
			proxy: MODIFIED web 10.0.0.9 unready 10.0.0.2 ready @15
			proxy: BOOKMARK @15
			`)
	})
}

// TestAWatchIsNotLedPastEvents: what shows again carries an old version, and what
// the client has yet to get of an object does not come before its turn.
func TestAWatchIsNotLedPastEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer d.close()
		proxy := d.watch("proxy", d.slices)
		rest()
		d.events(proxy)
		d.leave(proxy)
		d.feed(d.slices, wire.JSON, func() apiObject { return d.elsewhere() })
		d.feedSlice("10.0.0.1", "10.0.0.2")
		d.write("web-a", "10.0.0.9", true)
		d.step("all that came, in its order, and what shows differently", func() { d.back(proxy) }, `
			proxy: MODIFIED else 10.9.0.1 ready @11
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 ready @12
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 ready @12
			proxy: BOOKMARK @12
			`)
	})
}

// TestOverlaySurvivesARestart: a hub that starts again in the dark shows what the
// kubelet wrote before, and a pod that has gone from the cloud meanwhile is not
// laid over its successor.
func TestOverlaySurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		d.write("web-a", "10.0.0.9", true)
		d.write("web-b", "10.0.0.8", true)
		d.world.stop()
		d.start()
		defer d.close()
		if diff := cmp.Diff("else 10.9.0.1 ready\nweb 10.0.0.9 ready 10.0.0.8 ready\n", d.listed(d.slices)); diff != "" {
			t.Errorf("slices (-want +got):\n%s", diff)
		}
		d.overlay.Heal()
		d.uids++ // web-a was made anew, web-b is gone
		d.feedPod("web-a", "10.0.0.7", true)
		d.deletePod("web-b")
		if diff := cmp.Diff("web-a 10.0.0.7 ready\n", d.listed(d.pods)); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		for _, pod := range []string{"web-a", "web-b"} {
			if state, _ := d.overlay.State(overlay.Key{Namespace: "shop", Name: pod}); state != overlay.Lifted {
				t.Errorf("the entry of %s is %v", pod, state)
			}
		}
	})
}

// TestAHealTakesNobodyOut: the cloud holds the pods of a node that was away for
// long for not ready. On the node they stay in their Services until the kubelet
// has said what is right.
func TestAHealTakesNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer d.close()
		d.set.Assume()
		proxy := d.watch("proxy", d.slices)
		rest()
		d.events(proxy)
		d.step("the heal", d.overlay.Heal, "")
		d.step("the cloud has given up on the node", func() { d.feedSlice("-10.0.0.1", "-10.0.0.2") }, `
			proxy: MODIFIED web 10.0.0.1 ready 10.0.0.2 ready @11
			`)
		d.step("the kubelet says nothing", func() {
			time.Sleep(time.Minute)
			_, err := d.overlay.Lift(t.Context())
			d.must(err)
		}, `
			proxy: MODIFIED web 10.0.0.1 unready 10.0.0.2 unready @11
			proxy: BOOKMARK @11
			`)
	})
}

// TestAheadOfTheReplicaNothingGoesBack: a client that has listed elsewhere knows
// more than the replica has. It is not sent the past because that shows
// differently, but is told when the replica has come as far.
func TestAheadOfTheReplicaNothingGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer d.close()
		proxy := &watcher{client: &client{header: http.Header{}}, name: "proxy", collection: d.slices, version: 12}
		d.clients = append(d.clients, proxy)
		d.step("it comes", func() { d.back(proxy) }, "")
		d.step("web-a has another address", func() { d.write("web-a", "10.0.0.9", true) }, "")
		d.step("what it knows comes", func() { d.feedSlice("10.0.0.1", "-10.0.0.2") }, "")
		d.step("and all of it", func() { d.feed(d.slices, wire.JSON, func() apiObject { return d.elsewhere() }) }, `
			proxy: MODIFIED web 10.0.0.9 ready 10.0.0.2 unready @11
			proxy: BOOKMARK @12
			`)
	})
}

// TestTheNewestServiceTells: a Service may be in collections of several clients,
// of which some have not been followed for long.
func TestTheNewestServiceTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer d.close()
		if _, known := d.set.PublishesNotReady("shop", "web"); known {
			t.Error("nobody knows the Service, and yet it is known")
		}
		for i, publishes := range []bool{false, true, false} {
			key := Key{Resource: request.Resource{Version: "v1", Resource: "services"}, Representation: wire.Representation{Preference: wire.ProtobufOrJSON}}
			key.Identity.Name = fmt.Sprint("client-", i)
			service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", ResourceVersion: strconv.Itoa([]int{4, 8, 6}[i])}}
			service.Spec.PublishNotReadyAddresses = publishes
			c, err := d.set.open(key)
			d.must(err)
			d.must(arrive(t.Context(), c, wire.Protobuf, listOf(t, wire.Protobuf, "v1", "Service", service)))
		}
		if publishes, known := d.set.PublishesNotReady("shop", "web"); !publishes || !known {
			t.Errorf("publishes %t, known %t", publishes, known)
		}
	})
}

// TestAStaleCollectionProvesNothing: another client of the node's pods has not
// asked for long, so that its collection lacks one and has another's
// predecessor. That it is read in the dark says nothing of the pods.
func TestAStaleCollectionProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDark(t)
		defer func() { d.close() }()
		key := podKey
		key.Identity = credential.Identity{Name: "system:serviceaccount:kube-system:agent"}
		agent, err := d.set.open(key)
		d.must(err)
		d.must(arrive(t.Context(), agent, wire.Protobuf, listOf(t, wire.Protobuf, "v1", "Pod", d.pod("web-a", "10.0.0.1", true))))
		d.uids++
		d.feedPod("web-a", "10.0.0.3", true)
		d.feedPod("web-b", "10.0.0.4", true)
		d.write("web-a", "10.0.0.9", true)
		d.write("web-b", "10.0.0.8", true)
		d.listed(agent)
		if diff := cmp.Diff("web-a 10.0.0.9 ready\nweb-b 10.0.0.8 ready\n", d.listed(d.pods)); diff != "" {
			t.Errorf("pods (-want +got):\n%s", diff)
		}
		d.world.stop()
		d.start()
		agent, err = d.set.open(key)
		d.must(err)
		d.listed(agent)
		if diff := cmp.Diff("web-a 10.0.0.9 ready\nweb-b 10.0.0.8 ready\n", d.listed(d.pods)); diff != "" {
			t.Errorf("pods after a restart (-want +got):\n%s", diff)
		}
	})
}

func (d *dark) listed(c *Collection) string {
	d.t.Helper()
	m, _ := c.current()
	client := &client{header: http.Header{}}
	d.must(c.List(client, nil))
	if n := client.header.Get("Content-Length"); n != "" && n != strconv.Itoa(client.out.Len()) {
		d.t.Errorf("Content-Length is %s, the list has %d bytes", n, client.out.Len())
	}
	var out strings.Builder
	_, err := wire.ReadList(&client.out, m.Encoding, 1<<20, func(item wire.Item) error {
		out.WriteString(describe(d.t, c.Resource.Resource, item.Raw) + "\n")
		return nil
	})
	d.must(err)
	return out.String()
}
