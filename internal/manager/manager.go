// Package manager runs the cloud's controllers as one program, of which several replicas may run and one leads.
//
// It gives the controllers what they share: a cache with all bound pods and all nodes, of each only what a decision can depend on, so
// that its size is bounded by a few hundred bytes for each pod; one client with one limit on its requests; metrics and health checks.
//
// A replica that does not lead keeps its cache warm and writes nothing. One that can't renew its lease ends, and is to be started
// again by whoever runs it.
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"yurt/internal/controller/endpointretention"
	"yurt/internal/controller/nodeautonomy"
)

// LeaseName is the name of the lease that makes a replica the leader.
const LeaseName = "yurt-controller-manager"

// Config says how to run. There are no defaults here; the command has them.
type Config struct {
	Kubeconfig     string // a file; empty: the service account of the pod that this runs in
	LeaderElect    bool   // false: this is the only replica
	LeaseNamespace string // empty: that of the pod that this runs in
	MetricsAddress string // of /metrics; "0": none
	HealthAddress  string // of /healthz and /readyz; "0": none

	// QPS limits requests, as it would be bad to be the storm after an outage. Burst is for what comes at once.
	QPS   float32
	Burst int

	// NodeControllers are the users as whom the stock node controller writes.
	NodeControllers []string

	Logger *slog.Logger
}

// Run runs the controllers until ctx ends, or the lease is lost, which is an error.
func Run(ctx context.Context, cfg Config) error {
	restConfig, err := restConfig(cfg)
	if err != nil {
		return err
	}
	mgr, err := manager.New(restConfig, manager.Options{
		Scheme: clientgoscheme.Scheme,
		Cache: cache.Options{
			ByObject: map[client.Object]cache.ByObject{
				&corev1.Pod{}:  {Field: fields.OneTermNotEqualSelector("spec.nodeName", ""), Transform: slimPod},
				&corev1.Node{}: {Transform: slimNode},
			},
			ReaderFailOnMissingInformer: true, // nothing else gets into memory by a slip
		},
		Logger:                        logr.FromSlogHandler(cfg.Logger.Handler()),
		LeaderElection:                cfg.LeaderElect,
		LeaderElectionID:              LeaseName,
		LeaderElectionNamespace:       cfg.LeaseNamespace,
		LeaderElectionReleaseOnCancel: true, // the process ends after this
		Metrics:                       metricsserver.Options{BindAddress: cfg.MetricsAddress},
		HealthProbeBindAddress:        cfg.HealthAddress,
	})
	if err != nil {
		return fmt.Errorf("make manager: %w", err)
	}
	if err := add(ctx, mgr, cfg); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

func add(ctx context.Context, mgr manager.Manager, cfg Config) error {
	for _, object := range []client.Object{&corev1.Pod{}, &corev1.Node{}} {
		if _, err := mgr.GetCache().GetInformer(ctx, object, cache.BlockUntilSynced(false)); err != nil {
			return fmt.Errorf("watch %T: %w", object, err)
		}
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, &corev1.Pod{}, "spec.nodeName", func(o client.Object) []string {
		return []string{o.(*corev1.Pod).Spec.NodeName}
	})
	if err != nil {
		return fmt.Errorf("index pods by node: %w", err)
	}
	if err := nodeautonomy.Add(mgr, metrics.Registry, cfg.Logger); err != nil {
		return err
	}
	if err := endpointretention.Add(mgr, metrics.Registry, cfg.NodeControllers, cfg.Logger); err != nil {
		return err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return fmt.Errorf("add health check: %w", err)
	}
	err = mgr.AddReadyzCheck("cache", func(r *http.Request) error {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("nodes and pods are not known yet")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("add readiness check: %w", err)
	}
	return nil
}

func restConfig(cfg Config) (*rest.Config, error) {
	load := rest.InClusterConfig
	if cfg.Kubeconfig != "" {
		load = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig) }
	}
	c, err := load()
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	c.QPS, c.Burst = cfg.QPS, cfg.Burst
	c.UserAgent = LeaseName
	return c, nil
}
