package endpointretention

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

// state is what is known about the policy.
type state int32

const (
	unknown     state = iota // not asked yet
	unsupported              // the API server has no such policies: retention is off
	unproven                 // installed, but there is no pod to try it on
	effective                // a dry run has shown that it keeps readiness
	ineffective              // a dry run has shown that it does not
)

func (s state) String() string {
	return [...]string{"unknown", "unsupported", "unproven", "effective", "ineffective"}[s]
}

// honours tells whether marks may have an effect.
func (s state) honours() bool { return s >= unproven }

const (
	period       = time.Minute     // between two looks at a policy about which all is known
	soon         = 5 * time.Second // and otherwise
	tries        = 5               // dry runs, for an API server needs a moment to take a policy up
	betweenTries = time.Second
)

// keeper installs the policy, puts it back when it was changed, and tries whether it works.
type keeper struct {
	reader  client.Reader // the API server itself
	client  client.Client // reads pods and nodes from the cache
	log     *slog.Logger
	metrics *metrics
	users   []string

	me        string // as the API server knows this process; asked once
	state     atomic.Int32
	supported chan event.GenericEvent // each node, when marks begin to have an effect
}

func (k *keeper) now() state { return state(k.state.Load()) }

// Run keeps the policy until ctx ends. The policy outlives it.
func (k *keeper) Run(ctx context.Context) error {
	for {
		is, err := k.look(ctx)
		if err != nil && ctx.Err() == nil {
			k.log.ErrorContext(ctx, "readiness retention", "err", err)
		} else if err == nil {
			k.become(ctx, is)
		}
		delay := soon
		if err == nil && (is == effective || is == unsupported) {
			delay = period
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// become takes note of a state, and says so where it is new.
func (k *keeper) become(ctx context.Context, is state) {
	was := state(k.state.Swap(int32(is)))
	if was == is {
		return
	}
	k.metrics.show(is)
	switch is {
	case unsupported:
		k.log.WarnContext(ctx, "readiness retention is off: the API server has no MutatingAdmissionPolicies of v1, which came with Kubernetes 1.36; pods of dark nodes leave their Services")
	case ineffective:
		k.log.ErrorContext(ctx, "readiness retention is off: the policy has no effect; pods of dark nodes leave their Services", "policy", PolicyName)
	default:
		k.log.InfoContext(ctx, "readiness retention is on", "policy", PolicyName, "state", is.String())
	}
	if was.honours() || !is.honours() {
		return
	}
	var nodes corev1.NodeList
	if err := k.client.List(ctx, &nodes); err != nil {
		return // the cache fails only when everything ends
	}
	for i := range nodes.Items {
		select {
		case k.supported <- event.GenericEvent{Object: &nodes.Items[i]}:
		case <-ctx.Done():
			return
		}
	}
}

// look puts the policy in place and tries it.
func (k *keeper) look(ctx context.Context) (state, error) {
	if k.me == "" {
		review := &authenticationv1.SelfSubjectReview{}
		if err := k.client.Create(ctx, review); err != nil {
			return unknown, fmt.Errorf("ask who this is: %w", err)
		}
		k.me = review.Status.UserInfo.Username
	}
	err := k.install(ctx)
	if meta.IsNoMatchError(err) {
		return unsupported, nil
	}
	if err != nil {
		return unknown, err
	}
	pod, err := k.volunteer(ctx)
	if err != nil || pod == nil {
		return unproven, err
	}
	for try := 1; ; try++ {
		kept, err := k.try(ctx, pod)
		switch {
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
			return unproven, nil // gone meanwhile
		case err != nil:
			return unknown, err
		case kept:
			return effective, nil
		case try == tries:
			return ineffective, nil
		}
		select {
		case <-ctx.Done():
			return unknown, ctx.Err()
		case <-time.After(betweenTries):
		}
	}
}

// install creates the policy and its binding, or puts them back.
func (k *keeper) install(ctx context.Context) error {
	wantPolicy, havePolicy := policy(k.users, k.me), &admissionv1.MutatingAdmissionPolicy{}
	err := k.put(ctx, havePolicy, wantPolicy, func() bool {
		same := equality.Semantic.DeepEqual(havePolicy.Spec, wantPolicy.Spec)
		havePolicy.Spec = wantPolicy.Spec
		return same
	})
	if err != nil {
		return fmt.Errorf("install policy %s: %w", PolicyName, err)
	}
	wantBinding, haveBinding := binding(), &admissionv1.MutatingAdmissionPolicyBinding{}
	err = k.put(ctx, haveBinding, wantBinding, func() bool {
		same := equality.Semantic.DeepEqual(haveBinding.Spec, wantBinding.Spec)
		haveBinding.Spec = wantBinding.Spec
		return same
	})
	if err != nil {
		return fmt.Errorf("install binding of policy %s: %w", PolicyName, err)
	}
	return nil
}

// put reads an object and creates it, or updates it unless it is right; adopt tells that, and makes it so.
func (k *keeper) put(ctx context.Context, have, want client.Object, adopt func() bool) error {
	err := k.reader.Get(ctx, client.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		k.log.InfoContext(ctx, "installed", "object", fmt.Sprintf("%T", want), "name", want.GetName())
		return k.client.Create(ctx, want)
	case err != nil || adopt():
		return err
	}
	k.log.WarnContext(ctx, "put back what somebody changed", "object", fmt.Sprintf("%T", want), "name", want.GetName())
	return k.client.Update(ctx, have)
}

// volunteer returns a pod on which the policy can be tried, nil if there is none.
func (k *keeper) volunteer(ctx context.Context) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := k.client.List(ctx, &pods, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Annotations[RetainKey] == Keep && pod.DeletionTimestamp == nil && ready(pod) {
			return pod, nil
		}
	}
	return nil, nil
}

// try takes Ready from a pod in a dry run and tells whether the policy keeps it.
func (k *keeper) try(ctx context.Context, pod *corev1.Pod) (kept bool, err error) {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"conditions":[{"type":%q,"status":%q}]}}`,
		pod.UID, corev1.PodReady, corev1.ConditionFalse)
	answer := &corev1.Pod{}
	answer.Namespace, answer.Name = pod.Namespace, pod.Name
	err = k.client.Status().Patch(ctx, answer, client.RawPatch(types.StrategicMergePatchType, patch), client.DryRunAll)
	if err != nil {
		return false, fmt.Errorf("try policy %s on pod %s/%s: %w", PolicyName, pod.Namespace, pod.Name, err)
	}
	if answer.UID != pod.UID {
		return false, errors.New("try policy: the answer is about another pod")
	}
	return ready(answer), nil
}
