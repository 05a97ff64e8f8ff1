package offline

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"yurt/internal/credential"
	"yurt/internal/wire"
)

// dropTokens forgets the tokens of w's client that nobody needs: they have
// expired, and the pod that they are bound to is not known any more, or another
// one has its name. A token of a pod that is known is kept however old it is:
// the cloud may go away at any moment.
func (d *Desk) dropTokens(ctx context.Context, w Write) error {
	var gone []string
	for _, question := range d.Answers.Questions(fmt.Sprintf("%q ", w.Credential.Identity.Name)) {
		if !strings.Contains(question, "/serviceaccounts/") {
			continue
		}
		a, ok := d.Answers.Recall(question)
		if !ok {
			continue
		}
		issued, err := decodeToken(a)
		if err == nil && issued.Status.ExpirationTimestamp.Time.Before(time.Now()) && d.podGone(w.Credential.Identity, issued, w.Answer) {
			gone = append(gone, question)
		}
	}
	return d.Answers.Forget(ctx, gone...)
}

// podGone tells whether a token is bound to a pod that is not known.
func (d *Desk) podGone(identity credential.Identity, issued *authenticationv1.TokenRequest, encoding wire.Encoding) bool {
	bound := issued.Spec.BoundObjectRef
	if bound == nil || bound.Kind != "Pod" {
		return false
	}
	body, ok := d.Objects.Known(identity, pods, issued.Namespace, bound.Name, encoding)
	if !ok {
		return true
	}
	item, _, err := wire.ParseObject(encoding, body)
	return err == nil && item.UID != string(bound.UID)
}

// decodeToken reads the answer to a token request.
func decodeToken(a Answer) (*authenticationv1.TokenRequest, error) {
	encoding, _ := wire.ParseContentType(a.ContentType) // another one is not read
	item, _, err := wire.ParseObject(encoding, a.Body)
	if err != nil {
		return nil, err
	}
	var issued authenticationv1.TokenRequest
	if encoding == wire.JSON {
		return &issued, json.Unmarshal(item.Raw, &issued)
	}
	return &issued, issued.Unmarshal(item.Raw)
}
