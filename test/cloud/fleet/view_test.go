package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// view is what the cloud knows of a fleet. It watches, for lists of such a size would take more than all that is measured.
type view struct {
	fleet       *fleet
	close       func() // after ctx has ended
	podLister   corelisters.PodLister
	nodeLister  corelisters.NodeLister
	sliceLister discoverylisters.EndpointSliceLister

	mu   sync.Mutex
	late map[string]time.Time // late pods, and when each was seen first; zero: it is protected
	took []time.Duration      // until late pods were protected
}

// watch returns the view of a fleet, which lasts until ctx ends.
func watch(ctx context.Context, f *fleet) (*view, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(f.client, 0, informers.WithTransform(withoutManagers))
	v := &view{
		fleet: f, close: factory.Shutdown, late: map[string]time.Time{},
		podLister:   factory.Core().V1().Pods().Lister(),
		nodeLister:  factory.Core().V1().Nodes().Lister(),
		sliceLister: factory.Discovery().V1().EndpointSlices().Lister(),
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { v.see(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { v.see(o.(*corev1.Pod)) },
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return nil, fmt.Errorf("watch %v: %w", kind, ctx.Err())
		}
	}
	return v, nil
}

func withoutManagers(object any) (any, error) {
	if o, err := meta.Accessor(object); err == nil {
		o.SetManagedFields(nil)
	}
	return object, nil
}

// see takes the time of late pods.
func (v *view) see(pod *corev1.Pod) {
	var node, number int
	if _, err := fmt.Sscanf(pod.Name, "pod-%d-%d", &node, &number); err != nil || number < firstLate {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	since, known := v.late[pod.Name]
	switch {
	case !known:
		v.late[pod.Name] = time.Now()
	case !since.IsZero() && protected(pod):
		v.took = append(v.took, time.Since(since))
		v.late[pod.Name] = time.Time{}
	}
}

// delays returns for how long late pods were unprotected, in order; an error until that is known of so many.
func (v *view) delays(count int) ([]time.Duration, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.took) < count {
		return nil, fmt.Errorf("%d of %d are", len(v.took), count)
	}
	return slices.Sorted(slices.Values(v.took)), nil
}

// unready returns the nodes that the cloud has given up.
func (v *view) unready() (map[string]bool, error) {
	list, err := v.nodeLister.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, node := range list {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				names[node.Name] = true
			}
		}
	}
	return names, nil
}

// half is what has happened to one half of the fleet, in pods.
type half struct{ pods, evicted, unready, unserved, unprotected, evictable int }

// losses is what has happened to the pods of nodes that are dark, or will be.
type losses struct{ autonomous, ordinary half }

func (l losses) String() string {
	line := func(name string, h half) string {
		return fmt.Sprintf("%-12s%8d%10d%18d%16d\n", name, h.pods, h.evicted, h.unready, h.unserved)
	}
	return fmt.Sprintf("%-12s%8s%10s%18s%16s\n", "", "pods", "evicted", "marked NotReady", "endpoints lost") +
		line("autonomous", l.autonomous) + line("ordinary", l.ordinary)
}

func (v *view) losses() (losses, error) {
	var l losses
	served, err := v.served()
	if err != nil {
		return l, err
	}
	for i := range v.fleet.nodes {
		if spared(i) {
			continue
		}
		h := &l.ordinary
		if autonomous(i) {
			h = &l.autonomous
		}
		for n := range v.fleet.pods {
			name := podName(i, n)
			pod, err := v.podLister.Pods(namespace).Get(name)
			there := err == nil
			count := func(into *int, is bool) {
				if is {
					*into++
				}
			}
			count(&h.pods, true)
			count(&h.evicted, !there || pod.DeletionTimestamp != nil)
			count(&h.unready, !there || !ready(pod))
			count(&h.unserved, !served[name])
			count(&h.unprotected, !there || !protected(pod))
			count(&h.evictable, !there || !tolerant(pod))
		}
	}
	return l, nil
}

// served returns the pods that Services lead to.
func (v *view) served() (map[string]bool, error) {
	all, err := v.sliceLister.EndpointSlices(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, slice := range all {
		for _, endpoint := range slice.Endpoints {
			if endpoint.TargetRef != nil && ptr.Deref(endpoint.Conditions.Ready, true) {
				names[endpoint.TargetRef.Name] = true
			}
		}
	}
	return names, nil
}

// complete tells what is missing until the fleet is as it should be; protected, if somebody is there who protects.
func (v *view) complete(protected bool) error {
	l, err := v.losses()
	if err != nil {
		return err
	}
	for _, h := range []half{l.autonomous, l.ordinary} {
		if h.evicted+h.unready+h.unserved > 0 {
			return fmt.Errorf("it is not: %+v", l)
		}
	}
	if l.autonomous.unprotected > 0 && protected {
		return fmt.Errorf("%d pods are not protected", l.autonomous.unprotected)
	}
	return nil
}

// lost tells what is missing until the ordinary half has lost everything.
func (v *view) lost() error {
	l, err := v.losses()
	if h := l.ordinary; err == nil && (h.evicted < h.pods || h.unserved < h.pods) {
		err = fmt.Errorf("it has not: %+v", l)
	}
	return err
}

// losing tells what is missing until both halves are out of their Services and on their way to be evicted.
func (v *view) losing() error {
	l, err := v.losses()
	for _, h := range []half{l.ordinary, l.autonomous} {
		if err == nil && (h.unready < h.pods || h.unserved < h.pods || h.evicted < h.pods/10) {
			err = fmt.Errorf("they are not: %+v", l)
		}
	}
	return err
}

// whole tells what is missing until all nodes are ready.
func (v *view) whole(ctx context.Context) error {
	unready, err := v.unready()
	return errors.Join(err, v.fleet.comeBack(ctx, unready))
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// protected tells whether a pod stays, and stays in its Services.
func protected(pod *corev1.Pod) bool {
	return tolerant(pod) && pod.Annotations["node.openyurt.io/retain-ready"] == "true"
}

// tolerant tells whether a pod is not evicted from a dark node.
func tolerant(pod *corev1.Pod) bool {
	endless := 0
	for _, t := range pod.Spec.Tolerations {
		if t.TolerationSeconds == nil && (t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable) {
			endless++
		}
	}
	return endless == 2
}
