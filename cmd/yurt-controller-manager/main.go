// Command yurt-controller-manager keeps the pods of autonomous nodes while these are dark, next to the stock control plane. It runs
// in the cluster, in two replicas or more of which one leads.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"yurt/internal/controller/endpointretention"
	"yurt/internal/logging"
	"yurt/internal/manager"
	"yurt/internal/version"
)

func main() {
	// Nearly all that lives in this process is the cache of nodes and pods. Processors have little to do, so garbage need not be let
	// grow to as much as that.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "yurt-controller-manager:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var cfg manager.Config
	var log logging.Flags
	cmd := &cobra.Command{
		Use:           "yurt-controller-manager",
		Short:         "Keep the pods of autonomous nodes while these are dark",
		Args:          cobra.NoArgs,
		Version:       version.String(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := log.Logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			bridge := logr.FromSlogHandler(logger.Handler())
			klog.SetLogger(bridge)
			ctrllog.SetLogger(bridge)
			cfg.Logger = logger
			return manager.Run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&cfg.Kubeconfig, "kubeconfig", "", "kubeconfig of the API server (default: the service account of the pod that this runs in)")
	f.BoolVar(&cfg.LeaderElect, "leader-elect", true, "write only while holding the lease, so that several replicas can run")
	f.StringVar(&cfg.LeaseNamespace, "leader-elect-namespace", "", "namespace of the lease "+manager.LeaseName+" (default: that of the pod that this runs in)")
	f.StringVar(&cfg.MetricsAddress, "metrics-bind-address", ":10271", "address of /metrics; 0 for none")
	f.StringVar(&cfg.HealthAddress, "health-probe-bind-address", ":10272", "address of /healthz and /readyz; 0 for none")
	f.Float32Var(&cfg.QPS, "kube-api-qps", 200, "requests a second to the API server, at most")
	f.IntVar(&cfg.Burst, "kube-api-burst", 400, "requests to the API server at once, at most")
	f.StringSliceVar(&cfg.NodeControllers, "node-controller-users", endpointretention.NodeControllers(), "users as whom the stock node controller marks pods as not ready")
	log.Define(cmd)
	return cmd
}
