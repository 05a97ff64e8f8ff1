package wire

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// benchPod is a pod as a running Deployment makes them: about 4 KB.
func benchPod(n int) *corev1.Pod {
	at := metav1.NewTime(time.Date(2026, 11, 23, 12, 0, n%60, 0, time.UTC))
	yes, seconds := true, int64(300)
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "registry.example.com/team/" + name + ":v1.2.3", ImagePullPolicy: corev1.PullIfNotPresent,
			Args: []string{"--listen=:8080", "--config=/etc/app/config.yaml", "--log-level=info"},
			Env: []corev1.EnvVar{
				{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"}}},
				{Name: "DATABASE_URL", Value: "postgres://db.default.svc.cluster.local:5432/app?sslmode=verify-full"},
			},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
			},
			VolumeMounts: []corev1.VolumeMount{
				{Name: "config", MountPath: "/etc/app"}, {Name: "kube-api-access-x7k2p", ReadOnly: true, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"},
			},
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		}
	}
	state := func(name string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, Ready: true, Started: &yes, Image: "registry.example.com/team/" + name + ":v1.2.3",
			ImageID:     "registry.example.com/team/" + name + "@sha256:4b8f1d7a0f6a7e0f5b7c1f0d9e8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a",
			ContainerID: "containerd://0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9",
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("frontend-7d8f9c6b5d-%05d", n), GenerateName: "frontend-7d8f9c6b5d-", Namespace: fmt.Sprintf("team-%d", n%7),
			UID: types.UID(fmt.Sprintf("5f9d4bba-6a4b-4d0e-9d4e-%012d", n)), ResourceVersion: fmt.Sprint(100000 + n), CreationTimestamp: at,
			Labels:      map[string]string{"app": "frontend", "pod-template-hash": "7d8f9c6b5d", "tier": "web"},
			Annotations: map[string]string{"prometheus.io/scrape": "true", "checksum/config": "3f786850e387550fdab836ed7e6dc881de23001b"},
			ManagedFields: []metav1.ManagedFieldsEntry{{
				Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &at, FieldsType: "FieldsV1",
				FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{},"f:tier":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"0a1b2c3d\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:args":{},"f:env":{},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{}}},"f:dnsPolicy":{},"f:restartPolicy":{}}}`),
			}},
		},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{container("app"), container("sidecar")}, NodeName: "edge-1", ServiceAccountName: "default",
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler",
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, HostIP: "10.0.0.7", PodIP: "10.244.1.17", StartTime: &at,
			Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at}},
			ContainerStatuses: []corev1.ContainerStatus{state("app"), state("sidecar")},
		},
	}
}

func benchServer(b *testing.B, enc Encoding) server {
	return builtin(b, corev1.SchemeGroupVersion.WithKind("Pod"), enc, 1)
}

func benchList(b *testing.B, enc Encoding) []byte {
	s := benchServer(b, enc)
	var pods []runtime.Object
	for n := range 1000 {
		pods = append(pods, benchPod(n))
	}
	return s.list(b, pods, ListMeta{ResourceVersion: "123456"})
}

func forBothEncodings(b *testing.B, bench func(b *testing.B, enc Encoding)) {
	for _, enc := range []Encoding{JSON, Protobuf} {
		b.Run(enc.String(), func(b *testing.B) { bench(b, enc) })
	}
}

// BenchmarkReadList reads a list of 1,000 pods.
func BenchmarkReadList(b *testing.B) {
	forBothEncodings(b, func(b *testing.B, enc Encoding) {
		body := benchList(b, enc)
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			items := 0
			_, err := ReadList(bytes.NewReader(body), enc, 1<<20, func(Item) error {
				items++
				return nil
			})
			if err != nil || items != 1000 {
				b.Fatal(items, err)
			}
		}
	})
}

// BenchmarkWriteList writes a list of 1,000 pods.
func BenchmarkWriteList(b *testing.B) {
	forBothEncodings(b, func(b *testing.B, enc Encoding) {
		body := benchList(b, enc)
		list, items, err := readAll(bytes.NewReader(body), enc)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			if err := writeItems(io.Discard, enc, list, items); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func writeItems(w io.Writer, enc Encoding, list List, items []Item) error {
	var size int64
	for i := range items {
		size += ItemSize(len(items[i].Raw))
	}
	lw := NewListWriter(w, enc, list.Envelope, list.ListMeta, size)
	for i := range items {
		if err := lw.WriteItem(items[i].Raw); err != nil {
			return err
		}
	}
	return lw.Close()
}

// BenchmarkWatchDecoder reads an event about a pod.
func BenchmarkWatchDecoder(b *testing.B) {
	forBothEncodings(b, func(b *testing.B, enc Encoding) {
		event := benchServer(b, enc).watchEvent(b, watch.Modified, benchPod(1))
		d := NewWatchDecoder(&endless{event: event}, enc, 1<<20)
		b.SetBytes(int64(len(event)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := d.Next(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// endless is a stream of one event after another.
type endless struct {
	event []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.event[e.at:])
	e.at = (e.at + n) % len(e.event)
	return n, nil
}

// BenchmarkAppendEvent writes an event about a pod.
func BenchmarkAppendEvent(b *testing.B) {
	forBothEncodings(b, func(b *testing.B, enc Encoding) {
		item, tm, err := ParseObject(enc, benchServer(b, enc).encode(b, benchPod(1)))
		if err != nil {
			b.Fatal(err)
		}
		var event []byte
		b.SetBytes(int64(len(item.Raw)))
		b.ReportAllocs()
		for b.Loop() {
			event = AppendEvent(event[:0], enc, Modified, tm, item.Raw)
		}
	})
}

// TestWritingAllocatesNothing: neither an item of a list nor an event costs memory.
func TestWritingAllocatesNothing(t *testing.T) {
	for name, s := range someServers(t) {
		t.Run(name, func(t *testing.T) {
			item, tm, err := ParseObject(s.enc, s.encode(t, s.newObject(0)))
			if err != nil {
				t.Fatal(err)
			}
			env := Envelope{List: TypeMeta{tm.APIVersion, tm.Kind + "List"}, Item: tm, TypedItems: hasTypeJSON(item.Raw)}
			w := NewListWriter(io.Discard, s.enc, env, ListMeta{}, 1<<40)
			event := AppendEvent(nil, s.enc, Added, tm, item.Raw)
			got := testing.AllocsPerRun(100, func() {
				event = AppendEvent(event[:0], s.enc, Added, tm, item.Raw)
				if err := w.WriteItem(item.Raw); err != nil {
					t.Error(err)
				}
			})
			if got != 0 {
				t.Errorf("%v allocations", got)
			}
		})
	}
}
