// Package admin serves the hub's own port: /livez, /readyz, /metrics and
// /status, the last as text for people and as JSON for who asks for it. It shows
// what it is told and decides nothing; it carries no object and no secret.
package admin

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"yurt/internal/adminapi"
)

// Handler serves the admin port. status makes the document; ready says why the
// hub can't serve, or nil. Being cut off from the cloud is no reason.
func Handler(status func() adminapi.Status, ready func() error, metrics prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		text(w, http.StatusOK, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET "+adminapi.StatusPath, func(w http.ResponseWriter, r *http.Request) {
		// Programs say what they read; a person with curl or a browser does not.
		if !strings.Contains(r.Header.Get("Accept"), "json") {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_ = writeText(w, status(), time.Now()) // a reader that has gone does not need it
			return
		}
		w.Header().Set("Content-Type", "application/json")
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		_ = encoder.Encode(status()) // a reader that has gone does not need it
	})
	return mux
}

func text(w http.ResponseWriter, code int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body + "\n"))
}

// ProcessStatus reads what this process takes of the machine. Where /proc does
// not say it, the figure is 0.
func ProcessStatus() adminapi.Process {
	p := adminapi.Process{PID: os.Getpid(), Goroutines: runtime.NumGoroutine()}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return p
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(line, ":")
		kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			p.ResidentBytes = kilobytes << 10
		case "RssAnon":
			p.AnonymousBytes = kilobytes << 10
		case "VmHWM":
			p.PeakBytes = kilobytes << 10
		}
	}
	return p
}
