package canned

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
)

const (
	// firstVersion is the version of every table at the start. All versions have as many digits, so that one replaces another in
	// encoded bytes.
	firstVersion = 1_000_000_000
	// Mark precedes the number of an event within its object; Digits is how many digits follow.
	Mark   = "bench-event-"
	Digits = 10
)

var noVersion = []byte("7777777777") //nolint:gochecknoglobals // a constant that Go cannot spell

// Pod returns a pod of about 4 KB, as a Deployment's pods are on a node.
func Pod(namespace, node string, n int) *corev1.Pod {
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, n%60, 0, time.UTC))
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("checkout-6d5f7c9b8-%05d", n), GenerateName: "checkout-6d5f7c9b8-", Namespace: namespace,
			UID: types.UID(fmt.Sprintf("1b0d4c6e-3f5a-4d7e-8a9b-%012d", n)), CreationTimestamp: at, ResourceVersion: string(noVersion),
			Labels:      map[string]string{"app": "checkout", "pod-template-hash": "6d5f7c9b8", "track": "stable"},
			Annotations: map[string]string{"bench/event": Mark + strings.Repeat("0", Digits)},
			ManagedFields: []metav1.ManagedFieldsEntry{
				managed("kube-controller-manager", "", at, 760), managed("kubelet", "status", at, 860),
			},
		},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			ServiceAccountName: "default", SchedulerName: "default-scheduler", TerminationGracePeriodSeconds: ptr.To[int64](30),
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.1.2.3", PodIP: "10.244.3.17", StartTime: &at, QOSClass: corev1.PodQOSBurstable,
		},
	}
	for i, name := range []string{"server", "metrics"} {
		pod.Spec.Containers = append(pod.Spec.Containers, container(name, int32(8080+i)))
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: name, Ready: true, Started: ptr.To(true), Image: "registry.example.com/shop/" + name + ":2.7.1",
			ImageID:     "registry.example.com/shop/" + name + "@sha256:" + strings.Repeat("7c4b", 16),
			ContainerID: "containerd://" + strings.Repeat("91de", 16),
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
		})
	}
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: at})
	}
	return pod
}

func container(name string, port int32) corev1.Container {
	return corev1.Container{
		Name: name, Image: "registry.example.com/shop/" + name + ":2.7.1", ImagePullPolicy: corev1.PullIfNotPresent,
		Args: []string{"--listen=:8080", "--config=/etc/shop/" + name + ".yaml"},
		Env: []corev1.EnvVar{
			{Name: "DATABASE", Value: "postgres://orders.shop.svc.cluster.local:5432/orders?sslmode=verify-full"},
			{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		},
		Ports: []corev1.ContainerPort{{Name: name, ContainerPort: port, Protocol: corev1.ProtocolTCP}},
		LivenessProbe: &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/bin/check", name}}},
			PeriodSeconds: 10, FailureThreshold: 3,
		},
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
}

// managed returns an entry of managed fields whose content has a size: it is opaque to all who only carry it.
func managed(manager, subresource string, at metav1.Time, size int) metav1.ManagedFieldsEntry {
	var fields strings.Builder
	for i := 0; fields.Len() < size; i++ {
		fmt.Fprintf(&fields, `"f:field-%02d":{},`, i)
	}
	return metav1.ManagedFieldsEntry{
		Manager: manager, Subresource: subresource, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &at,
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{` + strings.TrimSuffix(fields.String(), ",") + `}}`),
	}
}

// EndpointSlice returns an EndpointSlice with four endpoints, of about 1 KB.
func EndpointSlice(namespace string, n int) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("service-%05d-x7k2p", n), Namespace: namespace, ResourceVersion: string(noVersion),
			UID:         types.UID(fmt.Sprintf("9a8b7c6d-3f5a-4d7e-8a9b-%012d", n)),
			Labels:      map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("service-%05d", n)},
			Annotations: map[string]string{"bench/event": Mark + strings.Repeat("0", Digits)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i := range 4 {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.244.%d.%d", n>>8&255, (n+i)&255)},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			NodeName:   ptr.To(fmt.Sprintf("node-%d", i)),
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: namespace, Name: fmt.Sprintf("checkout-6d5f7c9b8-%05d", n*4+i)},
		})
	}
	return s
}

// Service returns a headless Service.
func Service(namespace string, n int) *corev1.Service {
	return &corev1.Service{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("service-%05d", n), Namespace: namespace, Labels: map[string]string{"app": "shop", "team": "orders"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": fmt.Sprintf("shop-%05d", n)},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}},
		},
	}
}

// content is the encoded objects of one resource.
type content struct {
	kind    metav1.TypeMeta
	list    map[string][]byte // by media type, with noVersion once before the items
	objects map[string][][]byte
	frames  [][]byte // watch events in protobuf, of type ADDED
	altered [][]byte // and MODIFIED
}

const (
	asProtobuf = "application/vnd.kubernetes.protobuf"
	asJSON     = "application/json"
)

func pods(n int) (*content, error) {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	var all []runtime.Object
	for i := range n {
		pod := Pod("bench", "crowd", i)
		all = append(all, pod)
		list.Items = append(list.Items, *pod)
	}
	list.ResourceVersion = string(noVersion)
	return encodeAll(list, all)
}

func endpointSlices(n int) (*content, error) {
	list := &discoveryv1.EndpointSliceList{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"}}
	var all []runtime.Object
	for i := range n {
		slice := EndpointSlice("bench", i)
		all = append(all, slice)
		list.Items = append(list.Items, *slice)
	}
	list.ResourceVersion = string(noVersion)
	return encodeAll(list, all)
}

// encodeAll encodes a list and its objects. Versions of objects are the first one; that of the list is filled in when it is sent.
func encodeAll(list runtime.Object, all []runtime.Object) (*content, error) {
	first := []byte(strconv.Itoa(firstVersion))
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	c := &content{list: map[string][]byte{}, objects: map[string][][]byte{}}
	gvk := all[0].GetObjectKind().GroupVersionKind()
	c.kind = metav1.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}
	encode := map[string]func(runtime.Object) ([]byte, error){
		asProtobuf: func(o runtime.Object) ([]byte, error) { return runtime.Encode(encoder, o) },
		asJSON:     func(o runtime.Object) ([]byte, error) { return json.Marshal(o) },
	}
	for media, encode := range encode {
		body, err := encode(list)
		if err != nil {
			return nil, fmt.Errorf("encode list: %w", err)
		}
		c.list[media] = withListVersion(body, first)
		for _, o := range all {
			data, err := encode(o)
			if err != nil {
				return nil, fmt.Errorf("encode object: %w", err)
			}
			c.objects[media] = append(c.objects[media], bytes.ReplaceAll(data, noVersion, first))
		}
	}
	for _, object := range c.objects[asProtobuf] {
		c.frames = append(c.frames, frame("ADDED", object))
		c.altered = append(c.altered, frame("MODIFIED", object))
	}
	return c, nil
}

// withListVersion gives the items a version and leaves the list's open.
func withListVersion(body, version []byte) []byte {
	at := bytes.Index(body, noVersion) + len(noVersion)
	return append(body[:at:at], bytes.ReplaceAll(body[at:], noVersion, version)...)
}

// frame returns a watch event as it is sent in protobuf: its length, and a WatchEvent.
func frame(typ string, object []byte) []byte {
	var raw, event []byte
	raw = appendField(raw, 1, object)
	event = appendField(event, 1, []byte(typ))
	event = appendField(event, 2, raw)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(event))), event...)
}

func appendField(b []byte, number byte, value []byte) []byte {
	b = append(b, number<<3|2)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// bookmark returns a bookmark's frame; initial says that it ends the initial events.
func bookmark(kind metav1.TypeMeta, version int64, initial bool) ([]byte, error) {
	meta := metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(version, 10)}
	if initial {
		meta.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	var object runtime.Object = &corev1.Pod{TypeMeta: kind, ObjectMeta: meta}
	if kind.Kind == "EndpointSlice" {
		object = &discoveryv1.EndpointSlice{TypeMeta: kind, ObjectMeta: meta}
	}
	data, err := runtime.Encode(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), object)
	if err != nil {
		return nil, fmt.Errorf("encode bookmark: %w", err)
	}
	return frame("BOOKMARK", data), nil
}
