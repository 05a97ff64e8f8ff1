// Package filter changes objects on their way to some of a node's components, so
// that pods find the hub, and Services lead where they should at the edge.
//
// A filter is a pure function over the bytes of one object, in protobuf or JSON. It
// changes the fields that it is about and leaves every other byte alone, or leaves
// the object out.
//
// The package guarantees that an object which a filter can't read is shown as it
// is, and that nothing changes a resourceVersion. It never touches what is stored
// and keeps nothing: what it wants to know of other objects it asks for each time.
package filter

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"yurt/internal/request"
	"yurt/internal/splice"
	"yurt/internal/wire"
)

// The filters, by OpenYurt's names where they do the same.
const (
	MasterService         = "masterservice"
	ForwardKubeSvcTraffic = "forwardkubesvctraffic"
	ServiceEnvUpdater     = "serviceenvupdater"
	RootCA                = "rootca"
	ServiceTopology       = "servicetopology"
	DiscardCloudService   = "discardcloudservice"
	NodePortIsolation     = "nodeportisolation"
)

// Names returns the names of all filters.
func Names() []string {
	return []string{MasterService, ForwardKubeSvcTraffic, ServiceEnvUpdater, RootCA, ServiceTopology, DiscardCloudService, NodePortIsolation}
}

// Site is what filters know of the node.
type Site struct {
	Node string
	// Hub is where pods reach the hub; without an address the filters that lead
	// them there do nothing.
	Hub  []netip.Addr
	Port int
	// CA returns the authority that pods trust, or nil while there is none.
	CA func() []byte
	// Find returns the newest that is known here of an object, in item form.
	Find func(resource request.Resource, namespace, name string) (wire.Encoding, []byte, bool)

	Disabled []string // filters that don't apply
}

// rule says what a filter does to one kind of object.
type rule struct {
	name     string
	clients  []string // components, by the first word of their User-Agent
	resource request.Resource
	hub      bool // it leads pods to the hub
	others   bool // what it shows depends on other objects
	// concerns reports whether the filter may change an object; nil: any.
	concerns func(namespace, name string) bool
	// show returns the object as it is to be shown, nil if it is left out.
	show func(v *view) []byte
}

// view is an object as a filter sees it.
type view struct {
	*splice.Editor
	site            *Site
	encoding        wire.Encoding
	namespace, name string
	item            []byte
}

const (
	kubelet   = "kubelet"
	kubeProxy = "kube-proxy"
	coreDNS   = "coredns"
)

func rules() []rule {
	services := request.Resource{Version: "v1", Resource: "services"}
	endpoints := request.Resource{Version: "v1", Resource: "endpoints"}
	endpointSlices := request.Resource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	pods := request.Resource{Version: "v1", Resource: "pods"}
	configMaps := request.Resource{Version: "v1", Resource: "configmaps"}
	kubernetes := func(namespace, name string) bool { return namespace == "default" && name == "kubernetes" }
	inDefault := func(namespace, _ string) bool { return namespace == "default" }
	rootCA := func(_, name string) bool { return name == "kube-root-ca.crt" }
	node, proxy, both := []string{kubelet}, []string{kubeProxy}, []string{kubeProxy, coreDNS}
	return []rule{
		{name: MasterService, clients: node, resource: services, hub: true, concerns: kubernetes, show: (*view).masterService},
		{name: ServiceEnvUpdater, clients: node, resource: pods, hub: true, show: (*view).serviceEnv},
		{name: RootCA, clients: node, resource: configMaps, hub: true, concerns: rootCA, show: (*view).rootCA},
		{name: ForwardKubeSvcTraffic, clients: proxy, resource: endpointSlices, hub: true, concerns: inDefault, show: (*view).forwardSlice},
		{name: ForwardKubeSvcTraffic, clients: proxy, resource: endpoints, hub: true, concerns: kubernetes, show: (*view).forwardEndpoints},
		{name: DiscardCloudService, clients: proxy, resource: services, show: (*view).discardCloudService},
		{name: NodePortIsolation, clients: proxy, resource: services, others: true, show: (*view).isolateNodePort},
		{name: ServiceTopology, clients: both, resource: endpointSlices, others: true, show: (*view).topologyOfSlice},
		{name: ServiceTopology, clients: both, resource: endpoints, others: true, show: (*view).topologyOfEndpoints},
	}
}

// Chain is the filters between one kind of object and one component. A nil Chain
// shows everything as it is.
type Chain struct {
	site  *Site
	rules []rule
}

// For returns the filters for a client, told by its User-Agent. That is no
// question of what it may see: a client that says that it is another one sees
// other addresses in the objects that it may read anyway.
func (s *Site) For(userAgent string, resource request.Resource) *Chain {
	component, _, _ := strings.Cut(strings.ToLower(userAgent), "/")
	var apply []rule
	for _, r := range rules() {
		if r.resource == resource && slices.Contains(r.clients, component) && !slices.Contains(s.Disabled, r.name) && (!r.hub || len(s.Hub) > 0) {
			apply = append(apply, r)
		}
	}
	if len(apply) == 0 {
		return nil
	}
	return &Chain{site: s, rules: apply}
}

// Changes returns the name of a filter that may change an object, or "".
func (c *Chain) Changes(namespace, name string) string {
	if c == nil {
		return ""
	}
	for _, r := range c.rules {
		if r.concerns == nil || r.concerns(namespace, name) {
			return r.name
		}
	}
	return ""
}

// Depends reports whether an object may show differently because another one has
// changed.
func (c *Chain) Depends() bool {
	return c != nil && slices.ContainsFunc(c.rules, func(r rule) bool { return r.others })
}

// Apply returns an object, in item form, as the client is to see it: the very
// bytes that came if no filter changes it, and nil if it is left out.
func (c *Chain) Apply(encoding wire.Encoding, namespace, name string, item []byte) (shown []byte, changed bool) {
	if c == nil {
		return item, false
	}
	shown = item
	for _, r := range c.rules {
		if r.concerns != nil && !r.concerns(namespace, name) {
			continue
		}
		v := &view{Editor: editor(encoding), site: c.site, encoding: encoding, namespace: namespace, name: name, item: shown}
		next := r.show(v)
		switch {
		case v.Err != nil: // as it is
		case next == nil:
			return nil, true
		default:
			shown = next
		}
	}
	return shown, !bytes.Equal(shown, item)
}

func editor(encoding wire.Encoding) *splice.Editor {
	if encoding == wire.Protobuf {
		return &splice.Editor{Format: splice.Protobuf()}
	}
	return &splice.Editor{Format: splice.JSON()}
}
