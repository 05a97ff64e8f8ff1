package semantics

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// This file is the list of what may differ between the answers of an API server
// and of the hub to the same request. All else is compared byte for byte.

// freeHeaders are headers that say nothing of what was asked for.
func freeHeaders() []string {
	return []string{
		"Audit-Id", "Date", // of this one request
		"X-Kubernetes-Pf-Flowschema-Uid", "X-Kubernetes-Pf-Prioritylevel-Uid", // who was let through how, upstream
		"Content-Length", "Content-Encoding", "Vary", // how the bytes travel: they are compared unpacked
	}
}

// staleHeaders are those that an answer in the cloud's place has besides, or
// lacks: who caches answers must not take it for the present one.
func staleHeaders() []string {
	return []string{"Warning", "Age", "Cache-Control", "Etag", "Last-Modified", "Accept-Ranges"}
}

// answer is what a client got, without what may differ.
type answer struct {
	Code   int
	Header http.Header
	Raw    []byte // as it came, unpacked
	Body   []byte
	Events []event // of a watch
}

type event struct {
	Type   string
	Object []byte
}

// read takes in an answer to the end.
func read(resp *http.Response) (answer, error) {
	a := answer{Code: resp.StatusCode, Header: resp.Header.Clone()}
	body := io.Reader(resp.Body)
	if resp.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(resp.Body)
		if err != nil {
			return a, fmt.Errorf("read gzip: %w", err)
		}
		body = unpacked
	}
	for _, name := range freeHeaders() {
		a.Header.Del(name)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return a, fmt.Errorf("read answer: %w", err)
	}
	a.Raw, a.Body = data, data
	return a, nil
}

// normalize takes the events out of the body of a watch, and away what may
// differ in a body.
func (a answer) normalize(watch bool) (answer, error) {
	mediaType, _, _ := mime.ParseMediaType(a.Header.Get("Content-Type")) // none is compared, too
	if watch && a.Code == http.StatusOK {
		events, err := splitWatch(mediaType, a.Body)
		if err != nil {
			return a, err
		}
		a.Body, a.Events = nil, normalEvents(events)
		return a, nil
	}
	a.Body = normalBody(mediaType, a.Body)
	return a, nil
}

// normalBody: the version of a list is that of the moment; a continue token
// names it; and errors name the version that the server is at.
func normalBody(mediaType string, body []byte) []byte {
	if mediaType == "application/vnd.kubernetes.protobuf" {
		return normalProtobuf(body)
	}
	meta := listMeta(mediaType, body)
	if meta.ResourceVersion != "" {
		body = bytes.Replace(body, []byte(meta.ResourceVersion), []byte("VERSION"), 1)
	}
	if meta.Continue != "" {
		body = bytes.Replace(body, []byte(meta.Continue), []byte("CONTINUE"), 1)
	}
	body = currentVersion().ReplaceAll(body, []byte("current: VERSION"))
	return withoutAges(mediaType, body)
}

// normalProtobuf is normalBody where lengths stand before what they are the
// lengths of.
func normalProtobuf(body []byte) []byte {
	envelope, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
	var unknown runtime.Unknown
	if !ok || unknown.Unmarshal(envelope) != nil {
		return body
	}
	content := unknown.Raw
	switch {
	case isList(unknown.Kind):
		first := firstField(content)
		var list metav1.PartialObjectMetadataList // every list begins with its metadata
		if list.Unmarshal(first) != nil {
			return body
		}
		if list.Continue != "" {
			list.Continue = "CONTINUE"
		}
		list.ResourceVersion = "VERSION"
		meta, err := list.Marshal()
		if err != nil {
			return body
		}
		content = append(meta, content[len(first):]...)
	case unknown.Kind == "Status":
		var status metav1.Status
		if status.Unmarshal(content) != nil {
			return body
		}
		status.Message = currentVersion().ReplaceAllString(status.Message, "current: VERSION")
		if raw, err := status.Marshal(); err == nil {
			content = raw
		}
	}
	head := fmt.Sprintf("%s %s %q %q\n", unknown.APIVersion, unknown.Kind, unknown.ContentType, unknown.ContentEncoding)
	return append([]byte(head), content...)
}

// currentVersion is what Status objects say about where the server is.
func currentVersion() *regexp.Regexp { return regexp.MustCompile(`current: \d+`) }

// listMeta reads the metadata of a list, nothing of what is none.
func listMeta(mediaType string, body []byte) metav1.ListMeta {
	switch mediaType {
	case "application/json":
		var list struct {
			Metadata metav1.ListMeta
			Items    json.RawMessage
			Rows     json.RawMessage
		}
		if json.Unmarshal(body, &list) == nil && (list.Items != nil || list.Rows != nil) {
			return list.Metadata
		}
	case "application/vnd.kubernetes.protobuf":
		var unknown runtime.Unknown
		rest, ok := bytes.CutPrefix(body, []byte("k8s\x00"))
		if !ok || unknown.Unmarshal(rest) != nil || !isList(unknown.Kind) {
			return metav1.ListMeta{}
		}
		var list metav1.PartialObjectMetadataList
		if err := list.Unmarshal(firstField(unknown.Raw)); err == nil {
			return list.ListMeta
		}
	}
	return metav1.ListMeta{}
}

func isList(kind string) bool { return strings.HasSuffix(kind, "List") }

// firstField returns the first field of a message, with its tag.
func firstField(raw []byte) []byte {
	if len(raw) == 0 {
		return nil
	}
	size, n := binary.Uvarint(raw[1:])
	if n <= 0 || 1+uint64(n)+size > uint64(len(raw)) {
		return nil
	}
	return raw[:1+uint64(n)+size]
}

// withoutAges takes away the cells of a Table that say how old something is.
func withoutAges(mediaType string, body []byte) []byte {
	if mediaType != "application/json" || !bytes.Contains(body[:min(len(body), 100)], []byte(`"kind":"Table"`)) {
		return body
	}
	var table map[string]any
	if json.Unmarshal(body, &table) != nil {
		return body
	}
	columns, _ := table["columnDefinitions"].([]any)
	rows, _ := table["rows"].([]any)
	for i, column := range columns {
		definition, _ := column.(map[string]any)
		for _, row := range rows {
			cells, _ := row.(map[string]any)["cells"].([]any)
			if (definition["name"] == "Age" || definition["name"] == "Created At") && i < len(cells) {
				cells[i] = "AGE"
			}
		}
	}
	out, err := json.Marshal(table)
	if err != nil {
		return body
	}
	return out
}

// normalEvents leaves out bookmarks, whose moment is the server's own choice,
// but for the one that ends the initial events; of that the kind counts.
func normalEvents(events []event) []event {
	var normal []event
	for _, e := range events {
		switch {
		case e.Type == "BOOKMARK" && bytes.Contains(e.Object, []byte("k8s.io/initial-events-end")):
			e.Object = []byte(kindOf(e.Object))
		case e.Type == "BOOKMARK":
			continue
		case bytes.HasPrefix(e.Object, []byte(`{"kind":"Table"`)):
			e.Object = cells().ReplaceAll(e.Object, []byte(`"cells":[]`)) // ages are among them
		case e.Type == "ERROR":
			e.Object = oldVersion().ReplaceAll(e.Object, []byte("too old resource version"))
			e.Object = currentVersion().ReplaceAll(e.Object, []byte("current: VERSION"))
		}
		normal = append(normal, e)
	}
	return normal
}

// cells are those of a row of a Table.
func cells() *regexp.Regexp { return regexp.MustCompile(`"cells":\[[^\]]*\]`) }

// oldVersion is how the API server and the hub say that a version is too old.
func oldVersion() *regexp.Regexp {
	return regexp.MustCompile(`too old resource version: (\d+ \(\d+\)|the replica no longer has the history behind it)`)
}

// kindOf is the kind that an object says it has.
func kindOf(object []byte) string {
	if rest, ok := bytes.CutPrefix(object, []byte("k8s\x00")); ok {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(rest); err != nil {
			return err.Error()
		}
		return unknown.APIVersion + " " + unknown.Kind
	}
	var tm metav1.TypeMeta
	if err := json.Unmarshal(object, &tm); err != nil {
		return err.Error()
	}
	return tm.APIVersion + " " + tm.Kind
}

// splitWatch takes the stream of a watch apart.
func splitWatch(mediaType string, stream []byte) ([]event, error) {
	if mediaType == "application/vnd.kubernetes.protobuf" {
		return splitProtobuf(stream)
	}
	var events []event
	lines := bufio.NewReader(bytes.NewReader(stream))
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("watch ends with half a line %q", line)
		}
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read event %q: %w", line, err)
		}
		events = append(events, event{e.Type, e.Object})
	}
}

func splitProtobuf(stream []byte) ([]event, error) {
	var events []event
	for len(stream) > 0 {
		if len(stream) < 4 || uint64(len(stream)-4) < uint64(binary.BigEndian.Uint32(stream)) {
			return nil, fmt.Errorf("watch ends with half a frame %q", stream)
		}
		end := 4 + binary.BigEndian.Uint32(stream)
		var e metav1.WatchEvent
		if err := e.Unmarshal(stream[4:end]); err != nil {
			return nil, fmt.Errorf("read event: %w", err)
		}
		events = append(events, event{e.Type, slices.Clone(e.Object.Raw)})
		stream = stream[end:]
	}
	return events, nil
}

// difference says where two answers differ, or "".
func difference(want, got answer) string {
	var b strings.Builder
	if want.Code != got.Code {
		fmt.Fprintf(&b, "code %d, want %d\n", got.Code, want.Code)
	}
	for _, name := range headerNames(want.Header, got.Header) {
		if w, g := want.Header.Values(name), got.Header.Values(name); !slices.Equal(w, g) {
			fmt.Fprintf(&b, "header %s %q, want %q\n", name, g, w)
		}
	}
	b.WriteString(differentBytes("body", want.Body, got.Body))
	if len(want.Events) != len(got.Events) {
		fmt.Fprintf(&b, "%d events, want %d: %s; want %s\n", len(got.Events), len(want.Events), summary(got.Events), summary(want.Events))
		return b.String()
	}
	for i := range want.Events {
		if want.Events[i].Type != got.Events[i].Type {
			fmt.Fprintf(&b, "event %d is %s, want %s\n", i, got.Events[i].Type, want.Events[i].Type)
		}
		b.WriteString(differentBytes(fmt.Sprintf("event %d", i), want.Events[i].Object, got.Events[i].Object))
	}
	return b.String()
}

func headerNames(a, b http.Header) []string {
	var names []string
	for _, h := range []http.Header{a, b} {
		for name := range h {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func summary(events []event) string {
	var types []string
	for _, e := range events[:min(len(events), 20)] {
		types = append(types, e.Type)
	}
	return strings.Join(types, " ")
}

// differentBytes shows what is around the first difference.
func differentBytes(what string, want, got []byte) string {
	if bytes.Equal(want, got) {
		return ""
	}
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	around := func(b []byte) []byte { return b[max(0, at-60):min(len(b), at+200)] }
	return fmt.Sprintf("%s of %d bytes differs from the wanted %d bytes at %d:\n got %q\nwant %q\n", what, len(got), len(want), at, around(got), around(want))
}

// rawOf is the object in an envelope.
func rawOf(envelope []byte) ([]byte, error) {
	var unknown runtime.Unknown
	err := unknown.Unmarshal(envelope)
	return unknown.Raw, err
}
