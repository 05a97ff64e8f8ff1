package architecture

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// module is the path of this module; import paths below it are the repository's own.
const module = "yurt"

// A tree is what the rules look at: the Go packages of the module and all documents.
// Nested modules, hidden directories and testdata are not part of it.
type tree struct {
	fsys     fs.FS
	fset     *token.FileSet
	packages []*pkg   // ordered by dir
	docs     []string // paths of *.md files, nested modules' included
}

// A pkg is one directory with Go files; the external test package of a directory belongs to it.
type pkg struct {
	dir   string // slash-separated, relative to the module's root
	name  string // as in the package clause, without _test
	files []*source
}

type source struct {
	path  string
	test  bool // a _test.go file
	lines int
	ast   *ast.File
}

func load(fsys fs.FS) (*tree, error) {
	t := &tree{fsys: fsys, fset: token.NewFileSet()}
	packages := map[string]*pkg{}
	nested := map[string]bool{}
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		if entry.IsDir() {
			base := entry.Name()
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata") {
				return fs.SkipDir
			}
			_, err := fs.Stat(fsys, path.Join(name, "go.mod"))
			nested[name] = name != "." && (err == nil || nested[dir])
			return nil
		}
		switch {
		case path.Ext(name) == ".md":
			t.docs = append(t.docs, name)
		case path.Ext(name) == ".go" && !nested[dir]:
			file, err := t.parse(name)
			if err != nil {
				return err
			}
			p := packages[dir]
			if p == nil {
				p = &pkg{dir: dir}
				packages[dir] = p
			}
			p.name = strings.TrimSuffix(file.ast.Name.Name, "_test")
			p.files = append(p.files, file)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		t.packages = append(t.packages, packages[dir])
	}
	return t, nil
}

func (t *tree) parse(name string) (*source, error) {
	text, err := fs.ReadFile(t.fsys, name)
	if err != nil {
		return nil, err
	}
	file, err := parser.ParseFile(t.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &source{
		path:  name,
		test:  strings.HasSuffix(name, "_test.go"),
		lines: bytes.Count(text, []byte("\n")),
		ast:   file,
	}, nil
}

// at names the place of a node as path:line.
func (t *tree) at(n ast.Node) string {
	pos := t.fset.Position(n.Pos())
	return fmt.Sprintf("%s:%d", pos.Filename, pos.Line)
}

// production returns the files of p that are compiled into binaries.
func (p *pkg) production() []*source {
	return slices.DeleteFunc(slices.Clone(p.files), func(s *source) bool { return s.test })
}

// imports returns the import paths of s, in the order of the file.
func (s *source) imports() []string {
	var paths []string
	for _, spec := range s.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// localName returns the name by which s knows the imported package, or "" if it does not import it.
func (s *source) localName(importPath string) string {
	for _, spec := range s.ast.Imports {
		if spec.Path.Value != strconv.Quote(importPath) {
			continue
		}
		if spec.Name != nil {
			return spec.Name.Name
		}
		return path.Base(importPath)
	}
	return ""
}
