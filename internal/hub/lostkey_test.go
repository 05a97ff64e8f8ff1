package hub

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"yurt/internal/keyring"
)

// TestALostKeyLosesOnlyWhatItSealed: without the key the hub starts, says what is wrong, never says less than it knew, and
// is whole again when the cloud is there.
func TestALostKeyLosesOnlyWhatItSealed(t *testing.T) {
	s := newSite(t)
	const path = "/api/v1/namespaces/shop/configmaps?resourceVersion=0"
	list := func(h *Hub) (int, string) {
		c := secretClient{t: t, base: "http://" + h.plain.Addr().String()}
		code, body := c.do(http.MethodGet, path, "")
		return code, string(body)
	}
	await := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	h, stop := s.run()
	await("the collection is not listed", func() bool { code, body := list(h); return code == http.StatusOK && strings.Contains(body, `"x":"y"`) })
	sealing := h.Status().Store.Sealing
	if sealing.Key != "made here, beside the data" || sealing.KeyID == "" || sealing.Unopened != 0 || sealing.Reason != "" {
		t.Errorf("with its key: %+v", sealing)
	}
	stop()

	s.must(os.Rename(s.path("root/"+keyring.LocalFile), s.path("root/lost")))
	var log bytes.Buffer
	dark := func(c *Config) {
		c.Servers = []string{"https://127.0.0.1:1"}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}
	h, stop = s.runWith(dark)
	if code, body := list(h); code != http.StatusServiceUnavailable {
		t.Errorf("in the dark without the key: %d %s", code, body)
	}
	lost := h.Status().Store.Sealing
	if lost.Unopened == 0 || !strings.Contains(lost.Reason, sealing.KeyID) || lost.KeyID == sealing.KeyID {
		t.Errorf("without its key: %+v", lost)
	}
	stop()
	if n := strings.Count(log.String(), "records can't be opened"); n != 1 {
		t.Errorf("the log says %d times what is wrong:\n%s", n, log.String())
	}

	// The key is found again: nothing was lost meanwhile.
	found := func(c *Config) {
		dark(c)
		c.KeyFile = s.path("root/lost")
	}
	h, stop = s.runWith(found)
	if code, body := list(h); code != http.StatusOK || !strings.Contains(body, `"x":"y"`) {
		t.Errorf("in the dark with the key again: %d %s", code, body)
	}
	await("it is not sealed anew", func() bool { s := h.Status().Store.Sealing; return s.Pending == 0 && s.Unopened == 0 })
	stop()

	s.must(os.Remove(s.path("root/lost")))
	h, stop = s.run()
	defer stop()
	await("the collection does not heal", func() bool { code, body := list(h); return code == http.StatusOK && strings.Contains(body, `"x":"y"`) })
	healed := func() int {
		n := 0
		for _, c := range h.Status().Collections {
			if c.Populated {
				n++
			}
		}
		return n
	}
	await("the collection is not whole", func() bool { return healed() > 0 })
}
