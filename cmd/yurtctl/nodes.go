package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"yurt/internal/condition"
	"yurt/internal/controller/autonomy"
)

// clusterFlags say which cluster, as kubectl's do.
type clusterFlags struct{ kubeconfig, context string }

// client reads nodes, and knows no other kind.
func (f clusterFlags) client() (*rest.RESTClient, *runtime.Scheme, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: f.context}).ClientConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server (--kubeconfig, --context): %w", err)
	}
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, nil, err
	}
	cfg.APIPath, cfg.GroupVersion = "/api", &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	cfg.UserAgent = "yurtctl"
	cfg.Timeout = 30 * time.Second
	client, err := rest.RESTClientFor(cfg)
	return client, scheme, err
}

// NodeStatus is what the cloud knows of a node.
type NodeStatus struct {
	Name      string     `json:"name"`
	Ready     *Condition `json:"ready,omitempty"`
	Hub       *Condition `json:"hub,omitempty"`           // YurtHubHealthy, which the hub sets; none: there was never one
	Protected *Condition `json:"podsProtected,omitempty"` // which yurt-controller-manager sets
}

// Condition is one condition of a node.
type Condition struct {
	Status    corev1.ConditionStatus `json:"status"`
	Reason    string                 `json:"reason"`
	Message   string                 `json:"message"`
	Since     time.Time              `json:"since"`
	Heartbeat time.Time              `json:"heartbeat"`
}

// ofNodes shows what the cloud knows of nodes; of all if there are no names.
func (f *statusFlags) ofNodes(names []string) (shower, error) {
	client, scheme, err := f.cluster.client()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, w io.Writer) error {
		nodes, err := read(ctx, client, runtime.NewParameterCodec(scheme), names)
		if err != nil {
			return err
		}
		if f.output == "json" || f.output == "yaml" {
			return writeAs(w, f.output, nodes)
		}
		return writeTable(w, nodes, f.output == "wide", time.Now())
	}, nil
}

// read returns the nodes in the order of their names. A node that is named and not there is an error.
func read(ctx context.Context, client *rest.RESTClient, params runtime.ParameterCodec, names []string) ([]NodeStatus, error) {
	nodes := []NodeStatus{}
	if len(names) > 0 {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
			var node corev1.Node
			if err := client.Get().Resource("nodes").Name(name).Do(ctx).Into(&node); err != nil {
				return nil, fmt.Errorf("read node %s: %w", name, err)
			}
			nodes = append(nodes, statusOf(&node))
		}
		return nodes, nil
	}
	options := metav1.ListOptions{Limit: 500}
	for {
		var list corev1.NodeList
		if err := client.Get().Resource("nodes").VersionedParams(&options, params).Do(ctx).Into(&list); err != nil {
			return nil, fmt.Errorf("list nodes: %w", err)
		}
		for i := range list.Items {
			nodes = append(nodes, statusOf(&list.Items[i]))
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	slices.SortFunc(nodes, func(a, b NodeStatus) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

func statusOf(node *corev1.Node) NodeStatus {
	s := NodeStatus{Name: node.Name}
	for _, c := range node.Status.Conditions {
		is := &Condition{c.Status, c.Reason, c.Message, c.LastTransitionTime.UTC(), c.LastHeartbeatTime.UTC()}
		switch c.Type {
		case corev1.NodeReady:
			s.Ready = is
		case condition.Type:
			s.Hub = is
		case autonomy.PodsProtected:
			s.Protected = is
		}
	}
	return s
}

func writeTable(w io.Writer, nodes []NodeStatus, wide bool, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "NODE\tREADY\tSINCE\tHUB\tHEARD\tPODS")
	if wide {
		fmt.Fprint(t, "\tHUB SAYS\tPODS ARE")
	}
	fmt.Fprintln(t)
	for _, n := range nodes {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s", n.Name, n.Ready.word(), n.Ready.since(now), n.Hub.hub(), n.Hub.heard(now), n.Protected.pods())
		if wide {
			fmt.Fprintf(t, "\t%s\t%s", n.Hub.message(), n.Protected.message())
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

func (c *Condition) word() string {
	if c == nil {
		return "Unknown"
	}
	return string(c.Status)
}

func (c *Condition) since(now time.Time) string {
	if c == nil {
		return "-"
	}
	return duration.HumanDuration(max(0, now.Sub(c.Since)))
}

// heard is how long ago the hub said it: an hour and less while nothing changes.
func (c *Condition) heard(now time.Time) string {
	if c == nil {
		return "-"
	}
	return duration.HumanDuration(max(0, now.Sub(c.Heartbeat)))
}

// hub is "healthy", or what is wrong.
func (c *Condition) hub() string {
	switch {
	case c == nil:
		return "none"
	case c.Status == corev1.ConditionTrue:
		return "healthy"
	}
	return c.Reason
}

// pods is whether pods are kept from eviction now.
func (c *Condition) pods() string {
	switch {
	case c == nil:
		return "-"
	case c.Status == corev1.ConditionTrue:
		return "protected"
	}
	return c.Reason
}

func (c *Condition) message() string {
	if c == nil {
		return "-"
	}
	return c.Message
}
