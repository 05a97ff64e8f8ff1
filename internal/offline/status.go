package offline

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"

	"yurt/internal/overlay"
	"yurt/internal/request"
	"yurt/internal/wire"
)

// holdStatus accepts what the kubelet says of a pod: clients see it from now
// on, and after the heal the kubelet says it to the API server.
func (d *Desk) holdStatus(ctx context.Context, w Write, outage Outage) Reply {
	q := w.Request
	if d.Overlay == nil {
		return Unavailable(w.Answer, outage, "")
	}
	body, ok := d.Objects.Known(w.Credential.Identity, q.Resource, q.Namespace, q.Name, w.Answer)
	if !ok {
		return Unavailable(w.Answer, outage, fmt.Sprintf("pod %s/%s is not known here", q.Namespace, q.Name))
	}
	pod, kind, err := wire.ParseObject(w.Answer, body)
	if err != nil {
		return Unavailable(w.Answer, outage, "read pod: "+err.Error())
	}
	shown, err := d.writeStatus(ctx, w, pod.Raw)
	switch {
	case err == nil:
		return objectReply(http.StatusOK, w.Answer, wire.AppendObject(nil, w.Answer, kind, shown))
	case errors.Is(err, overlay.ErrConflict):
		return StatusReply(w.Answer, wire.Status{
			Code: http.StatusConflict, Reason: "Conflict", Message: err.Error(),
			Details: &wire.StatusDetails{Name: q.Name, Kind: "pods"},
		})
	case errors.Is(err, overlay.ErrInvalid):
		return StatusReply(w.Answer, wire.Status{Code: http.StatusUnprocessableEntity, Reason: "Invalid", Message: err.Error()})
	case errors.Is(err, errEncoding):
		return unreadable(w, outage, err)
	}
	return Unavailable(w.Answer, outage, err.Error())
}

func (d *Desk) writeStatus(ctx context.Context, w Write, pod []byte) ([]byte, error) {
	if w.Request.Verb == request.Patch {
		mediaType, _, _ := mime.ParseMediaType(w.MediaType) // a malformed one is no patch
		if mediaType != "application/strategic-merge-patch+json" {
			return nil, errEncoding
		}
		return d.Overlay.Patch(ctx, w.Answer, pod, w.Body)
	}
	written, err := w.object()
	if err != nil {
		return nil, err
	}
	return d.Overlay.Replace(ctx, w.Answer, pod, w.Encoding, written.Raw)
}

// NotePodStatus learns from the answer to a write of a pod's status that the
// API server has it. Only the kubelet knows all of it: who else writes a
// condition gets the rest back as the cloud had it.
func (d *Desk) NotePodStatus(ctx context.Context, w Write, contentType string, body []byte) error {
	encoding, ok := wire.ParseContentType(contentType)
	if d.Overlay == nil || !ok || !isPodStatus(w.Request) || !d.isNode(w.Credential.Identity) {
		return nil
	}
	pod, _, err := wire.ParseObject(encoding, body)
	if err != nil {
		return fmt.Errorf("read pod: %w", err)
	}
	return d.Overlay.Report(ctx, encoding, pod.Raw)
}
