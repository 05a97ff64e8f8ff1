package comeback

import (
	"context"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// reflectors are those of all components of many nodes, without a hub.
type reflectors struct {
	seen  *tally
	count int

	mu      sync.Mutex
	up      bool
	lost    bool // what is watched from before the cut is answered 410
	watches map[*standing]struct{}
}

func newReflectors(n int, seen *tally) *reflectors {
	return &reflectors{seen: seen, count: n * len(collections()), up: true, watches: map[*standing]struct{}{}}
}

func (r *reflectors) begin(ctx context.Context, running *sync.WaitGroup) {
	for range r.count {
		reflector := cache.NewReflectorWithOptions(&cache.ListWatch{
			ListWithContextFunc:  r.list,
			WatchFuncWithContext: r.watch,
		}, &corev1.Pod{}, cache.NewStore(cache.MetaNamespaceKeyFunc), cache.ReflectorOptions{Name: "pods"})
		running.Go(func() { reflector.RunWithContext(logr.NewContext(ctx, logr.Discard())) }) // what fails is not news
	}
}

func (r *reflectors) cut(historyLost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up, r.lost = false, historyLost
	for w := range r.watches {
		close(w.events)
	}
	clear(r.watches)
}

func (r *reflectors) heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up = true
}

// arrive is a request on its way.
func (r *reflectors) arrive(whole bool) error {
	r.mu.Lock()
	up := r.up
	r.mu.Unlock()
	if !up {
		return &net.OpError{Op: "dial", Net: "tcp", Err: syscall.EHOSTUNREACH}
	}
	r.seen.note(whole)
	time.Sleep(answering)
	return nil
}

// version is what the API server is at.
func (r *reflectors) version() string {
	if r.lost {
		return "200"
	}
	return "100"
}

func (r *reflectors) list(context.Context, metav1.ListOptions) (runtime.Object, error) {
	if err := r.arrive(true); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: r.version()}}, nil
}

func (r *reflectors) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	initial := o.SendInitialEvents != nil && *o.SendInitialEvents
	if err := r.arrive(initial); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost && !initial && o.ResourceVersion == "100" {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired}}
	}
	w := &standing{all: r, events: make(chan watch.Event, 1)}
	if initial {
		w.events <- watch.Event{Type: watch.Bookmark, Object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: r.version(), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
		}}}
	}
	r.watches[w] = struct{}{}
	return w, nil
}

// standing is a watch.
type standing struct {
	all    *reflectors
	events chan watch.Event
}

func (w *standing) ResultChan() <-chan watch.Event { return w.events }

func (w *standing) Stop() {
	w.all.mu.Lock()
	defer w.all.mu.Unlock()
	if _, ok := w.all.watches[w]; ok {
		delete(w.all.watches, w)
		close(w.events)
	}
}
