package semantics

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubectl runs the stock kubectl against an address, and returns all that it
// prints.
func (s *site) kubectl(t *testing.T, server, ca string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	argv := append([]string{"--server=" + server, "--certificate-authority=" + ca, "--token=" + s.tokens[administrator],
		"--cache-dir=" + filepath.Join(t.TempDir(), "cache")}, args...)
	cmd := exec.CommandContext(ctx, s.Program("kubectl"), argv...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

// watching is a kubectl that prints events until the test ends.
type watching struct {
	mu    sync.Mutex
	holds map[string]string // by name: the version of the newest event, unless that was a deletion
	ended error
}

func (s *site) kubectlWatch(t *testing.T, n *node, namespace string) *watching {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, s.Program("kubectl"), "--server="+n.endpoint().url, "--certificate-authority="+n.caFile(), "--token="+s.tokens[administrator],
		"--cache-dir="+filepath.Join(t.TempDir(), "cache"), "get", "configmaps", "--namespace="+namespace, "--watch", "--output-watch-events", "--output=json")
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	w := &watching{holds: map[string]string{}}
	var reading sync.WaitGroup
	reading.Go(func() { w.read(json.NewDecoder(out)) })
	t.Cleanup(func() {
		cancel()
		reading.Wait()
		_ = cmd.Wait() // it was killed
	})
	return w
}

func (w *watching) read(events *json.Decoder) {
	for {
		var e struct {
			Type   string
			Object metav1.PartialObjectMetadata
		}
		err := events.Decode(&e)
		w.mu.Lock()
		switch {
		case err != nil:
			w.ended = err
		case e.Type == "DELETED":
			delete(w.holds, e.Object.Name)
		default:
			w.holds[e.Object.Name] = e.Object.ResourceVersion
		}
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// has tells how what kubectl has printed differs from what it should have.
func (w *watching) has(want map[string]string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return fmt.Errorf("kubectl has ended: %w", w.ended)
	}
	return same(want, w.holds)
}

// withoutTimes replaces how old something is, which is a second more the next
// time, and makes columns as wide as they must be.
func withoutTimes(out string) string {
	out = regexp.MustCompile(`\b\d+[dhms](\d+[hms])?\b`).ReplaceAllString(out, "AGE")
	return regexp.MustCompile(` +`).ReplaceAllString(out, " ")
}

// TestKubectlCannotTell: what kubectl prints is the same by the hub and by the
// API server. In the dark it prints the same, of what was asked for before,
// where it takes objects; where it takes the API server's tables it prints
// names and ages.
func TestKubectlCannotTell(t *testing.T) {
	s, n := shared, newNode(t)
	direct := s.newLink(t).url()
	shop := "--namespace=shop"
	commands := [][]string{
		{"get", "configmaps", shop, "-o", "yaml"},
		{"get", "configmaps", shop, "-o", "json"},
		{"get", "configmaps", shop, "-o", "name"},
		{"get", "configmap", "m00", shop, "-o", "json"},
		{"get", "configmaps", shop, "-l", "app=a", "-o", "name"},
		{"get", "configmaps", shop, "--field-selector=metadata.name=m03", "-o", "name"},
		{"get", "mice", shop, "-o", "yaml"},
		{"get", "pods,configmaps", shop, "-o", "name"},
		{"get", "pods", "--all-namespaces", "-o", "jsonpath={.items[*].metadata.name}"},
		{"get", "secrets", "--namespace=empty", "-o", "json"},
		{"api-resources"},
		{"api-versions"},
	}
	tables := [][]string{
		{"get", "configmaps", shop},
		{"get", "configmap", "m00", shop},
		{"get", "mice", shop},
	}
	online := [][]string{
		{"get", "configmap", "none", shop, "-o", "json"},
		{"get", "configmaps", shop, "--chunk-size=5"},
		{"get", "pods", shop, "-o", "wide"},
		{"describe", "configmap", "m00", shop},
		{"describe", "pod", "on-n1", shop},
		{"explain", "pod.spec.containers.image"},
		{"auth", "can-i", "--list", shop},
		{"get", "--raw", "/version"},
		{"version"},
	}
	printed := map[string]string{}
	for _, args := range slices.Concat(commands, tables, online) {
		line := strings.Join(args, " ")
		want := s.kubectl(t, direct, filepath.Join(s.dir, "ca.crt"), args...)
		got := s.kubectl(t, n.endpoint().url, n.caFile(), args...)
		if diff := cmp.Diff(withoutTimes(want), withoutTimes(got)); diff != "" {
			t.Errorf("kubectl %s (-API server +hub):\n%s", line, diff)
		}
		printed[line] = want
	}
	n.darken()
	for _, args := range commands {
		line := strings.Join(args, " ")
		got := withoutWarning(s.kubectl(t, n.endpoint().url, n.caFile(), args...))
		if diff := cmp.Diff(printed[line], got); diff != "" {
			t.Errorf("in the dark, kubectl %s (-before +now):\n%s", line, diff)
		}
	}
	for _, args := range tables {
		line := strings.Join(args, " ")
		got := withoutWarning(s.kubectl(t, n.endpoint().url, n.caFile(), args...))
		if want := nameColumn(printed[line]); nameColumn(got) != want || !strings.Contains(got, "AGE") {
			t.Errorf("in the dark, kubectl %s prints\n%s\nwant these names, with ages:\n%s", line, got, want)
		}
	}
}

// withoutWarning takes away what says that the hub has answered.
func withoutWarning(out string) string {
	return strings.ReplaceAll(out, "Warning: answered from the node's replica: the cloud is away\n", "")
}

// nameColumn is the first column of a table.
func nameColumn(out string) string {
	var names []string
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		names = append(names, name)
	}
	return strings.Join(names, "\n")
}
