// Package mutant breaks the hub's promises, one at a time, so that a test can show that it would notice.
//
// A mutant is a change of the sources, made by the compiler's overlay: the checkout stays as it is. All are in one program,
// and the environment says which of them is alive; without a word in it the program is the hub itself.
//
// It guarantees that every change is made exactly where it is meant to be: text that is not there, or there twice, is an
// error. It never changes a file of the checkout.
package mutant

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"yurt/test/faults/validate"
)

// env names the mutant that is alive.
const env = "YURTHUB_MUTANT"

// Mutant is a broken promise.
type Mutant struct {
	Name     string
	Edits    []Edit
	Violates error // the guarantee whose violation must be found
}

// Edit replaces a piece of a file.
type Edit struct{ File, Old, New string }

// Env is the environment of a program in which the mutant lives.
func (m Mutant) Env() []string { return []string{env + "=" + m.Name} }

// All are the mutants. In New, mutated(name) tells whether one lives.
func All() []Mutant {
	const commit, feed, list = "internal/store/commit.go", "internal/replica/feed.go", "internal/replica/list.go"
	return []Mutant{
		{"a sync does nothing", []Edit{
			{commit, "err := fdatasync(w.segment.file); err != nil {", `err := unless("a sync does nothing", func() error { return fdatasync(w.segment.file) }); err != nil {`},
		}, validate.ErrLost},
		{"events are told before they are committed", []Edit{
			{commit, "	if len(g.buf) > 0 {\n", "	if mutated(\"events are told before they are committed\") {\n		s.publish(g)\n	}\n	if len(g.buf) > 0 {\n"},
			{commit, "	s.publish(g)\n	if !g.kept", "	if !mutated(\"events are told before they are committed\") {\n		s.publish(g)\n	}\n	if !g.kept"},
		}, validate.ErrLost},
		{"names are not synced", []Edit{
			{"internal/store/segment.go", "	return d.Sync()\n", `	return unless("names are not synced", d.Sync)` + "\n"},
		}, validate.ErrLost},
		{"a checksum is skipped", []Edit{
			{"internal/store/scan.go", "|| checksum(value) != r.value.crc {", `|| checksum(value) != r.value.crc && !mutated("a checksum is skipped") {`},
		}, validate.ErrUnavailable},
		{"an event is dropped", []Edit{
			{feed, "	if revision <= f.queued {\n		return nil", `	if revision <= f.queued || revision%13 == 0 && mutated("an event is dropped") {` + "\n		return nil"},
		}, validate.ErrGap},
		{"a list lacks an object", []Edit{
			{list, "		if err := in.stage.Add(ctx, record); err != nil {", `		if revision%7 == 0 && mutated("a list lacks an object") {
			return nil
		}
		if err := in.stage.Add(ctx, record); err != nil {`},
		}, validate.ErrPartial},
		{"a list is older than it was", []Edit{
			{"internal/replica/serve.go", "ResourceVersion: strconv.FormatUint(view.Revision(), 10)}", `ResourceVersion: strconv.FormatUint(view.Revision()-now("a list is older than it was"), 10)}`},
		}, validate.ErrBack},
		{"what was told stays in the journal", []Edit{
			{"internal/offline/replay.go", "	batch.Delete(j.table, entryKey(number), number, nil)\n	lost := j.lost //", "	if !mutated(\"what was told stays in the journal\") {\n		batch.Delete(j.table, entryKey(number), number, nil)\n	}\n	lost := j.lost //"},
		}, validate.ErrNoteTwice},
		{"the journal is in memory", []Edit{
			{"internal/offline/journal.go", "	if err := j.store.Commit(context.WithoutCancel(ctx), &batch); err != nil {", `	if err := unless("the journal is in memory", func() error { return j.store.Commit(context.WithoutCancel(ctx), &batch) }); err != nil {`},
		}, validate.ErrNoteLost},
		{"an unfinished commit is fatal", []Edit{
			{"internal/store/recover.go", "			s.log.Warn(\"cut off an unfinished commit\"", "			if mutated(\"an unfinished commit is fatal\") {\n				panic(\"an unfinished commit\")\n			}\n			s.log.Warn(\"cut off an unfinished commit\""},
		}, validate.ErrStart},
		{"nothing is sealed", []Edit{
			{"internal/hub/hub.go", "	return h.keys.Keys, nil", "	if mutated(\"nothing is sealed\") {\n		return nil, nil\n	}\n	return h.keys.Keys, nil"},
		}, validate.ErrClear},
	}
}

// source is added to each package that has mutants.
const source = `package %s

import (
	"os"
	"time"
)

func mutated(name string) bool { return os.Getenv(%q) == name }

func unless(name string, f func() error) error {
	if mutated(name) {
		return nil
	}
	return f()
}

// now is a small number that changes.
func now(name string) uint64 {
	if mutated(name) {
		return uint64(time.Now().UnixMilli() %% 50)
	}
	return 0
}

var _, _ = unless, now
`

// Overlay writes the changed sources of the module at root into dir, and returns the file that tells the compiler of them.
func Overlay(root, dir string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	changed := map[string]string{} // path in the module: content
	for _, m := range All() {
		for _, e := range m.Edits {
			if err := e.apply(root, changed); err != nil {
				return "", fmt.Errorf("make mutant %q: %w", m.Name, err)
			}
		}
	}
	replace := map[string]string{}
	for path, content := range changed {
		copied := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		if err := os.WriteFile(copied, []byte(content), 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(root, path)] = copied
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	return name, os.WriteFile(name, overlay, 0o600)
}

func (e Edit) apply(root string, changed map[string]string) error {
	content, ok := changed[e.File]
	if !ok {
		raw, err := os.ReadFile(filepath.Join(root, e.File))
		if err != nil {
			return err
		}
		content = string(raw)
		pkg := filepath.Base(filepath.Dir(e.File))
		changed[filepath.Join(filepath.Dir(e.File), "mutated.go")] = fmt.Sprintf(source, pkg, env)
	}
	if n := strings.Count(content, e.Old); n != 1 {
		return fmt.Errorf("%s has %q %d times, want once", e.File, e.Old, n)
	}
	changed[e.File] = strings.Replace(content, e.Old, e.New, 1)
	return nil
}
