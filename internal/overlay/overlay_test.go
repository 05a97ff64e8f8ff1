package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"yurt/internal/failpoint"
	"yurt/internal/store"
	"yurt/internal/wire"
)

// cloudPod is a pod as the cloud has it at version 5.
func cloudPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name + "-1"), ResourceVersion: "5"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1", PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}}},
	}
}

func patchTo(ip string) []byte {
	return fmt.Appendf(nil, `{"status":{"podIP":%q,"podIPs":[{"$patch":"replace"},{"ip":%[1]q}]}}`, ip)
}

// modelEntry is what an entry should be: the plainest possible telling of lift.go.
type modelEntry struct {
	ip       string
	reported bool
	alive    bool
	silent   time.Duration // since the heal, without a report
}

// TestModel does random things to some pods, and compares after each what clients see with what the model says.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t)
	defer func() { w.close() }()
	names, model, dark := []string{"a", "b", "c"}, map[string]*modelEntry{}, true
	for _, name := range names {
		model[name] = &modelEntry{}
	}
	slice := sliceOf(0)
	for _, name := range names {
		one := sliceOf(1).Endpoints[0]
		one.TargetRef.Name, one.TargetRef.UID = name, types.UID(name+"-1")
		slice.Endpoints = append(slice.Endpoints, one)
	}
	for i := range 400 {
		name := names[rnd.IntN(len(names))]
		e, ip := model[name], fmt.Sprintf("10.0.%d.%d", i/200+1, i%200)
		switch op := rnd.IntN(12); op {
		case 0, 1, 2, 3:
			if _, err := w.overlay.Patch(t.Context(), wire.Protobuf, encode(t, wire.Protobuf, cloudPod(name)), patchTo(ip)); err != nil {
				t.Fatal(err)
			}
			*e = modelEntry{ip: ip, alive: true}
		case 4, 5:
			p := cloudPod(name)
			p.ResourceVersion, p.Status.PodIP, p.Status.PodIPs = "6", ip, []corev1.PodIP{{IP: ip}}
			if err := w.overlay.Report(t.Context(), wire.JSON, encode(t, wire.JSON, p)); err != nil {
				t.Fatal(err)
			}
			if e.alive {
				*e = modelEntry{ip: ip, alive: true, reported: true}
			}
		case 6:
			w.overlay.Cut()
			dark = true
		case 7:
			w.overlay.Heal()
			for _, e := range model {
				if dark {
					e.silent = 0
				}
			}
			dark = false
		case 8:
			w.overlay.Gone(Key{"shop", name}, 6)
			e.alive = false
		case 9, 10:
			w.age(settle)
			for _, e := range model {
				if !dark && !e.reported {
					e.silent += settle
				}
				e.alive = e.alive && (dark || !e.reported && e.silent < speak)
			}
		case 11:
			w.age(0) // what has ended is written down
			w.stop()
			w.open()
			dark = true
		}
		compare(t, w, slice, names, model, dark)
	}
}

// age lets time pass.
func (w *world) age(d time.Duration) {
	w.overlay.change(func(t *transition) {
		for _, e := range t.entries {
			e.since = e.since.Add(-d)
		}
	})
	if _, err := w.overlay.Lift(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func compare(t *testing.T, w *world, slice marshaler, names []string, model map[string]*modelEntry, dark bool) {
	t.Helper()
	for _, enc := range encodings() {
		shows, _, err := w.overlay.Apply(EndpointSlices, enc, Key{"shop", "web-x"}, encode(t, enc, slice))
		if err != nil {
			t.Fatal(err)
		}
		c := codecOf(enc)
		for i, raw := range c.Many(shows, sliceEndpoints) {
			want := "10.0.0.1"
			if e := model[names[i]]; e.alive {
				want = e.ip
			}
			if got := c.endpoint(raw).addresses; len(got) != 1 || got[0] != want {
				t.Fatalf("endpoint of %s has %v, not %s", names[i], got, want)
			}
		}
		for _, name := range names {
			want := "10.0.0.1"
			if e := model[name]; e.alive && dark {
				want = e.ip
			}
			item, _, err := w.overlay.Apply(Pods, enc, Key{"shop", name}, encode(t, enc, cloudPod(name)))
			if err != nil {
				t.Fatal(err)
			}
			if status, err := decodeStatus(enc, item); err != nil || status.PodIP != want {
				t.Fatalf("pod %s has %q (%v), not %s", name, status.PodIP, err, want)
			}
		}
	}
}

// TestConcurrent does everything at once; the race detector looks on. What a watcher is told last is how it is.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	var all sync.WaitGroup
	pod := func(i int) *corev1.Pod { return cloudPod(fmt.Sprintf("pod-%d", i)) }
	work := func(f func(i int) error) {
		all.Go(func() {
			for i := range 60 {
				if err := f(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for n := range 3 {
		work(func(i int) error {
			_, err := w.overlay.Patch(t.Context(), wire.Protobuf, encode(t, wire.Protobuf, pod(n)), patchTo(fmt.Sprintf("10.1.0.%d", i)))
			return err
		})
		work(func(i int) error {
			p := pod(n)
			if err := w.overlay.See(wire.JSON, Key{"shop", p.Name}, encode(t, wire.JSON, p)); err != nil {
				return err
			}
			p.ResourceVersion = "6"
			return w.overlay.Report(t.Context(), wire.JSON, encode(t, wire.JSON, p))
		})
	}
	index := w.indexes[EndpointSlices][wire.Protobuf]
	slice := encode(t, wire.Protobuf, sliceOf(10))
	work(func(int) error { return index.Put(Key{"shop", "web-x"}, slice) })
	work(func(i int) error {
		if i%2 == 0 {
			w.overlay.Cut()
		} else {
			w.overlay.Heal()
		}
		_, err := w.overlay.Lift(t.Context())
		return err
	})
	stop, stopped := make(chan struct{}), make(chan struct{})
	var seen uint64
	go func() {
		defer close(stopped)
		for {
			changed := w.overlay.Changed()
			_, seen = w.overlay.Since(seen)
			select {
			case <-changed:
			case <-stop:
				_, seen = w.overlay.Since(seen)
				return
			}
		}
	}()
	all.Wait()
	close(stop)
	<-stopped
	if now := w.overlay.state.Load().seq; seen != now {
		t.Errorf("the watcher is at change %d of %d", seen, now)
	}
	if pods := w.overlay.Pods(); len(pods) != 3 {
		t.Errorf("entries of %v", pods)
	}
}

// TestDiskFull: the Services of a dark node do not wait for room on its disk.
func TestDiskFull(t *testing.T) {
	w := newWorld(t)
	defer func() { w.close() }()
	var logged bytes.Buffer
	w.overlay.logger = slog.New(slog.NewTextHandler(&logged, nil))
	pod := encode(t, wire.Protobuf, cloudPod("a"))
	free := failpoint.EnableFunc(failpoint.StoreBeforeWrite, func() error { return syscall.ENOSPC })
	if _, err := w.overlay.Patch(t.Context(), wire.Protobuf, pod, patchTo("10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	if _, changed, err := w.overlay.Apply(Pods, wire.Protobuf, Key{"shop", "a"}, pod); !changed || err != nil {
		t.Errorf("applied %t, %v", changed, err)
	}
	if !strings.Contains(logged.String(), "in memory only") {
		t.Errorf("nobody is told: %s", logged.String())
	}
	next, err := w.overlay.Lift(t.Context())
	if !errors.Is(err, syscall.ENOSPC) || time.Until(next) > retry {
		t.Errorf("lift: %v, again %v", err, next)
	}
	free()
	if _, err := w.overlay.Lift(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.open()
	if state, ok := w.overlay.State(Key{"shop", "a"}); !ok || state != Dark {
		t.Errorf("after a restart: %v, %t", state, ok)
	}
}

// TestGivenUp: a request that ended before its write was durable has no effect that clients see.
func TestGivenUp(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.overlay.Patch(ctx, wire.Protobuf, encode(t, wire.Protobuf, cloudPod("a")), patchTo("10.0.0.2"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("patch: %v", err)
	}
	w.close()
	_, err = w.overlay.Patch(t.Context(), wire.Protobuf, encode(t, wire.Protobuf, cloudPod("a")), patchTo("10.0.0.2"))
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("patch after the end: %v", err)
	}
	if pods := w.overlay.Pods(); len(pods) != 0 {
		t.Errorf("entries of %v", pods)
	}
}

// TestDamagedEntry: one entry that can't be read costs that entry alone.
func TestDamagedEntry(t *testing.T) {
	w := newWorld(t)
	defer func() { w.close() }()
	if _, err := w.overlay.Patch(t.Context(), wire.Protobuf, encode(t, wire.Protobuf, cloudPod("a")), patchTo("10.0.0.2")); err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	b.Put(w.overlay.table, store.Record{Key: "shop/b", Value: []byte{0xff}})
	b.Put(w.overlay.table, store.Record{Key: "nonsense", Value: nil})
	if err := w.store.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.open()
	if pods := w.overlay.Pods(); len(pods) != 1 || pods[0].Name != "a" {
		t.Errorf("entries of %v", pods)
	}
}

// TestKindOf: what shows nothing is recognized by its resource.
func TestKindOf(t *testing.T) {
	for _, tc := range []struct {
		group, version, resource string
		want                     Kind
	}{
		{"", "v1", "pods", Pods},
		{"", "v1", "endpoints", Endpoints},
		{"", "v1", "services", None},
		{"discovery.k8s.io", "v1", "endpointslices", EndpointSlices},
		{"discovery.k8s.io", "v1beta1", "endpointslices", None},
		{"metrics.k8s.io", "v1", "pods", None},
	} {
		if got := KindOf(tc.group, tc.version, tc.resource); got != tc.want {
			t.Errorf("%v: %d", tc, got)
		}
	}
}

// TestPublishesNotReady reads the setting of a Service.
func TestPublishesNotReady(t *testing.T) {
	for _, want := range []bool{false, true} {
		s := &corev1.Service{Spec: corev1.ServiceSpec{PublishNotReadyAddresses: want, ClusterIP: "None"}}
		for _, enc := range encodings() {
			if got, err := PublishesNotReady(enc, encode(t, enc, s)); got != want || err != nil {
				t.Errorf("%s: %t, %v", enc, got, err)
			}
		}
	}
	if _, err := PublishesNotReady(wire.JSON, []byte("{")); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("half a service: %v", err)
	}
}
