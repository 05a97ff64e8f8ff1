package semantics

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
)

// state is the objects of a namespace by name, with their versions.
type state struct{ configMaps, mice map[string]string }

// A flavor is a way in which clients of the field follow a collection.
type flavor struct {
	name      string
	watchList bool // the list comes as the watch's initial events
	mice      bool // it follows mice, not ConfigMaps
	lister    func(cfg *rest.Config, namespace string) (cache.ListerWatcher, any, error)
}

func flavors() []flavor {
	var all []flavor
	for _, watchList := range []bool{true, false} {
		mode := "list and watch"
		if watchList {
			mode = "WatchList"
		}
		all = append(all,
			flavor{"typed, protobuf, " + mode, watchList, false, typed("application/vnd.kubernetes.protobuf")},
			flavor{"typed, JSON, " + mode, watchList, false, typed("application/json")},
			flavor{"dynamic, " + mode, watchList, false, untyped},
			flavor{"metadata, " + mode, watchList, false, metadataOnly},
			flavor{"dynamic mice, " + mode, watchList, true, untypedMice},
		)
	}
	return all
}

// wants is what a follower of this flavor has in the end.
func (f flavor) wants(s state) map[string]string {
	if f.mice {
		return s.mice
	}
	return s.configMaps
}

func typed(contentType string) func(*rest.Config, string) (cache.ListerWatcher, any, error) {
	return func(cfg *rest.Config, namespace string) (cache.ListerWatcher, any, error) {
		cfg = rest.CopyConfig(cfg)
		cfg.ContentType, cfg.AcceptContentTypes = contentType, contentType
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return nil, nil, err
		}
		objects := client.CoreV1().ConfigMaps(namespace)
		return listerWatcher(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) }, objects.Watch), &corev1.ConfigMap{}, nil
	}
}

func untyped(cfg *rest.Config, namespace string) (cache.ListerWatcher, any, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	objects := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	return listerWatcher(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) }, objects.Watch), nil, nil
}

func untypedMice(cfg *rest.Config, namespace string) (cache.ListerWatcher, any, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	objects := client.Resource(mice).Namespace(namespace)
	return listerWatcher(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) }, objects.Watch), nil, nil
}

func metadataOnly(cfg *rest.Config, namespace string) (cache.ListerWatcher, any, error) {
	client, err := metadata.NewForConfig(cfg)
	if err != nil {
		return nil, nil, err
	}
	objects := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace(namespace)
	return listerWatcher(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) }, objects.Watch),
		&metav1.PartialObjectMetadata{}, nil
}

func listerWatcher(
	list func(context.Context, metav1.ListOptions) (runtime.Object, error), follow func(context.Context, metav1.ListOptions) (watch.Interface, error),
) cache.ListerWatcher {
	return &cache.ListWatch{ListWithContextFunc: list, WatchFuncWithContext: follow}
}

// classic is a source of which reflectors believe that it has no WatchList.
type classic struct{ cache.ListerWatcher }

func (classic) IsWatchListSemanticsUnSupported() bool { return true }

// follower is a running informer that keeps an eye on what it is told.
type follower struct {
	flavor
	informer cache.SharedIndexInformer
	stop     func()

	mu     sync.Mutex
	newest map[string]uint64 // by name: the version that it was told last
	wrong  []string
}

func (f flavor) start(cfg *rest.Config, namespace string) (*follower, error) {
	source, object, err := f.lister(cfg, namespace)
	if err != nil {
		return nil, err
	}
	if !f.watchList {
		source = classic{source}
	}
	var example runtime.Object
	if object != nil {
		example = object.(runtime.Object) //nolint:forcetypeassert // made above
	}
	w := &follower{flavor: f, informer: cache.NewSharedIndexInformer(source, example, 0, cache.Indexers{}), newest: map[string]uint64{}}
	if _, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { w.told(o) },
		UpdateFunc: func(_, o any) { w.told(o) },
	}); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.informer.RunWithContext(ctx) })
	w.stop = func() {
		cancel()
		running.Wait()
	}
	return w, nil
}

// told notes a version: no object may go back in time.
func (w *follower) told(object any) {
	m, err := meta.Accessor(object)
	if err != nil {
		return
	}
	version, err := strconv.ParseUint(m.GetResourceVersion(), 10, 64)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || version < w.newest[m.GetName()] {
		w.wrong = append(w.wrong, fmt.Sprintf("%s came at version %s after %d", m.GetName(), m.GetResourceVersion(), w.newest[m.GetName()]))
	}
	w.newest[m.GetName()] = version
}

// holds is the names that the informer has, with their versions.
func (w *follower) holds() map[string]string {
	return versions(w.informer.GetStore().List())
}

func versions(objects []any) map[string]string {
	all := map[string]string{}
	for _, object := range objects {
		if m, err := meta.Accessor(object); err == nil {
			all[m.GetName()] = m.GetResourceVersion()
		}
	}
	return all
}

const (
	anchors = 150 // objects that never change: who has synced has all of them
	unquiet = 20
)

func anchor(n int) string { return fmt.Sprintf("anchor-%03d", n) }

// makeAnchors makes a namespace with objects that stay as they are.
func (s *site) makeAnchors(t *testing.T, namespace string) {
	t.Helper()
	_, err := s.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	must(t, err)
	for n := range anchors {
		_, err := s.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: anchor(n)}}, metav1.CreateOptions{})
		must(t, err)
		must(t, s.makeMouse(t.Context(), namespace, anchor(n), ""))
	}
}

// churn changes ConfigMaps and mice until ctx ends.
func (s *site) churn(ctx context.Context, namespace string, random *rand.Rand) error {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("m%d", random.IntN(unquiet))
		err := s.churnOnce(ctx, namespace, name, n, random)
		var status interface{ Status() metav1.Status } // AlreadyExists and NotFound are part of it
		if err != nil && ctx.Err() == nil && !errors.As(err, &status) {
			return err
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
	}
	return nil
}

func (s *site) churnOnce(ctx context.Context, namespace, name string, n int, random *rand.Rand) error {
	configMaps, ofMice := s.client.CoreV1().ConfigMaps(namespace), s.dynamic.Resource(mice).Namespace(namespace)
	switch random.IntN(6) {
	case 0:
		return configMaps.Delete(ctx, name, metav1.DeleteOptions{})
	case 1:
		_, err := configMaps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	case 2, 3:
		_, err := configMaps.Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"n": strconv.Itoa(n)}}, metav1.UpdateOptions{})
		return err
	case 4:
		return ofMice.Delete(ctx, name, metav1.DeleteOptions{})
	}
	return s.makeMouse(ctx, namespace, name, "")
}

// TestClientsEndAsTheServerIs: while the link is cut, swallows everything
// and heals at random, and objects change, every client of the field follows a
// collection through the hub. None is told an old version after a new one; who
// comes meanwhile has everything when it says that it has synced; and when the
// link is back all have what the API server has.
func TestClientsEndAsTheServerIs(t *testing.T) {
	const namespace, lasts = "churn", 25 * time.Second
	s, n := shared, newNode(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s.makeAnchors(t, namespace)
	cfg := n.config(administrator)
	var followers []*follower
	for _, f := range flavors() {
		w, err := f.start(cfg, namespace)
		must(t, err)
		t.Cleanup(w.stop)
		followers = append(followers, w)
	}
	controllers := startControllerRuntime(t, cfg, namespace)
	person := s.kubectlWatch(t, n, namespace)
	// kubectl gives up where it can't begin; the others try again.
	await(t, "kubectl has listed", time.Minute, func(context.Context) error { return person.has(s.has(t, namespace).configMaps) })

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var working sync.WaitGroup
	working.Go(func() {
		if err := s.churn(ctx, namespace, rand.New(rand.NewPCG(seed, 1))); err != nil {
			t.Errorf("change objects: %v", err)
		}
	})
	working.Go(func() { n.flap(ctx, rand.New(rand.NewPCG(seed, 2))) })
	working.Go(func() { latecomers(ctx, t, cfg, namespace) })
	working.Wait()
	n.lighten()

	want := s.has(t, namespace)
	t.Logf("%d ConfigMaps and %d mice in the end", len(want.configMaps), len(want.mice))
	for _, w := range followers {
		await(t, w.name+" has what the API server has", time.Minute, func(context.Context) error { return same(w.wants(want), w.holds()) })
		w.mu.Lock()
		for _, wrong := range w.wrong {
			t.Errorf("%s: %s", w.name, wrong)
		}
		w.mu.Unlock()
	}
	await(t, "kubectl has printed what the API server has", time.Minute, func(context.Context) error { return person.has(want.configMaps) })
	await(t, "controller-runtime has what the API server has", time.Minute, func(ctx context.Context) error {
		var list corev1.ConfigMapList
		if err := controllers.List(ctx, &list); err != nil {
			return err
		}
		got := map[string]string{}
		for _, m := range list.Items {
			got[m.Name] = m.ResourceVersion
		}
		return same(want.configMaps, got)
	})
}

// startControllerRuntime runs the cache that controllers have.
func startControllerRuntime(t *testing.T, cfg *rest.Config, namespace string) ctrlcache.Cache {
	t.Helper()
	c, err := ctrlcache.New(cfg, ctrlcache.Options{Scheme: scheme.Scheme, DefaultNamespaces: map[string]ctrlcache.Config{namespace: {}}})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := c.Start(ctx); err != nil {
			t.Errorf("controller-runtime: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	_, err = c.GetInformer(t.Context(), &corev1.ConfigMap{}, ctrlcache.BlockUntilSynced(false))
	must(t, err)
	return c
}

// flap does to the link what weather does, until ctx ends.
func (n *node) flap(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		n.set([]linkState{whole, cut, whole, hole}[random.IntN(4)])
		length := 100*time.Millisecond + time.Duration(random.Float64()*random.Float64()*6*float64(time.Second))
		select {
		case <-ctx.Done():
		case <-time.After(length):
		}
	}
}

// latecomers start one after the other, whatever the link is doing then.
func latecomers(ctx context.Context, t *testing.T, cfg *rest.Config, namespace string) {
	all := flavors()
	count := 0
	for ; ctx.Err() == nil; count++ {
		w, err := all[count%len(all)].start(cfg, namespace)
		if err != nil {
			t.Errorf("start %s: %v", all[count%len(all)].name, err)
			return
		}
		within, cancel := context.WithTimeout(ctx, 10*time.Second)
		synced := cache.WaitForCacheSync(within.Done(), w.informer.HasSynced)
		if got := w.holds(); synced {
			for n := range anchors {
				if got[anchor(n)] == "" {
					t.Errorf("%s says that it has synced and lacks %s: it has %d objects", w.name, anchor(n), len(got))
					break
				}
			}
		}
		cancel()
		w.stop()
	}
	t.Logf("%d clients came meanwhile", count)
}

// has is what the API server has in the end.
func (s *site) has(t *testing.T, namespace string) state {
	t.Helper()
	list, err := s.client.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	has := state{map[string]string{}, map[string]string{}}
	for _, m := range list.Items {
		has.configMaps[m.Name] = m.ResourceVersion
	}
	unstructured, err := s.dynamic.Resource(mice).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
	must(t, err)
	for _, m := range unstructured.Items {
		has.mice[m.GetName()] = m.GetResourceVersion()
	}
	return has
}

func same(want, got map[string]string) error {
	if maps.Equal(want, got) {
		return nil
	}
	var differ []string
	for name, version := range want {
		if got[name] != version {
			differ = append(differ, fmt.Sprintf("%s is at %q, want %q", name, got[name], version))
		}
	}
	for name := range got {
		if want[name] == "" {
			differ = append(differ, name+" should have gone")
		}
	}
	slices.Sort(differ)
	return fmt.Errorf("%d objects differ: %s", len(differ), differ[:min(len(differ), 5)])
}

// TestInformersStartInTheDark: who starts, or starts again, while the cloud is
// away has synced within a second, with all that was there at the cut; after a
// restart of the hub, too.
func TestInformersStartInTheDark(t *testing.T) {
	const namespace, attempts = "started-in-the-dark", 3
	s, n := shared, newNode(t)
	s.makeAnchors(t, namespace)
	want := s.has(t, namespace)
	check := func(when string, within time.Duration) {
		t.Helper()
		for _, f := range flavors() {
			fastest := time.Hour // of some: the machine may be busy
			for attempt := 0; attempt < attempts && fastest > within; attempt++ {
				began := time.Now()
				w, err := f.start(n.config(administrator), namespace)
				must(t, err)
				await(t, f.name+" has synced, "+when, time.Minute, func(context.Context) error {
					if !w.informer.HasSynced() {
						return errors.New("it has not")
					}
					return nil
				})
				fastest = min(fastest, time.Since(began))
				if err := same(f.wants(want), w.holds()); err != nil {
					t.Errorf("%s, %s: %v", f.name, when, err)
				}
				w.stop()
			}
			if fastest > within {
				t.Errorf("%s, %s: synced after %s, want %s", f.name, when, fastest, within)
			}
		}
	}
	check("with the cloud there", time.Minute)
	n.darken()
	check("in the dark", time.Second)
	n.restart()
	n.awaitLink("down")
	check("after a restart in the dark", time.Second)
}
