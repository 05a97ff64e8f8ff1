package semantics

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A probe is one request of the corpus in one form.
type probe struct {
	line       int
	method     string // WATCH and PAGES are GETs of a kind
	path, form string
	by         string
	body       string
	code       int    // of the API server's answer
	dark       string // what the hub owes while the cloud is away
	may        string // another code that the hub may answer
}

func (p probe) String() string {
	s := fmt.Sprintf("corpus.txt:%d: %s %s form=%s by=%s", p.line, p.method, p.path, p.form, p.by)
	if p.body != "" {
		s += " body=" + p.body
	}
	return s
}

// forms are the Accept headers of the corpus.
func forms() map[string]string {
	const (
		protobuf = "application/vnd.kubernetes.protobuf"
		meta     = ";as=PartialObjectMetadata%s;g=meta.k8s.io;v=v1"
		table    = ";as=Table;g=meta.k8s.io;v=v1"
	)
	return map[string]string{
		"json": "application/json", "proto": protobuf, "both": protobuf + ",application/json", "any": "*/*",
		"gzip": "application/json", "yaml": "application/yaml", "xml": "application/xml", "pretty": "application/json;pretty=1",
		"v1.37": protobuf + ",application/json;q=0.9,*/*;q=0.1",
		"meta":  "application/json" + meta, "meta-proto": protobuf + meta,
		"table":         "application/json" + table + ",application/json;as=Table;g=meta.k8s.io;v=v1beta1,application/json",
		"discovery":     "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
		"discovery-old": "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
		"openapi":       "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
	}
}

// accept is the header of a probe.
func (p probe) accept() string {
	header := forms()[p.form]
	if !strings.Contains(header, "%s") {
		return header
	}
	path, _, _ := strings.Cut(p.path, "?")
	segments := strings.Split(strings.Trim(path, "/"), "/")
	plural := map[string]bool{"configmaps": true, "secrets": true, "mice": true, "gnu": true, "deployments": true, "namespaces": true}
	list := ""
	if p.method != "WATCH" && plural[segments[len(segments)-1]] {
		list = "List"
	}
	return fmt.Sprintf(header, list)
}

// readCorpus reads the corpus; variables stand for what is only known now.
func readCorpus(t *testing.T, variables map[string]string) []probe {
	t.Helper()
	data, err := os.ReadFile("testdata/corpus.txt")
	must(t, err)
	text := string(data)
	var probes []probe
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for name, value := range variables {
			line = strings.ReplaceAll(line, "${"+name+"}", value)
		}
		ofLine, err := parseProbes(n+1, line)
		if err != nil {
			t.Fatalf("corpus.txt:%d: %v", n+1, err)
		}
		probes = append(probes, ofLine...)
	}
	return probes
}

func parseProbes(number int, line string) ([]probe, error) {
	line, body, _ := strings.Cut(line, " body=")
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, errors.New("want a method and a path")
	}
	p := probe{line: number, method: fields[0], path: fields[1], form: "json", by: administrator, body: body, code: 200, dark: "same"}
	var err error
	for _, option := range fields[2:] {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "form":
			p.form = value
		case "by":
			p.by = value
		case "dark":
			p.dark = value
		case "may":
			p.may = value
		case "code":
			if p.code, err = strconv.Atoi(value); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("option %q is not known", key)
		}
	}
	if strings.Contains(p.path, "${") {
		return nil, errors.New("unknown variable")
	}
	var probes []probe
	for form := range strings.SplitSeq(p.form, ",") {
		if _, ok := forms()[form]; !ok {
			return nil, fmt.Errorf("form %q is not known", form)
		}
		p.form = form
		probes = append(probes, p)
	}
	return probes, nil
}

// watchSeconds is how long a watch of the corpus lasts.
const watchSeconds = 3

// ask sends the probe to where it points and returns what a client gets to see.
func (p probe) ask(ctx context.Context, tokens map[string]string, at endpoint) (answer, error) {
	switch p.method {
	case "WATCH":
		path := addQuery(p.path, "watch=1")
		if !strings.Contains(path, "timeoutSeconds") {
			path = addQuery(path, "timeoutSeconds="+strconv.Itoa(watchSeconds))
		}
		return p.send(ctx, tokens, at, http.MethodGet, path)
	case "PAGES":
		return p.pages(ctx, tokens, at)
	}
	return p.send(ctx, tokens, at, p.method, p.path)
}

func addQuery(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}

// pages joins all pieces of a list.
func (p probe) pages(ctx context.Context, tokens map[string]string, at endpoint) (answer, error) {
	var all answer
	for next, n := p.path, 0; ; n++ {
		a, err := p.send(ctx, tokens, at, http.MethodGet, next)
		if err != nil || a.Code != http.StatusOK {
			return a, err
		}
		token := listMeta(a.Header.Get("Content-Type"), a.Body).Continue
		a, err = a.normalize(false)
		if err != nil {
			return a, err
		}
		all.Code, all.Header = a.Code, a.Header
		all.Body = append(all.Body, a.Body...)
		if token == "" {
			return all, nil
		}
		next = addQuery(p.path, "continue="+token)
	}
}

func (p probe) send(ctx context.Context, tokens map[string]string, at endpoint, method, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, at.url+path, strings.NewReader(p.body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Accept", p.accept())
	if p.form == "gzip" {
		r.Header.Set("Accept-Encoding", "gzip")
	}
	if p.body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	token, ok := tokens[p.by]
	if !ok {
		token = "a token of nobody"
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := at.http.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	return read(resp)
}

// get is ask, with what may differ taken away.
func (p probe) get(ctx context.Context, tokens map[string]string, at endpoint) (answer, error) {
	a, err := p.ask(ctx, tokens, at)
	if err != nil || p.method == "PAGES" {
		return a, err
	}
	return a.normalize(p.method == "WATCH")
}

// each runs do for every probe, some at a time: a watch of three seconds needs
// no processor. What do returns is a failure of its probe.
func each(t *testing.T, pass string, probes []probe, do func(probe) string) {
	t.Helper()
	var running sync.WaitGroup
	slots := make(chan struct{}, 12)
	begun := time.Now()
	for _, p := range probes {
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if failure := do(p); failure != "" {
				t.Errorf("%s: %s\n%s", pass, p, failure)
			}
		})
	}
	running.Wait()
	t.Logf("%s: %d requests in %s", pass, len(probes), time.Since(begun).Round(time.Second))
}

// corpus is the probes, and what the API server answered to each.
type corpus struct {
	site   *site
	node   *node
	probes []probe
	direct endpoint

	mu   sync.Mutex
	want map[probe]answer
}

// compare asks both for everything, at the same time. If patience is not 0,
// the hub has that long to catch up.
func (c *corpus) compare(t *testing.T, pass string, patience time.Duration) {
	t.Helper()
	hub := c.node.endpoint()
	each(t, pass, c.probes, func(p probe) string {
		deadline := time.Now().Add(patience)
		for {
			want, err := p.get(t.Context(), c.site.tokens, c.direct)
			if err != nil {
				return fmt.Sprintf("ask the API server: %v", err)
			}
			if want.Code != p.code {
				return fmt.Sprintf("the API server itself answers %d, and this line says %d: %.500s", want.Code, p.code, want.Body)
			}
			c.mu.Lock()
			c.want[p] = want
			c.mu.Unlock()
			got, err := p.get(t.Context(), c.site.tokens, hub)
			if err != nil {
				return fmt.Sprintf("ask the hub: %v", err)
			}
			failure := difference(want, got)
			if p.may != "" && got.says(p.may) {
				failure = ""
			}
			if failure == "" || time.Now().After(deadline) {
				return failure
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

// says tells whether a watch is refused, or ends, with an error of this code.
func (a answer) says(code string) bool {
	expired := len(a.Events) == 1 && a.Events[0].Type == "ERROR" && bytes.Contains(a.Events[0].Object, []byte(`Expired`))
	return strconv.Itoa(a.Code) == code || expired && code == "410"
}

// dark asks the hub alone, which must answer as it did when the cloud was there,
// or say why it can't.
func (c *corpus) dark(t *testing.T, pass string, restarted bool) {
	t.Helper()
	hub := c.node.endpoint()
	each(t, pass, c.probes, func(p probe) string {
		if p.dark == "skip" {
			return ""
		}
		if p.dark == "404" && restarted {
			p.dark = "503" // an absence is proven by who has followed the cloud to the end
		}
		got, err := p.get(t.Context(), c.site.tokens, hub)
		if err != nil {
			return err.Error()
		}
		want, ok := c.owed(p)
		if !ok {
			return status(p, got)
		}
		for _, name := range staleHeaders() {
			got.Header.Del(name)
		}
		if p.may != "" && got.says(p.may) {
			return ""
		}
		return difference(want, got)
	})
}

// owed is the answer that a probe gets in the dark, if that is not an error.
func (c *corpus) owed(p probe) (answer, bool) {
	switch p.dark {
	case "same":
	case "json":
		p = c.find(probe{method: p.method, path: p.path, form: "json", by: p.by})
	case "whole":
		p.method = http.MethodGet // PAGES
		path, _, _ := strings.Cut(p.path, "?")
		if _, selector, ok := strings.Cut(p.path, "labelSelector="); ok {
			selector, _, _ = strings.Cut(selector, "&")
			path += "?labelSelector=" + selector
		}
		p = c.find(probe{method: p.method, path: path, form: p.form, by: p.by})
	default:
		return answer{}, false
	}
	a := c.want[p]
	a.Header = a.Header.Clone()
	for _, name := range staleHeaders() {
		a.Header.Del(name)
	}
	return a, true
}

func (c *corpus) find(like probe) probe {
	i := slices.IndexFunc(c.probes, func(p probe) bool {
		return p.method == like.method && p.path == like.path && p.form == like.form && p.by == like.by
	})
	if i < 0 {
		return probe{}
	}
	return c.probes[i]
}

// status checks that an answer is a Status with the code that is owed.
func status(p probe, a answer) string {
	if strconv.Itoa(a.Code) != p.dark {
		return fmt.Sprintf("answers %d, want %s: %.300q", a.Code, p.dark, a.Body)
	}
	if a.Events != nil {
		return "answers a stream"
	}
	if p.method == http.MethodHead {
		return "" // it has no body
	}
	var s metav1.Status
	err := json.Unmarshal(a.Raw, &s)
	if a.Header.Get("Content-Type") == "application/vnd.kubernetes.protobuf" {
		err = decodeProtobuf(a.Raw, &s)
	}
	if len(a.Raw) == 0 || err != nil {
		return fmt.Sprintf("answers %d without a Status: %v: %.300q", a.Code, err, a.Raw)
	}
	if int(s.Code) != a.Code || s.Status != metav1.StatusFailure || s.Reason == "" {
		return fmt.Sprintf("answers %d with %+v", a.Code, s)
	}
	return ""
}

// TestTheClientCannotTell sends the whole corpus to the API server and to the
// hub: when the hub knows nothing yet; when it knows all; while the cloud is
// away; after a restart in the dark; and when the cloud is back and much has
// changed meanwhile.
func TestTheClientCannotTell(t *testing.T) {
	s, n := shared, newNode(t)
	c := &corpus{site: s, node: n, direct: s.direct(t), want: map[probe]answer{}}
	c.probes = readCorpus(t, s.variables(t))
	if len(c.probes) < 200 {
		t.Errorf("%d requests are few", len(c.probes))
	}
	c.compare(t, "cold", 0)
	c.compare(t, "known", 0)
	n.darken()
	c.dark(t, "dark", false)
	n.restart()
	n.awaitLink("down")
	c.dark(t, "restarted in the dark", true)
	s.change(t)
	n.lighten()
	c.compare(t, "healed", 30*time.Second)
}

// variables makes a little history, and names its moments.
func (s *site) variables(t *testing.T) map[string]string {
	t.Helper()
	ctx := t.Context()
	old, err := s.revision(ctx)
	must(t, err)
	maps := s.client.CoreV1().ConfigMaps("shop")
	patch := func(name, value string) {
		_, err := maps.Patch(ctx, name, types.MergePatchType, fmt.Appendf(nil, `{"data":{"n":%q}}`, value), metav1.PatchOptions{})
		must(t, err)
	}
	patch("m05", "before the compaction")
	compacted, err := s.revision(ctx)
	must(t, err)
	must(t, s.compact(ctx, compacted))
	patch("m06", "after it")
	mid, err := s.revision(ctx)
	must(t, err)
	patch("m07", "later")
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m99", Labels: map[string]string{"of": "shop"}}}, metav1.CreateOptions{})
	must(t, err)
	must(t, maps.Delete(ctx, "m99", metav1.DeleteOptions{}))
	patch("m08", "last")
	now, err := s.revision(ctx)
	must(t, err)
	revision, err := strconv.ParseUint(now, 10, 64)
	must(t, err)
	list, err := maps.List(ctx, metav1.ListOptions{Limit: 5})
	must(t, err)
	return map[string]string{
		"old": old, "mid": mid, "now": now, "ahead": strconv.FormatUint(revision+1_000_000, 10), "continue": list.Continue,
	}
}

// change changes, makes and deletes in every collection that the corpus asks
// for, what it asks for by name aside.
func (s *site) change(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	for _, namespace := range []string{"shop", "shop-2", "shop2"} {
		maps := s.client.CoreV1().ConfigMaps(namespace)
		_, err := maps.Patch(ctx, "m03", types.MergePatchType, []byte(`{"data":{"n":"changed in the dark"}}`), metav1.PatchOptions{})
		must(t, err)
		err = maps.Delete(ctx, "m04", metav1.DeleteOptions{})
		if !apierrors.IsNotFound(err) {
			must(t, err)
		}
		_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "made-in-the-dark"}}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			must(t, err)
		}
	}
	_, err := s.dynamic.Resource(mice).Namespace("shop").Patch(ctx, "mouse-1", types.MergePatchType, []byte(`{"spec":{"color":"white"}}`), metav1.PatchOptions{})
	must(t, err)
	err = s.dynamic.Resource(mice).Namespace("shop").Delete(ctx, "mouse-2", metav1.DeleteOptions{})
	if !apierrors.IsNotFound(err) {
		must(t, err)
	}
	_, err = s.client.CoreV1().Secrets("shop").Patch(ctx, "key", types.MergePatchType, []byte(`{"data":{"k":"AAAA"}}`), metav1.PatchOptions{})
	must(t, err)
}

// decodeProtobuf reads a protobuf body as clients do.
func decodeProtobuf(body []byte, into interface{ Unmarshal([]byte) error }) error {
	unknown, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	if !ok {
		return errors.New("no protobuf of Kubernetes")
	}
	raw, err := rawOf(unknown)
	if err != nil {
		return err
	}
	return into.Unmarshal(raw)
}
