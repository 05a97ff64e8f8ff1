package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"yurt/internal/offline"
	"yurt/internal/wire"
)

// retell answers a client that reads JSON from what is known in protobuf: the
// kubelet and kube-proxy keep most of what a node has in that, and people ask
// in JSON. It is the last resort, in the dark, and for kinds whose Go types the
// hub knows; fields that these lack are lost. That is the one exception to
// "bytes in, bytes out". It is false if there is nothing to tell.
func (x *exchange) retell() bool {
	if !x.splittable || x.representation != (wire.Representation{}) || !x.away() {
		return false
	}
	for _, preference := range []wire.Preference{wire.OnlyProtobuf, wire.ProtobufOrJSON} {
		other := *x
		other.representation.Preference = preference
		body, at, ok := other.told()
		if !ok {
			continue
		}
		body, err := inJSON(body)
		if err != nil {
			x.Logger.Debug("what is known in protobuf can't be told in JSON", "path", x.r.URL.Path, "error", err)
			continue
		}
		x.stale(at)
		x.reply(offline.Reply{Code: http.StatusOK, ContentType: wire.ContentType(wire.JSON, false), Body: body})
		return true
	}
	return false
}

// told returns the body of what is known, and how fresh it is.
func (x *exchange) told() (body []byte, at time.Time, ok bool) {
	k, known := x.known()
	c := x.listed()
	switch {
	case c != nil && c.Denied() != nil:
		return nil, time.Time{}, false
	case c != nil && (!known || c.Revision() >= k.Revision):
		list := listRecorder{header: http.Header{}}
		err := c.List(&list, x.filters)
		return list.body.Bytes(), c.FreshAt(), err == nil
	}
	return x.shown(k.Answer).Body, k.At, known && !k.absent
}

// listRecorder takes in the list of a collection.
type listRecorder struct {
	header http.Header
	body   bytes.Buffer
}

// Header is that of the list, which nobody reads.
func (l *listRecorder) Header() http.Header { return l.header }

// WriteHeader has nothing to record.
func (l *listRecorder) WriteHeader(int) {}

func (l *listRecorder) Write(b []byte) (int, error) { return l.body.Write(b) }

// inJSON tells an object or a list in JSON that is in protobuf.
func inJSON(body []byte) ([]byte, error) {
	item, tm, err := wire.ParseObject(wire.Protobuf, body)
	if err == nil {
		if item.Raw, err = itemInJSON(tm, item.Raw); err == nil {
			return append(wire.AppendObject(nil, wire.JSON, tm, item.Raw), '\n'), nil
		}
	}
	var items [][]byte
	list, err := wire.ReadList(bytes.NewReader(body), wire.Protobuf, len(body)+1, func(item wire.Item) error {
		items = append(items, bytes.Clone(item.Raw))
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := wire.NewListWriter(&out, wire.JSON, list.Envelope, wire.ListMeta{ResourceVersion: list.ResourceVersion}, 0)
	for _, raw := range items {
		told, err := itemInJSON(list.Envelope.Item, raw)
		if err != nil {
			return nil, err
		}
		if err := w.WriteItem(told); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func itemInJSON(tm wire.TypeMeta, raw []byte) ([]byte, error) {
	object := typed(tm)
	if object == nil {
		return nil, fmt.Errorf("%s %s is of no type that is known here", tm.APIVersion, tm.Kind)
	}
	if err := object.Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("read %s: %w", tm.Kind, err)
	}
	return json.Marshal(object)
}

// typed returns an empty object of the kinds that a node keeps in protobuf, nil
// for others.
func typed(tm wire.TypeMeta) interface{ Unmarshal([]byte) error } {
	switch tm {
	case wire.TypeMeta{APIVersion: "v1", Kind: "Pod"}:
		return &corev1.Pod{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "Node"}:
		return &corev1.Node{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "Service"}:
		return &corev1.Service{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}:
		return &corev1.ConfigMap{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "Secret"}:
		return &corev1.Secret{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "Namespace"}:
		return &corev1.Namespace{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}:
		return &corev1.ServiceAccount{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}:
		return &corev1.PersistentVolume{}
	case wire.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}:
		return &corev1.PersistentVolumeClaim{}
	case wire.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}:
		return &discoveryv1.EndpointSlice{}
	}
	return nil
}
