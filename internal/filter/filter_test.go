package filter

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"yurt/internal/request"
	"yurt/internal/wire"
)

type object interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
	GetName() string
	GetNamespace() string
}

func encoded(t *testing.T, enc wire.Encoding, o object) []byte {
	t.Helper()
	raw, err := o.Marshal()
	if enc == wire.JSON {
		raw, err = json.Marshal(o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func decoded(t *testing.T, enc wire.Encoding, raw []byte, like object) object {
	t.Helper()
	o := reflect.New(reflect.TypeOf(like).Elem()).Interface().(object)
	err := o.Unmarshal(raw)
	if enc == wire.JSON {
		err = json.Unmarshal(raw, o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// known is what the node knows of other objects.
var known = map[string]object{
	"services/shop/local":  &corev1.Service{ObjectMeta: meta("shop", "local", topologyAnnotation, "kubernetes.io/hostname")},
	"services/shop/zonal":  &corev1.Service{ObjectMeta: meta("shop", "zonal", topologyAnnotation, zoneLabel)},
	"services/shop/pooled": &corev1.Service{ObjectMeta: meta("shop", "pooled", topologyAnnotation, "openyurt.io/nodepool")},
	"services/shop/plain":  &corev1.Service{ObjectMeta: meta("shop", "plain")},
	"nodes//edge":          &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge", Labels: map[string]string{zoneLabel: "z1", poolLabel: "hangzhou"}}},
	"nodes//mate":          &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "mate", Labels: map[string]string{zoneLabel: "z2", poolLabel: "hangzhou"}}},
	"nodes//other":         &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{zoneLabel: "z1", poolLabel: "beijing"}}},
}

func meta(namespace, name string, annotation ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{Namespace: namespace, Name: name, ResourceVersion: "7", Labels: map[string]string{"a": "b"}}
	if len(annotation) > 0 {
		m.Annotations = map[string]string{annotation[0]: annotation[1]}
	}
	return m
}

func site(t *testing.T) *Site {
	return &Site{
		Node: "edge", Port: 10268, Hub: []netip.Addr{netip.MustParseAddr("169.254.2.1"), netip.MustParseAddr("fd00::1")},
		CA: func() []byte { return []byte("HUB\n") },
		Find: func(r request.Resource, namespace, name string) (wire.Encoding, []byte, bool) {
			o, ok := known[r.Resource+"/"+namespace+"/"+name]
			if !ok {
				return 0, nil, false
			}
			return wire.JSON, encoded(t, wire.JSON, o), true
		},
	}
}

func kubernetes(ip string, port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta("default", "kubernetes"), Spec: corev1.ServiceSpec{
		ClusterIP: ip, ClusterIPs: []string{ip}, Type: corev1.ServiceTypeClusterIP,
		Ports: []corev1.ServicePort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}},
	}}
}

func service(kind corev1.ServiceType, annotation ...string) *corev1.Service {
	return &corev1.Service{ObjectMeta: meta("shop", "web", annotation...), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.7", Type: kind}}
}

func slice(service string, nodes ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("shop", service+"-x"), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels[discoveryv1.LabelServiceName] = service
	for _, node := range nodes {
		e := discoveryv1.Endpoint{Addresses: []string{"10.0.0." + node}, NodeName: &node}
		if n, ok := known["nodes//"+node].(*corev1.Node); ok {
			e.Zone = ptr.To(n.Labels[zoneLabel])
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func kubernetesSlice(port int32, kind discoveryv1.AddressType, ips ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta("default", "kubernetes"), AddressType: kind, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: &port}}}
	s.Labels[discoveryv1.LabelServiceName] = "kubernetes"
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return s
}

func endpoints(namespace, name string, port int32, nodes ...string) *corev1.Endpoints { //nolint:staticcheck // who reads these sees the same
	e := &corev1.Endpoints{ObjectMeta: meta(namespace, name)} //nolint:staticcheck // as above
	var subset corev1.EndpointSubset                          //nolint:staticcheck // as above
	subset.Ports = []corev1.EndpointPort{{Name: "https", Port: port}}
	for _, node := range nodes {
		a := corev1.EndpointAddress{IP: node}
		if _, ok := known["nodes//"+node]; ok {
			a = corev1.EndpointAddress{IP: "10.0.0.1", NodeName: &node}
		}
		subset.Addresses = append(subset.Addresses, a)
	}
	e.Subsets = append(e.Subsets, subset)
	return e
}

func pod(host, port string) *corev1.Pod {
	env := []corev1.EnvVar{
		{Name: "A", Value: host + port}, {Name: hostVariable, Value: host}, {Name: portVariable, Value: port},
		{Name: hostVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}}},
	}
	env[0].Value = "b"
	c := corev1.Container{Name: "c", Image: "i", Env: env}
	return &corev1.Pod{ObjectMeta: meta("shop", "web"), Spec: corev1.PodSpec{
		Containers: []corev1.Container{c, {Name: "bare"}}, InitContainers: []corev1.Container{c},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(c), TargetContainerName: "c"}},
		NodeName:            "edge",
	}}
}

func configMap(name, ca string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: meta("shop", name), Data: map[string]string{"a": "b", "ca.crt": ca, "z": "\u00e9"}}
}

// TestFiltersChangeWhatTheyName has objects and how they are shown. Both encodings come out the same.
func TestFiltersChangeWhatTheyName(t *testing.T) {
	services, pods, configMaps, eps := core("services"), core("pods"), core("configmaps"), core("endpoints")
	slices := request.Resource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	for _, tc := range []struct {
		what      string
		agent     string
		resource  request.Resource
		in, shown object // shown nil: left out
	}{
		{MasterService, "kubelet/v1.37.2 (linux/amd64)", services, kubernetes("10.96.0.1", 443), kubernetes("169.254.2.1", 10268)},
		{"masterservice of IPv6", "kubelet/v1", services, kubernetes("fd10::1", 443), kubernetes("fd00::1", 10268)},
		{"masterservice, other Service", "kubelet/v1", services, service(corev1.ServiceTypeClusterIP), service(corev1.ServiceTypeClusterIP)},
		{"masterservice is the kubelet's", "kube-proxy/v1", services, kubernetes("10.96.0.1", 443), kubernetes("10.96.0.1", 443)},
		{"nobody else's", "kubectl/v1", services, kubernetes("10.96.0.1", 443), kubernetes("10.96.0.1", 443)},

		{ServiceEnvUpdater, "kubelet/v1", pods, pod("1.2.3.4", "6443"), pod("169.254.2.1", "10268")},
		{RootCA, "kubelet/v1", configMaps, configMap("kube-root-ca.crt", "CLOUD\n"), configMap("kube-root-ca.crt", "CLOUD\nHUB\n")},
		{"rootca without a line's end", "kubelet/v1", configMaps, configMap("kube-root-ca.crt", "CLOUD"), configMap("kube-root-ca.crt", "CLOUD\nHUB\n")},
		{"rootca, other ConfigMap", "kubelet/v1", configMaps, configMap("other", "CLOUD"), configMap("other", "CLOUD")},

		{ForwardKubeSvcTraffic, "kube-proxy/v1", slices, kubernetesSlice(6443, discoveryv1.AddressTypeIPv4, "10.99.0.1", "10.99.0.2"), kubernetesSlice(10268, discoveryv1.AddressTypeIPv4, "169.254.2.1")},
		{"forwardkubesvctraffic of IPv6", "kube-proxy/v1", slices, kubernetesSlice(6443, discoveryv1.AddressTypeIPv6, "fd99::1"), kubernetesSlice(10268, discoveryv1.AddressTypeIPv6, "fd00::1")},
		{"forwardkubesvctraffic of Endpoints", "kube-proxy/v1", eps, endpoints("default", "kubernetes", 6443, "10.99.0.1", "10.99.0.2"), endpoints("default", "kubernetes", 10268, "169.254.2.1")},

		{"hostname", "kube-proxy/v1", slices, slice("local", "edge", "mate", "other"), slice("local", "edge")},
		{"hostname without one here", "CoreDNS/1.12", slices, slice("local", "mate"), slice("local")},
		{"zone", "kube-proxy/v1", slices, slice("zonal", "edge", "mate", "other"), slice("zonal", "edge", "other")},
		{"pool", "coredns/1.12", slices, slice("pooled", "edge", "mate", "other", "unknown"), slice("pooled", "edge", "mate", "unknown")},
		{"no annotation", "kube-proxy/v1", slices, slice("plain", "edge", "mate"), slice("plain", "edge", "mate")},
		{"unknown Service", "kube-proxy/v1", slices, slice("new", "edge", "mate"), slice("new", "edge", "mate")},
		{"zone of Endpoints", "kube-proxy/v1", eps, endpoints("shop", "zonal", 80, "edge", "mate", "other"), endpoints("shop", "zonal", 80, "edge", "other")},

		{DiscardCloudService, "kube-proxy/v1", services, service("LoadBalancer", discardAnnotation, "true"), nil},
		{"discarded no longer", "kube-proxy/v1", services, service("LoadBalancer", discardAnnotation, "false"), service("LoadBalancer", discardAnnotation, "false")},
		{"no load balancer", "kube-proxy/v1", services, service("ClusterIP", discardAnnotation, "true"), service("ClusterIP", discardAnnotation, "true")},

		{NodePortIsolation, "kube-proxy/v1", services, service("NodePort", listenAnnotation, "beijing"), nil},
		{"listens here", "kube-proxy/v1", services, service("NodePort", listenAnnotation, "beijing, hangzhou"), service("NodePort", listenAnnotation, "beijing, hangzhou")},
		{"listens everywhere but here", "kube-proxy/v1", services, service("LoadBalancer", listenAnnotation, "*,-hangzhou"), nil},
		{"listens everywhere", "kube-proxy/v1", services, service("NodePort", listenAnnotation, "*,-beijing"), service("NodePort", listenAnnotation, "*,-beijing")},
		{"no port on nodes", "kube-proxy/v1", services, service("ClusterIP", listenAnnotation, "beijing"), service("ClusterIP", listenAnnotation, "beijing")},
	} {
		for _, enc := range []wire.Encoding{wire.Protobuf, wire.JSON} {
			in := encoded(t, enc, tc.in)
			before := bytes.Clone(in)
			shown, changed := site(t).For(tc.agent, tc.resource).Apply(enc, tc.in.GetNamespace(), tc.in.GetName(), in)
			if !bytes.Equal(in, before) {
				t.Errorf("%s, %s: what came in was changed", tc.what, enc)
			}
			if tc.shown == nil || shown == nil {
				if tc.shown != nil || shown != nil || !changed {
					t.Errorf("%s, %s: shown %q", tc.what, enc, shown)
				}
				continue
			}
			if diff := cmp.Diff(decoded(t, enc, encoded(t, enc, tc.shown), tc.in), decoded(t, enc, shown, tc.in)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", tc.what, enc, diff)
			}
			if want := !bytes.Equal(encoded(t, enc, tc.in), encoded(t, enc, tc.shown)); changed != want {
				t.Errorf("%s, %s: changed is %t", tc.what, enc, changed)
			}
		}
	}
}

func core(resource string) request.Resource {
	return request.Resource{Version: "v1", Resource: resource}
}

// TestUnknownFieldsSurvive: what a newer API server says beside is shown, too.
func TestUnknownFieldsSurvive(t *testing.T) {
	s := kubernetes("10.96.0.1", 443)
	future := func(b []byte) []byte {
		return protowire.AppendString(protowire.AppendTag(bytes.Clone(b), 3000, protowire.BytesType), "future")
	}
	shown, changed := site(t).For("kubelet/v1", core("services")).Apply(wire.Protobuf, "default", "kubernetes", future(encoded(t, wire.Protobuf, s)))
	if !changed || !bytes.HasSuffix(shown, future(nil)) {
		t.Errorf("protobuf: %q", shown)
	}
	raw := bytes.Replace(encoded(t, wire.JSON, s), []byte(`"spec":{`), []byte(`"future":{"z":1.50, "a":[]},"spec":{"new":1e2,`), 1)
	shown, changed = site(t).For("kubelet/v1", core("services")).Apply(wire.JSON, "default", "kubernetes", raw)
	if !changed || !bytes.Contains(shown, []byte(`"future":{"z":1.50, "a":[]}`)) || !bytes.Contains(shown, []byte(`"new":1e2`)) {
		t.Errorf("JSON: %s", shown)
	}
}

// TestEachIsSwitchable: each filter can be left out, and those that lead to the hub
// do nothing where pods can't reach it.
func TestEachIsSwitchable(t *testing.T) {
	rows := func(s *Site) (names []string) {
		for _, r := range rules() {
			for _, client := range r.clients {
				if chain := s.For(client+"/v1", r.resource); chain != nil {
					for _, applied := range chain.rules {
						names = append(names, applied.name)
					}
				}
			}
		}
		return names
	}
	for _, name := range Names() {
		all := site(t)
		if !slices.Contains(rows(all), name) {
			t.Errorf("%s never applies", name)
		}
		all.Disabled = []string{name}
		if slices.Contains(rows(all), name) {
			t.Errorf("%s can't be switched off", name)
		}
	}
	nowhere := site(t)
	nowhere.Hub = nil
	for _, name := range []string{MasterService, ForwardKubeSvcTraffic, ServiceEnvUpdater, RootCA} {
		if slices.Contains(rows(nowhere), name) {
			t.Errorf("%s applies though pods can't reach the hub", name)
		}
	}
}

// TestUnreadable: what can't be read is shown as it is.
func TestUnreadable(t *testing.T) {
	for _, enc := range []wire.Encoding{wire.Protobuf, wire.JSON} {
		in := []byte("{\xff")
		shown, changed := site(t).For("kubelet/v1", core("services")).Apply(enc, "default", "kubernetes", in)
		if changed || !bytes.Equal(shown, in) {
			t.Errorf("%s: %q", enc, shown)
		}
	}
}

// TestClusterIPs reads the addresses of a Service.
func TestClusterIPs(t *testing.T) {
	for _, enc := range []wire.Encoding{wire.Protobuf, wire.JSON} {
		ips, err := ClusterIPs(enc, encoded(t, enc, kubernetes("10.96.0.1", 443)))
		if err != nil || !slices.Equal(ips, []netip.Addr{netip.MustParseAddr("10.96.0.1")}) {
			t.Errorf("%s: %v, %v", enc, ips, err)
		}
		if _, err := ClusterIPs(enc, encoded(t, enc, kubernetes("None", 443))); err == nil {
			t.Errorf("%s: None is an address", enc)
		}
	}
}
