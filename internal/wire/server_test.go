package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sort"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/meta"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metainternalscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// server encodes as the API server does, with the API server's own encoders, for one type of object.
type server struct {
	enc Encoding
	// object encodes objects, event watch events.
	object, event runtime.Encoder
	framer        runtime.Framer
	// newList makes a list of objects, newObject an object filled at random, empty one that is not.
	newList   func(objects []runtime.Object, meta ListMeta) runtime.Object
	newObject func(n int) runtime.Object
	empty     func() runtime.Object
	tm        TypeMeta
}

func (s server) list(t testing.TB, objects []runtime.Object, meta ListMeta) []byte {
	t.Helper()
	return s.encode(t, s.newList(objects, meta))
}

func (s server) encode(t testing.TB, obj runtime.Object) []byte {
	t.Helper()
	b, err := runtime.Encode(s.object, obj)
	if err != nil {
		t.Fatalf("encode %T: %v", obj, err)
	}
	return b
}

func (s server) watchEvent(t testing.TB, typ watch.EventType, obj runtime.Object) []byte {
	t.Helper()
	event := &metav1.WatchEvent{Type: string(typ), Object: runtime.RawExtension{Raw: s.encode(t, obj)}}
	b, err := runtime.Encode(s.event, event)
	if err != nil {
		t.Fatalf("encode event of %T: %v", obj, err)
	}
	var framed bytes.Buffer
	if _, err := s.framer.NewFrameWriter(&framed).Write(b); err != nil {
		t.Fatal(err)
	}
	return framed.Bytes()
}

// forEachServer runs a test for every kind of k8s.io/api in both encodings, for PartialObjectMetadata in both, and for
// custom resources.
func forEachServer(t *testing.T, test func(t *testing.T, s server)) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, gvk := range listKinds() {
		for _, enc := range []Encoding{JSON, Protobuf} {
			t.Run(fmt.Sprintf("%s/%s/%s", gvk.GroupVersion(), gvk.Kind, enc), func(t *testing.T) {
				test(t, builtin(t, gvk, enc, seed))
			})
		}
	}
	for _, enc := range []Encoding{JSON, Protobuf} {
		t.Run(fmt.Sprintf("PartialObjectMetadata/%s", enc), func(t *testing.T) {
			test(t, partial(t, enc, seed))
		})
	}
	t.Run("custom", func(t *testing.T) { test(t, custom(seed)) })
}

// listKinds returns every kind of the client's scheme that has a list.
func listKinds() []schema.GroupVersionKind {
	var kinds []schema.GroupVersionKind
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		_, isObject := reflect.New(typ).Interface().(metav1.Object)
		if isObject && gvk.Version != runtime.APIVersionInternal &&
			scheme.Scheme.Recognizes(gvk.GroupVersion().WithKind(gvk.Kind+"List")) {
			kinds = append(kinds, gvk)
		}
	}
	sort.Slice(kinds, func(i, j int) bool { return kinds[i].String() < kinds[j].String() })
	return kinds
}

func codecs(s *runtime.Scheme) serializer.CodecFactory {
	return serializer.NewCodecFactory(s, serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf())
}

func typedServer(t testing.TB, s *runtime.Scheme, gvk schema.GroupVersionKind, enc Encoding, seed uint64) server {
	t.Helper()
	factory := codecs(s)
	info, ok := runtime.SerializerInfoForMediaType(factory.SupportedMediaTypes(), enc.MediaType())
	if !ok {
		t.Fatalf("no serializer for %s", enc.MediaType())
	}
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, source{rand.NewPCG(seed, 0)}, factory)
	srv := server{
		enc:    enc,
		object: factory.EncoderForVersion(info.Serializer, gvk.GroupVersion()),
		event:  factory.EncoderForVersion(info.StreamSerializer.Serializer, gvk.GroupVersion()),
		framer: info.StreamSerializer.Framer,
		tm:     TypeMeta{gvk.GroupVersion().String(), gvk.Kind},
	}
	srv.empty = func() runtime.Object {
		obj, err := s.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
	srv.newObject = func(n int) runtime.Object {
		obj := srv.empty()
		fill.Fill(obj)
		name(t, obj, n)
		return obj
	}
	srv.newList = func(objects []runtime.Object, m ListMeta) runtime.Object {
		list, err := s.New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err != nil {
			t.Fatal(err)
		}
		if err := meta.SetList(list, objects); err != nil {
			t.Fatal(err)
		}
		setListMeta(t, list, m)
		return list
	}
	return srv
}

// builtin is the server of a kind of k8s.io/api.
func builtin(t testing.TB, gvk schema.GroupVersionKind, enc Encoding, seed uint64) server {
	return typedServer(t, scheme.Scheme, gvk, enc, seed)
}

// partial is the server of any kind as PartialObjectMetadata.
func partial(t testing.TB, enc Encoding, seed uint64) server {
	s := typedServer(t, metainternalscheme.Scheme, metav1.SchemeGroupVersion.WithKind(partialKind), enc, seed)
	fill := s.newObject
	gvk := metav1.SchemeGroupVersion.WithKind(partialKind)
	s.newObject = func(n int) runtime.Object {
		obj := fill(n)
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		return obj
	}
	empty := s.empty
	s.empty = func() runtime.Object {
		obj := empty()
		obj.GetObjectKind().SetGroupVersionKind(gvk)
		return obj
	}
	newList := s.newList
	s.newList = func(objects []runtime.Object, m ListMeta) runtime.Object {
		list := newList(objects, m)
		if len(objects) == 0 { // the API server appends to nothing
			list.(*metav1.PartialObjectMetadataList).Items = nil
		}
		return list
	}
	return s
}

// custom is the server of a custom resource, whose list kind is not its kind with List behind it.
func custom(seed uint64) server {
	gvk := schema.GroupVersionKind{Group: "stable.example.com", Version: "v1beta1", Kind: "Ox"}
	// Its encoder converts nothing.
	plain := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, nil, nil, kjson.SerializerOptions{StreamingCollectionsEncoding: true})
	random := rand.New(rand.NewPCG(seed, 0))
	s := server{
		enc: JSON, object: plain, event: plain, framer: kjson.Framer,
		tm: TypeMeta{gvk.GroupVersion().String(), gvk.Kind},
	}
	s.empty = func() runtime.Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		return u
	}
	s.newObject = func(n int) runtime.Object {
		u := s.empty().(*unstructured.Unstructured)
		u.SetName(fmt.Sprintf("ox-%d", n))
		u.SetNamespace("farm <&> \u2028 \"field\" ünï")
		u.SetUID("5f9d4bba")
		u.SetResourceVersion(fmt.Sprint(random.IntN(1 << 30)))
		u.SetAnnotations(map[string]string{"a\\b": "{\"kind\":\"Cow\",\"items\":[]}\n"})
		u.Object["Before"] = "everything that is lower case"
		u.Object["spec"] = map[string]any{
			"weight": random.Float64(), "legs": int64(4), "herd": nil, "tags": []any{"a", true, map[string]any{}, []any{}},
			"metadata": map[string]any{"name": "no"}, "emoji": "🐂", "kind": "beast",
		}
		return u
	}
	s.newList = func(objects []runtime.Object, m ListMeta) runtime.Object {
		list := &unstructured.UnstructuredList{Object: map[string]any{}}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind("Oxen"))
		// As the storage sets them: continue always.
		list.SetResourceVersion(m.ResourceVersion)
		list.SetContinue(m.Continue)
		if m.RemainingItemCount != 0 {
			list.SetRemainingItemCount(&m.RemainingItemCount)
		}
		for _, obj := range objects {
			list.Items = append(list.Items, *obj.(*unstructured.Unstructured))
		}
		return list
	}
	return s
}

// source is a source of random numbers as the filler of objects wants it.
type source struct{ *rand.PCG }

func (s source) Int63() int64    { return int64(s.Uint64() >> 1) }
func (s source) Seed(seed int64) { s.PCG.Seed(uint64(seed), 0) }

// name gives an object what every stored object has.
func name(t testing.TB, obj runtime.Object, n int) {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	m.SetName(fmt.Sprintf("%s-%d", m.GetName(), n))
	if m.GetResourceVersion() == "" {
		m.SetResourceVersion("1")
	}
}

func setListMeta(t testing.TB, list runtime.Object, m ListMeta) {
	t.Helper()
	a, err := meta.ListAccessor(list)
	if err != nil {
		t.Fatal(err)
	}
	a.SetResourceVersion(m.ResourceVersion)
	a.SetContinue(m.Continue)
	if m.RemainingItemCount != 0 {
		a.SetRemainingItemCount(&m.RemainingItemCount)
	}
}

// metaOf returns what the wire is to find in an object.
func metaOf(t testing.TB, obj runtime.Object) Meta {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	return Meta{
		Namespace: m.GetNamespace(), Name: m.GetName(), UID: string(m.GetUID()), ResourceVersion: m.GetResourceVersion(),
		InitialEventsEnd: m.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true",
	}
}

// TestListKindsEndInList holds the rule by which the kind of a list's items is inferred.
func TestListKindsEndInList(t *testing.T) {
	lists := 0
	for gvk, typ := range scheme.Scheme.AllKnownTypes() {
		items, ok := typ.FieldByName("Items")
		if !ok || gvk.Version == runtime.APIVersionInternal || gvk.Kind == "List" || items.Type.Kind() != reflect.Slice {
			continue
		}
		if _, isList := reflect.New(typ).Interface().(metav1.ListInterface); !isList {
			continue
		}
		lists++
		kind, ok := strings.CutSuffix(gvk.Kind, "List")
		if !ok || !scheme.Scheme.Recognizes(gvk.GroupVersion().WithKind(kind)) || items.Type.Elem().Name() != kind {
			t.Errorf("%v is a list of %v", gvk, items.Type)
		}
	}
	if lists < 50 {
		t.Errorf("only %d lists in the scheme", lists)
	}
}

func setVersion(t testing.TB, obj runtime.Object, version string) {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	m.SetResourceVersion(version)
}

// annotate makes a bookmark the one that ends the initial events.
func annotate(t testing.TB, obj runtime.Object) {
	t.Helper()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
}
