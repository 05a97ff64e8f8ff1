package filter

import (
	"slices"
	"strconv"
	"strings"

	"yurt/internal/splice"
)

// What users write.
const (
	serviceNameLabel = "kubernetes.io/service-name"
	zoneLabel        = "topology.kubernetes.io/zone"
	poolLabel        = "apps.openyurt.io/nodepool"

	topologyAnnotation = "openyurt.io/topologyKeys"
	discardAnnotation  = "svc.openyurt.io/discard"
	listenAnnotation   = "nodeport.openyurt.io/listen"
)

func (s *Site) port() string { return strconv.Itoa(s.Port) }

// discardCloudService: a load balancer of the cloud's is none on the node.
func (v *view) discardCloudService() []byte {
	if v.Text(v.One(v.item, spec), serviceType) == "LoadBalancer" && v.annotation(discardAnnotation) == "true" {
		return nil
	}
	return v.item
}

// isolateNodePort: a Service with a port on nodes is there in the node pools that
// it names: "a,b", or "*,-c" for all but one. A node of no pool has all of them.
func (v *view) isolateNodePort() []byte {
	kind, listen := v.Text(v.One(v.item, spec), serviceType), v.annotation(listenAnnotation)
	if kind != "NodePort" && kind != "LoadBalancer" || listen == "" {
		return v.item
	}
	pool, known := v.labelOfNode(v.site.Node, poolLabel)
	if !known || pool == "" {
		return v.item
	}
	var named []string
	for pool := range strings.SplitSeq(listen, ",") {
		named = append(named, strings.TrimSpace(pool))
	}
	switch {
	case slices.Contains(named, "-"+pool):
		return nil
	case slices.Contains(named, pool), slices.Contains(named, "*"):
		return v.item
	}
	return nil
}

func (v *view) labelOfNode(node, key string) (value string, known bool) {
	n, ok := v.find("nodes", "", node)
	if !ok {
		return "", false
	}
	value = n.label(key)
	return value, n.Err == nil
}

// topologyOfSlice leaves out the endpoints that are not where the Service wants
// its clients to be served from.
func (v *view) topologyOfSlice() []byte {
	near := v.near(v.label(serviceNameLabel))
	if near == nil {
		return v.item
	}
	all := v.Many(v.item, sliceEndpoints)
	kept := slices.DeleteFunc(slices.Clone(all), func(e []byte) bool {
		return !near(v.Text(e, endpointNode), v.Text(e, endpointZone))
	})
	if len(kept) == len(all) {
		return v.item
	}
	return v.With(v.item, sliceEndpoints, kept...)
}

// topologyOfEndpoints is the same for those who read Endpoints.
func (v *view) topologyOfEndpoints() []byte {
	near := v.near(v.name)
	if near == nil {
		return v.item
	}
	left := false
	var shown [][]byte
	for _, subset := range v.Many(v.item, subsets) {
		for _, list := range []splice.Field{subsetReady, subsetNotReady} {
			all := v.Many(subset, list)
			kept := slices.DeleteFunc(slices.Clone(all), func(a []byte) bool { return !near(v.Text(a, addressNode), "") })
			if len(kept) < len(all) {
				left = true
				subset = v.With(subset, list, kept...)
			}
		}
		shown = append(shown, subset)
	}
	if !left {
		return v.item
	}
	return v.With(v.item, subsets, shown...)
}

// near returns what tells whether an endpoint on a node is near enough for a
// Service, or nil if they all are. What can't be told counts as near: a Service
// without an endpoint is worse than one with a far one.
func (v *view) near(service string) func(node, zone string) bool {
	s, ok := v.find("services", v.namespace, service)
	if service == "" || !ok {
		return nil
	}
	switch s.annotation(topologyAnnotation) {
	case "kubernetes.io/hostname":
		return func(node, _ string) bool { return node == v.site.Node }
	case zoneLabel:
		return v.sharing(zoneLabel)
	case "openyurt.io/nodepool", "kubernetes.io/zone": // OpenYurt takes both for the pool
		return v.sharing(poolLabel)
	}
	return nil
}

// sharing tells whether an endpoint's node has the same value of a label as this.
func (v *view) sharing(label string) func(node, zone string) bool {
	own, known := v.labelOfNode(v.site.Node, label)
	if !known || own == "" {
		return nil
	}
	return func(node, zone string) bool {
		if node == v.site.Node {
			return true
		}
		if label == zoneLabel && zone != "" {
			return zone == own
		}
		value, known := v.labelOfNode(node, label)
		return !known || value == own
	}
}
