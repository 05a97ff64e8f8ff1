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

// Token is one that the API server has issued for itself.
type Token struct {
	Token    string
	Pod, UID string // that it is bound to; empty: none
}

// Issued reads a token request and its answer. ok is false for a token that is
// for somebody else than the API server, and for what can't be read.
func Issued(w Write, a Answer) (token Token, ok bool) {
	if !Asked(w.Request) || w.Request.Subresource != "token" {
		return Token{}, false
	}
	asked, err := decodeToken(Answer{ContentType: w.MediaType, Body: w.Body})
	if err != nil || len(asked.Spec.Audiences) > 0 {
		return Token{}, false
	}
	issued, err := decodeToken(a)
	if err != nil || issued.Status.Token == "" {
		return Token{}, false
	}
	token.Token = issued.Status.Token
	if bound := issued.Spec.BoundObjectRef; bound != nil && bound.Kind == "Pod" {
		token.Pod, token.UID = bound.Name, string(bound.UID)
	}
	return token, true
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
