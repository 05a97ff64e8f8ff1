// Package config reads a program's configuration file: YAML, in which each key is one of the program's flags under another
// spelling (--root-dir is rootDir).
//
// It guarantees that a file which is not understood in full is an error, that the error tells all that is wrong, each with its
// line, and that the command line wins over the file. It never knows what a flag means: types and defaults are the flags' own.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// A Format is what a file of one program looks like.
type Format struct {
	APIVersion, Kind string
	Except           []string // flags that no file sets
}

// Has reports whether a file may set a flag.
func (f Format) Has(flag *pflag.Flag) bool { return !slices.Contains(f.Except, flag.Name) }

// Key is the name of a flag in a file.
func Key(flag string) string {
	words := strings.Split(flag, "-")
	for i, word := range words[1:] {
		words[i+1] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, "")
}

// A File is a configuration file that has been read.
type File struct {
	path  string
	lines map[string]int // by flag; those that the command line sets are there too
}

// Read sets flags to what the file says, but for those that have been set before: by the command line. If it returns an error,
// some flags may have been set, and none may be used.
func (f Format) Read(path string, flags *pflag.FlagSet) (*File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	file := &File{path: path, lines: map[string]int{}}
	root, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, file.apply(f, root, flags)
}

// parse returns the mapping that a file consists of.
func parse(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, errors.New("is empty: begin with apiVersion and kind")
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more than one document: put everything into one")
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: want keys with values, like rootDir: /var/lib/yurthub", root.Line)
	}
	return root, nil
}

func (f *File) apply(format Format, root *yaml.Node, flags *pflag.FlagSet) error {
	var errs []error
	wrong := func(node *yaml.Node, problem string, args ...any) {
		errs = append(errs, fmt.Errorf("%s:%d: %s", f.path, node.Line, fmt.Sprintf(problem, args...)))
	}
	byKey := map[string]*pflag.Flag{}
	flags.VisitAll(func(flag *pflag.Flag) {
		if format.Has(flag) {
			byKey[Key(flag.Name)] = flag
		}
	})
	header := map[string]string{"apiVersion": format.APIVersion, "kind": format.Kind}
	seen := map[string]bool{}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		want, isHeader := header[key.Value]
		flag := byKey[key.Value]
		switch {
		case seen[key.Value]:
			wrong(key, "%s: is there twice", key.Value)
		case isHeader && value.Value != want:
			wrong(value, "%s %q: want %s", key.Value, value.Value, want)
		case isHeader:
		case flag == nil:
			wrong(key, "%s: there is no such key%s", key.Value, suggestion(key.Value, byKey))
		default:
			f.lines[flag.Name] = key.Line
			if err := set(flag, value, flag.Changed); err != nil {
				wrong(value, "%s: %v", key.Value, err)
			}
		}
		seen[key.Value] = true
	}
	for _, key := range []string{"apiVersion", "kind"} {
		if !seen[key] {
			wrong(root, "%s is missing: want %s: %s", key, key, header[key])
		}
	}
	return errors.Join(errs...)
}

// set sets a flag to what a node says. If the flag is taken, the node is only looked at.
func set(flag *pflag.Flag, node *yaml.Node, taken bool) error {
	if node.Kind == yaml.AliasNode || node.Anchor != "" {
		return errors.New("anchors and aliases are not read: write the value here")
	}
	if node.Tag == "!!null" {
		return errors.New("has no value: give it one, or leave the line out for the default")
	}
	if list, ok := flag.Value.(pflag.SliceValue); ok {
		values, err := stringsOf(node)
		if err != nil || taken {
			return err
		}
		return list.Replace(values)
	}
	want, ok := scalars[flag.Value.Type()]
	if !ok {
		return fmt.Errorf("is of a type that files do not have: %s", flag.Value.Type())
	}
	if node.Kind != yaml.ScalarNode || node.Tag != want.tag {
		return fmt.Errorf("want %s", want.words)
	}
	before := flag.Value.String()
	if err := flag.Value.Set(node.Value); err != nil {
		return fmt.Errorf("%q: want %s", node.Value, want.words)
	}
	if taken {
		return flag.Value.Set(before)
	}
	return nil
}

// scalars says how values of a flag's type are written.
var scalars = map[string]struct{ tag, words string }{
	"string":   {"!!str", "a string; in quotes if it looks like something else"},
	"bool":     {"!!bool", "true or false"},
	"int":      {"!!int", "a whole number"},
	"int64":    {"!!int", "a whole number"},
	"duration": {"!!str", "a duration like 168h or 90m"},
}

func stringsOf(node *yaml.Node) ([]string, error) {
	want := errors.New("want a list of strings")
	if node.Kind != yaml.SequenceNode {
		return nil, want
	}
	values := []string{}
	for _, item := range node.Content {
		if item.Kind != yaml.ScalarNode || item.Tag != "!!str" || item.Anchor != "" {
			return nil, want
		}
		values = append(values, item.Value)
	}
	return values, nil
}

// suggestion names the key that somebody who wrote a flag, or in another case, had in mind.
func suggestion(key string, byKey map[string]*pflag.Flag) string {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	for known := range byKey {
		if plain(known) == plain(key) {
			return ": did you mean " + known + "?"
		}
	}
	return ""
}

// Explain turns errors about flags (--root-dir ...) into errors about the lines of the file that set them, where one did and
// the command line did not.
func (f *File) Explain(err error, flags *pflag.FlagSet) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var errs []error
		for _, e := range joined.Unwrap() {
			errs = append(errs, f.Explain(e, flags))
		}
		return errors.Join(errs...)
	}
	rest, ok := strings.CutPrefix(err.Error(), "--")
	if !ok {
		return err
	}
	name := rest[:len(rest)-len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz0123456789-"))]
	line, ok := f.lines[name]
	if flag := flags.Lookup(name); !ok || flag == nil || flag.Changed {
		return err
	}
	return fmt.Errorf("%s:%d: %s%s", f.path, line, Key(name), strings.TrimPrefix(rest, name))
}
