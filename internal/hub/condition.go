package hub

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"yurt/internal/condition"
)

// maxSkew is how far the node's clock may be from the API server's: certificates
// and leases bear minutes, not more.
const maxSkew = 5 * time.Minute

// condition tells the cloud of what is wrong with the node.
func (h *Hub) condition() *condition.Publisher {
	clock := h.grants.Reviewer.Clock
	return &condition.Publisher{
		Node: h.node, Upstream: h.pool, Problem: h.problem, Logger: h.log,
		Heard: func(resp *http.Response) {
			h.grants.Reviewer.NoteNode(resp.StatusCode)
			if err := clock.Note(context.Background(), resp); err != nil { // it ends with the store
				h.log.Warn("a clock that is set back may revive tokens that have expired", "error", err)
			}
		},
	}
}

// problem is the first thing that is wrong.
func (h *Hub) problem() *condition.Problem {
	if err := h.ready(); err != nil {
		return &condition.Problem{Reason: "StoreFails", Message: err.Error()}
	}
	if text := h.credential(time.Now()).Problem; text != "" {
		return &condition.Problem{Reason: "CredentialInvalid", Message: text}
	}
	switch skew := h.grants.Reviewer.Clock.Skew(); {
	case skew > maxSkew:
		return &condition.Problem{Reason: "ClockWrong", Message: fmt.Sprintf("the node's clock is more than %s ahead of the API server's", maxSkew)}
	case skew < -maxSkew:
		return &condition.Problem{Reason: "ClockWrong", Message: fmt.Sprintf("the node's clock is more than %s behind the API server's", maxSkew)}
	}
	return nil
}
