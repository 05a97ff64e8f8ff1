package filter

import (
	"fmt"
	"net/netip"

	"yurt/internal/request"
	"yurt/internal/splice"
	"yurt/internal/wire"
)

// The fields that filters read and change, as in k8s.io/api's generated.proto.
var (
	metadata    = splice.Message(1, "metadata")
	labels      = splice.List(11, "labels")
	annotations = splice.List(12, "annotations")
	spec        = splice.Message(2, "spec")
	data        = splice.List(2, "data")

	servicePorts = splice.List(1, "ports")
	clusterIP    = splice.Message(3, "clusterIP")
	clusterIPs   = splice.List(18, "clusterIPs")
	serviceType  = splice.Message(4, "type")

	sliceEndpoints   = splice.List(2, "endpoints")
	slicePorts       = splice.List(3, "ports")
	sliceAddressType = splice.Message(4, "addressType")
	addresses        = splice.List(1, "addresses") // of an endpoint of a slice
	endpointNode     = splice.Message(6, "nodeName")
	endpointZone     = splice.Message(7, "zone")
	portNumber       = splice.Varint(3, "port") // of Services and slices

	subsets         = splice.List(2, "subsets")
	subsetReady     = splice.List(1, "addresses")
	subsetNotReady  = splice.List(2, "notReadyAddresses")
	subsetPorts     = splice.List(3, "ports")
	addressIP       = splice.Message(1, "ip")
	addressNode     = splice.Message(4, "nodeName")
	endpointsNumber = splice.Varint(2, "port") // of Endpoints

	containers          = splice.List(2, "containers")
	initContainers      = splice.List(20, "initContainers")
	ephemeralContainers = splice.List(34, "ephemeralContainers")
	ephemeralCommon     = splice.Message(1, "") // JSON has its fields one level up
	containerEnv        = splice.List(7, "env")
	envName             = splice.Message(1, "name")
	envValue            = splice.Message(2, "value")
)

// ClusterIPs returns the addresses of a Service, in item form.
func ClusterIPs(encoding wire.Encoding, service []byte) ([]netip.Addr, error) {
	e := editor(encoding)
	of := e.One(service, spec)
	all := e.Many(of, clusterIPs)
	if len(all) == 0 {
		all = e.Many(of, clusterIP)
	}
	var ips []netip.Addr
	for _, value := range all {
		var s string
		e.Keep(e.Read(value, &s))
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("read Service: %w", err)
		}
		ips = append(ips, ip)
	}
	if e.Err != nil {
		return nil, fmt.Errorf("read Service: %w", e.Err)
	}
	return ips, nil
}

// label returns a label of the object, annotation an annotation.
func (v *view) label(key string) string      { return v.entry(labels, key) }
func (v *view) annotation(key string) string { return v.entry(annotations, key) }

func (v *view) entry(of splice.Field, key string) string {
	meta := v.One(v.item, metadata)
	if meta == nil {
		return ""
	}
	value, err := v.Label(meta, of, key)
	v.Keep(err)
	return value
}

// find returns another object, as far as it is known here.
func (v *view) find(resource, namespace, name string) (*view, bool) {
	encoding, item, ok := v.site.Find(request.Resource{Version: "v1", Resource: resource}, namespace, name)
	if !ok {
		return nil, false
	}
	return &view{Editor: editor(encoding), site: v.site, encoding: encoding, namespace: namespace, name: name, item: item}, true
}

// hubLike returns the hub's address of a family.
func (s *Site) hubLike(is4 bool) (netip.Addr, bool) {
	for _, ip := range s.Hub {
		if ip.Is4() == is4 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}
