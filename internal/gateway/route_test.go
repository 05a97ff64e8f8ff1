package gateway

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"yurt/internal/request"
	"yurt/internal/wire"
)

// TestRoute reads requests, a line each (method, URL, Accept), and prints the
// path that each takes.
func TestRoute(t *testing.T) {
	datadriven.RunTest(t, "testdata/route", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		for line := range strings.Lines(d.Input) {
			method, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			target, accept, _ := strings.Cut(rest, " ")
			r := httptest.NewRequest(method, target, http.NoBody)
			if strings.HasPrefix(accept, "Upgrade") {
				r.Header.Set("Upgrade", "websocket")
			} else {
				r.Header.Set("Accept", accept)
			}
			representation, splittable := wire.Negotiate(r.Header.Get("Accept"))
			fmt.Fprintln(&out, decide(request.Parse(r), representation, splittable))
		}
		return out.String()
	})
}
