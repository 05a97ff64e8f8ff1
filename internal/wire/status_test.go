package wire

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

func TestStatusIsTheServers(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	tooLarge := apierrors.NewTimeoutError("Too large resource version: 7, current: 5", 1).ErrStatus
	tooLarge.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
	tests := []struct {
		name   string
		status Status
		server metav1.Status
	}{
		{
			"expired",
			Status{Code: 410, Reason: "Expired", Message: "too old resource version: 1 (2)"},
			apierrors.NewResourceExpired("too old resource version: 1 (2)").ErrStatus,
		},
		{
			"not found",
			Status{Code: 404, Reason: "NotFound", Message: `pods "<a>" not found`, Details: &StatusDetails{Name: "<a>", Kind: "pods"}},
			apierrors.NewNotFound(pods, "<a>").ErrStatus,
		},
		{
			"too large",
			Status{
				Code: 504, Reason: "Timeout", Message: "Timeout: Too large resource version: 7, current: 5",
				Details: &StatusDetails{
					Causes:            []StatusCause{{Type: "ResourceVersionTooLarge", Message: "Too large resource version"}},
					RetryAfterSeconds: 1,
				},
			},
			tooLarge,
		},
		{
			"empty details",
			Status{Code: 504, Reason: "Timeout", Message: "Timeout: ", Details: &StatusDetails{}},
			apierrors.NewTimeoutError("", 0).ErrStatus,
		},
		{
			"success",
			Status{Code: 200, Details: &StatusDetails{Name: "a", Group: "apps", Kind: "deployments", UID: "u1"}},
			metav1.Status{Status: metav1.StatusSuccess, Code: 200, Details: &metav1.StatusDetails{Name: "a", Group: "apps", Kind: "deployments", UID: "u1"}},
		},
		{
			"cause with a field",
			Status{Code: 422, Details: &StatusDetails{Causes: []StatusCause{{"FieldValueInvalid", "no", "spec"}, {}}}},
			metav1.Status{Status: metav1.StatusFailure, Code: 422, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: "FieldValueInvalid", Message: "no", Field: "spec"}, {}}}},
		},
	}
	for _, tt := range tests {
		for _, enc := range []Encoding{JSON, Protobuf} {
			t.Run(tt.name+"/"+enc.String(), func(t *testing.T) {
				s := builtin(t, schema.GroupVersionKind{Version: "v1", Kind: "Status"}, enc, 1)
				body := s.encode(t, &tt.server)
				diffBytes(t, "body", body, AppendStatus(nil, enc, tt.status))
				event := s.watchEvent(t, watch.Error, &tt.server)
				diffBytes(t, "event", event, AppendErrorEvent(nil, enc, tt.status))

				item, tm, err := ParseObject(enc, body)
				if err != nil || !tm.IsStatus() {
					t.Fatalf("body is a %v: %v", tm, err)
				}
				checkStatus(t, enc, item, tt.status)
				ev, err := NewWatchDecoder(bytes.NewReader(event), enc, 1<<20).Next()
				if err != nil || ev.Type != Error || !ev.IsStatus() {
					t.Fatalf("event is %v of %v: %v", ev.Type, ev.TypeMeta, err)
				}
				checkStatus(t, enc, ev.Item, tt.status)
			})
		}
	}
}

func checkStatus(t *testing.T, enc Encoding, item Item, want Status) {
	t.Helper()
	got, err := ParseStatus(enc, item.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}
