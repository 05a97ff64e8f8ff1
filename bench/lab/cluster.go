package lab

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"yurt/bench/canned"
	"yurt/internal/playground/cluster"
	"yurt/internal/playground/component"
)

const (
	namespace  = "bench"
	edge       = "edge" // the node that has a kubelet
	writers    = 8
	streamPods = 64
)

// cloud is a cluster with a node behind the hub, and a machine that gateways and clients are started on.
type cloud struct {
	*cluster.Cluster
	client kubernetes.Interface
	edge   *cluster.Node
	lab    *cluster.Node
	seq    atomic.Int64 // of events
}

// newCloud boots etcd, kube-apiserver and the rest, and returns the site on its lab.
func (b *bench) newCloud(ctx context.Context) (*cloud, *site, error) {
	c, err := cluster.Up(ctx, cluster.Config{
		Nodes: []cluster.NodeConfig{{Name: edge, Hub: true}, {Name: nodeName, Hub: true, Alone: true}}, Owned: true,
		HubProgram: b.hub().Program, Checkout: b.cfg.Checkout, Log: b.cfg.Log,
		// The node is looked at while it is left alone, and while its link is cut.
		MonitorGrace: 10 * time.Minute, APIServerArgs: []string{"--audit-log-path="},
	})
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(c.Down)
	k := &cloud{Cluster: c}
	if k.client, err = c.Client(); err != nil {
		return nil, nil, err
	}
	if k.edge, err = c.Node(edge); err != nil {
		return nil, nil, err
	}
	if k.lab, err = c.Node(nodeName); err != nil {
		return nil, nil, err
	}
	if err := k.lab.StopService(ctx, cluster.YurtHub); err != nil {
		return nil, nil, err
	}
	s := &site{
		upstream: "api", url: c.APIServerURLs()[0], ca: k.lab.Path(component.CAFile), dir: filepath.Join(b.dir, "api"),
	}
	if s.netPID, err = k.lab.PID(); err != nil {
		return nil, nil, err
	}
	if s.pid, err = processOn(ctx, c.Cloud(), cluster.APIServer(0)); err != nil {
		return nil, nil, err
	}
	s.pem = filepath.Join(s.dir, "node.pem")
	pem, err := os.ReadFile(filepath.Join(filepath.Dir(k.lab.Path(component.KubeletCert)), "kubelet-client-current.pem"))
	if err != nil {
		return nil, nil, err
	}
	if s.cert, err = tls.X509KeyPair(pem, pem); err != nil {
		return nil, nil, fmt.Errorf("read the node's certificate: %w", err)
	}
	if err := errors.Join(os.MkdirAll(s.dir, 0o755), os.WriteFile(s.pem, pem, 0o600)); err != nil {
		return nil, nil, err
	}
	b.result.Conditions["Kubernetes"] = c.Config.Kubernetes
	return k, s, k.prepare(ctx)
}

// prepare lets the lab's identities read everything, and makes the namespace.
func (k *cloud) prepare(ctx context.Context) error {
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "bench-reader"},
		Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"", "discovery.k8s.io"}, Resources: []string{"pods", "services", "endpointslices"}, Verbs: []string{"get", "list", "watch"},
		}},
	}
	if _, err := k.client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make role: %w", err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench-reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bench-reader"},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "system:node:" + nodeName},
			{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "system:serviceaccounts:" + namespace},
		},
	}
	if _, err := k.client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("bind role: %w", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := k.client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("make namespace: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return await(ctx, func() error {
		_, err := k.client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// await tries until there is no error.
func await(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tokens makes service accounts and returns a token of each.
func (k *cloud) tokens(ctx context.Context, names ...string) ([]string, error) {
	var tokens []string
	accounts := k.client.CoreV1().ServiceAccounts(namespace)
	for _, name := range names {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := accounts.Create(ctx, account, metav1.CreateOptions{}); err != nil {
			return nil, fmt.Errorf("make service account: %w", err)
		}
		request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](7200)}}
		token, err := accounts.CreateToken(ctx, name, request, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("make token: %w", err)
		}
		tokens = append(tokens, token.Status.Token)
	}
	return tokens, nil
}

// fill makes the objects. The controllers that would remove pods of nodes that are not there are stopped first.
func (k *cloud) fill(ctx context.Context, streams []string) error {
	for _, service := range []string{cluster.ControllerManager, cluster.Scheduler} {
		if err := k.Cloud().StopService(ctx, service); err != nil {
			return err
		}
	}
	pods := k.client.CoreV1().Pods(namespace)
	type batch struct {
		n      int
		create func(i int) error
	}
	podsOf := func(node string, n, first int) batch {
		return batch{n, func(i int) error {
			pod := canned.Pod(namespace, node, first+i)
			pod.ResourceVersion, pod.UID = "", ""
			_, err := pods.Create(ctx, pod, metav1.CreateOptions{})
			return err
		}}
	}
	batches := []batch{
		podsOf(crowd, podsInCrowd, 0), podsOf(smallNode, smallPods, 10000),
		{sliceCount, func(i int) error {
			slice := canned.EndpointSlice(namespace, i)
			slice.ResourceVersion, slice.UID = "", ""
			_, err := k.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
			return err
		}},
		{sliceCount, func(i int) error {
			_, err := k.client.CoreV1().Services(namespace).Create(ctx, canned.Service(namespace, i), metav1.CreateOptions{})
			return err
		}},
	}
	for i, node := range streams {
		batches = append(batches, podsOf(node, streamPods, podOfStream(i)))
	}
	for _, batch := range batches {
		var next atomic.Int64
		if err := each(ctx, func() (bool, error) {
			i := int(next.Add(1)) - 1
			if i >= batch.n {
				return false, nil
			}
			err := batch.create(i)
			if apierrors.IsAlreadyExists(err) {
				err = nil
			}
			return true, err
		}); err != nil {
			return fmt.Errorf("fill the cluster: %w", err)
		}
	}
	return nil
}

// each lets all writers do steps until one says that there are no more.
func each(ctx context.Context, step func() (more bool, err error)) error {
	group, ctx := errgroup.WithContext(ctx)
	for range writers {
		group.Go(func() error {
			for {
				more, err := step()
				if err != nil || !more || ctx.Err() != nil {
					return errors.Join(err, context.Cause(ctx))
				}
			}
		})
	}
	return group.Wait()
}

// podOfStream is the number of the first pod of a stream's node.
func podOfStream(i int) int { return 20000 + 100*i }

// source makes events by writing to pods of a stream's node.
func (k *cloud) source(streams []string) source {
	return func(ctx context.Context, node string, n, rate int) error {
		first := -1
		for i, name := range streams {
			if name == node {
				first = podOfStream(i)
			}
		}
		if first < 0 {
			return fmt.Errorf("make events: no stream %q", node)
		}
		write := func(i int) error {
			name := canned.Pod(namespace, node, first+i%streamPods).Name
			_, err := k.client.CoreV1().Pods(namespace).Patch(ctx, name, types.MergePatchType, patch(k.seq.Add(1)), metav1.PatchOptions{})
			return err
		}
		if rate > 0 {
			next := time.Now()
			for i := range n {
				time.Sleep(time.Until(next))
				if err := write(i); err != nil {
					return err
				}
				next = next.Add(time.Second / time.Duration(rate))
			}
			return nil
		}
		var next atomic.Int64
		return each(ctx, func() (bool, error) {
			i := int(next.Add(1)) - 1
			if i >= n {
				return false, nil
			}
			return true, write(i)
		})
	}
}

// streamNames are the nodes whose pods are written to: one for each target, and the one of row 5.
func (b *bench) streamNames() []string {
	names := []string{"latency", "stream-direct"}
	for _, g := range b.gateways {
		names = append(names, "stream-"+g.Name)
	}
	return names
}
