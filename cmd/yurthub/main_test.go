package main

import (
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"yurthub": main})
}

// TestScripts tells the command line. A script finds a kubeconfig in
// $WORK/kubeconfig, whose API server is there, and free ports in $ADMIN, $SECURE
// and $PLAIN. Beside testscript's commands it has
//
//	await          wait until the hub on $ADMIN is ready
//	await FILE RE  wait until a line of the file matches
//	signal TERM    send a signal to all hubs in the background
//	hold URL       begin a request and leave its answer unread to the end
//	within 2s      fail if the last signal was sent longer ago
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await": func(ts *testscript.TestScript, _ bool, args []string) {
				if len(args) == 2 {
					awaitLine(ts, args[0], args[1])
					return
				}
				await(ts)
			},
			"hold": func(ts *testscript.TestScript, _ bool, args []string) { hold(ts, args[0]) },
			"signal": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, cmd := range ts.BackgroundCmds() {
					ts.Check(cmd.Process.Signal(map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": os.Interrupt, "HUP": syscall.SIGHUP}[args[0]]))
				}
				ts.Setenv("CLOCK", time.Now().Format(time.RFC3339Nano))
			},
			"within": func(ts *testscript.TestScript, _ bool, args []string) {
				began, err := time.Parse(time.RFC3339Nano, ts.Getenv("CLOCK"))
				ts.Check(err)
				limit, err := time.ParseDuration(args[0])
				ts.Check(err)
				if took := time.Since(began); took > limit {
					ts.Fatalf("took %s", took)
				}
			},
		},
	})
}

// setup starts an API server and finds free ports.
func setup(env *testscript.Env) error {
	stop, err := serveAPI(env.WorkDir)
	if err != nil {
		return err
	}
	env.Defer(stop)
	for _, name := range []string{"ADMIN", "SECURE", "PLAIN"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return err
		}
		env.Setenv(name, port)
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// serveAPI is an API server whose collections are empty and whose watches don't
// end. It writes a kubeconfig into dir.
func serveAPI(dir string) (stop func(), err error) {
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Has("watch") {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return
		}
		fmt.Fprint(w, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[]}`)
	}))
	api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	api.StartTLS()
	stop = func() { api.CloseClientConnections(); api.Close() }
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca, 0o600); err != nil {
		return stop, err
	}
	return stop, os.WriteFile(filepath.Join(dir, "kubeconfig"), fmt.Appendf(nil, `
clusters: [{name: c, cluster: {server: %q, certificate-authority: ca.pem}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
`, api.URL), 0o600)
}

func await(ts *testscript.TestScript) {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://127.0.0.1:" + ts.Getenv("ADMIN") + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(end) {
			ts.Fatalf("the hub is not ready: %v", err)
		}
	}
}

func awaitLine(ts *testscript.TestScript, file, pattern string) {
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text := ts.ReadFile(file)
		if re.MatchString(text) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no line of %s matches %s:\n%s", file, pattern, text)
		}
	}
}

func hold(ts *testscript.TestScript, url string) {
	resp, err := http.Get(url)
	ts.Check(err)
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body)
		ts.Fatalf("%s: %s", resp.Status, body)
	}
	ts.Defer(func() { resp.Body.Close() })
}
