package endpointretention

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// cloud is an API server as far as the keeper sees it.
type cloud struct {
	supports atomic.Bool
	keeps    int   // dry runs from which on the policy works; 0: it never does
	fails    error // of every dry run
	dryRuns  int
}

func (c *cloud) client(objects ...client.Object) client.Client {
	return fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Get: func(ctx context.Context, below client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if _, is := o.(*admissionv1.MutatingAdmissionPolicy); is && !c.supports.Load() {
				return &meta.NoKindMatchError{}
			}
			return below.Get(ctx, key, o, options...)
		},
		Create: func(ctx context.Context, below client.WithWatch, o client.Object, options ...client.CreateOption) error {
			if review, is := o.(*authenticationv1.SelfSubjectReview); is {
				review.Status.UserInfo.Username = "me"
				return nil
			}
			return below.Create(ctx, o, options...)
		},
		SubResourcePatch: func(ctx context.Context, below client.Client, _ string, o client.Object, _ client.Patch, options ...client.SubResourcePatchOption) error {
			var applied client.SubResourcePatchOptions
			applied.ApplyOptions(options)
			if diff := cmp.Diff([]string{metav1.DryRunAll}, applied.DryRun); diff != "" {
				return errors.New("this is no dry run")
			}
			c.dryRuns++
			if c.fails != nil {
				return c.fails
			}
			if err := below.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
				return err
			}
			setReady(o.(*corev1.Pod), c.keeps > 0 && c.dryRuns >= c.keeps)
			return nil
		},
	}).Build()
}

func newKeeper(c client.Client) *keeper {
	return &keeper{
		reader: c, client: c, log: slog.New(slog.DiscardHandler), metrics: newMetrics(prometheus.NewPedanticRegistry()),
		users: NodeControllers(), supported: make(chan event.GenericEvent),
	}
}

func TestLook(t *testing.T) {
	marked := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "web", UID: "uid", Annotations: map[string]string{RetainKey: Keep},
	}}
	setReady(marked, true)
	unready := marked.DeepCopy()
	setReady(unready, false)
	for _, test := range []struct {
		name      string
		supports  bool
		keeps     int
		fails     error
		pod       *corev1.Pod
		want      state
		wantTries int
		wantErr   bool
	}{
		{name: "before Kubernetes 1.36", pod: marked, want: unsupported},
		{name: "no marked pod", supports: true, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, want: unproven},
		{name: "no ready pod", supports: true, pod: unready, want: unproven},
		{name: "works", supports: true, keeps: 1, pod: marked, want: effective, wantTries: 1},
		{name: "works after a while", supports: true, keeps: 3, pod: marked, want: effective, wantTries: 3},
		{name: "does not work", supports: true, pod: marked, want: ineffective, wantTries: tries},
		{name: "can't be tried", supports: true, fails: errors.New("away"), pod: marked, wantErr: true, wantTries: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &cloud{keeps: test.keeps, fails: test.fails}
				c.supports.Store(test.supports)
				k := newKeeper(c.client(test.pod))
				got, err := k.look(t.Context())
				if got != test.want || (err != nil) != test.wantErr || c.dryRuns != test.wantTries {
					t.Errorf("look: %v, %v after %d dry runs; want %v, an error: %t, after %d", got, err, c.dryRuns, test.want, test.wantErr, test.wantTries)
				}
			})
		})
	}
}

// TestSupportComes upgrades the API server under a keeper: every node is looked at again, once.
func TestSupportComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{}
		k := newKeeper(c.client(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- k.Run(ctx) }()
		synctest.Wait()
		if is := k.now(); is != unsupported || is.honours() {
			t.Errorf("state %v, honours marks: %t; want unsupported", is, is.honours())
		}
		c.supports.Store(true)
		names := []string{(<-k.supported).Object.GetName(), (<-k.supported).Object.GetName()}
		if diff := cmp.Diff([]string{"a", "b"}, names); diff != "" {
			t.Errorf("nodes (-want +got):\n%s", diff)
		}
		if is := k.now(); is != unproven || !is.honours() {
			t.Errorf("state %v, honours marks: %t; want unproven", is, is.honours())
		}
		synctest.Wait()
		select {
		case e := <-k.supported:
			t.Errorf("node %s is looked at again", e.Object.GetName())
		default:
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
