package architecture

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// exceptions lists the packages for which a rule would make the code worse, and why.
func exceptions() map[string]string {
	return map[string]string{
		"exits internal/failpoint": "the sudden end of the process is one of its faults",
		"state internal/failpoint": "a point is reached from everywhere, and armed from outside the process",
	}
}

// checkComments wants one package comment in each package, that begins as godoc expects it, and says something: what the
// package is, what it guarantees, what it never does. That takes a few lines where others build on it.
func checkComments(t *tree) []string {
	const enough = 25 // words
	var findings []string
	for _, p := range t.packages {
		var commented []*source
		for _, file := range p.files {
			if file.ast.Doc != nil && file.ast.Doc.Text() != "" {
				commented = append(commented, file)
			}
		}
		switch len(commented) {
		case 0:
			findings = append(findings, fmt.Sprintf("%s: has no package comment", p.dir))
			continue
		case 1:
		default:
			findings = append(findings, fmt.Sprintf("%s: has a package comment in %s and in %s", p.dir, commented[0].path, commented[1].path))
			continue
		}
		file := commented[0]
		text := file.ast.Doc.Text()
		begin := "Package " + p.name + " "
		if p.name == "main" {
			begin = "Command " + path.Base(p.dir) + " "
		}
		if !strings.HasPrefix(text, begin) {
			findings = append(findings, fmt.Sprintf("%s: package comment should begin with %q", file.path, begin))
		}
		if words := len(strings.Fields(text)); words < enough && p.name != "main" {
			findings = append(findings, fmt.Sprintf("%s: package comment of %d words does not say what the package is, guarantees and never does", file.path, words))
		}
	}
	return findings
}

// checkNames refuses names under which anything can be put.
func checkNames(t *tree) []string {
	vague := []string{"base", "common", "helper", "helpers", "misc", "shared", "util", "utils"}
	var findings []string
	for _, p := range t.packages {
		if slices.Contains(vague, p.name) || slices.Contains(vague, path.Base(p.dir)) {
			findings = append(findings, fmt.Sprintf("%s: a package is named after its idea, not %q", p.dir, p.name))
		}
		for _, file := range p.files {
			stem := strings.TrimSuffix(strings.TrimSuffix(path.Base(file.path), ".go"), "_test")
			if stem == "types" || slices.Contains(vague, stem) {
				findings = append(findings, fmt.Sprintf("%s: a file is named after what it is about", file.path))
			}
			ast.Inspect(file.ast, func(n ast.Node) bool {
				typ, ok := n.(*ast.TypeSpec)
				if ok && vagueType(typ.Name.Name) {
					findings = append(findings, fmt.Sprintf("%s: type %s does not say what it does", t.at(typ), typ.Name.Name))
				}
				return true
			})
		}
	}
	return findings
}

// vagueType knows the names of types that could be anything. Controller managers are Kubernetes' own word.
func vagueType(name string) bool {
	return name == "Interface" || strings.HasSuffix(name, "Manager") && !strings.HasSuffix(name, "ControllerManager")
}

// checkLength keeps files within what a person reads in one go.
func checkLength(t *tree) []string {
	const most, mostOfReadme = 600, 120
	var findings []string
	readme, err := fs.ReadFile(t.fsys, "README.md")
	if lines := bytes.Count(readme, []byte("\n")); err == nil && lines > mostOfReadme {
		findings = append(findings, fmt.Sprintf("README.md: has %d lines, more than %d: what is not for everybody goes into docs/", lines, mostOfReadme))
	}
	for _, p := range t.packages {
		for _, file := range p.production() {
			if file.lines > most && !ast.IsGenerated(file.ast) {
				findings = append(findings, fmt.Sprintf("%s: has %d lines, more than %d: is it still one idea?", file.path, file.lines, most))
			}
		}
	}
	return findings
}

// checkInits refuses init functions: what a program does begins in main.
func checkInits(t *tree) []string {
	var findings []string
	for _, p := range t.packages {
		for _, file := range p.files {
			for _, decl := range file.ast.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					findings = append(findings, fmt.Sprintf("%s: init function", t.at(fn)))
				}
			}
		}
	}
	return findings
}

// checkExits lets only main end the process: everybody else returns an error.
func checkExits(t *tree) []string {
	var findings []string
	for _, p := range t.packages {
		if _, may := exceptions()["exits "+p.dir]; may || p.name == "main" {
			continue
		}
		for _, file := range p.production() {
			osName, logName := file.localName("os"), file.localName("log")
			ast.Inspect(file.ast, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				from, ok := sel.X.(*ast.Ident)
				if !ok || from.Name == "" {
					return true
				}
				if from.Name == osName && sel.Sel.Name == "Exit" || from.Name == logName && strings.HasPrefix(sel.Sel.Name, "Fatal") {
					findings = append(findings, fmt.Sprintf("%s: %s.%s outside main", t.at(sel), from.Name, sel.Sel.Name))
				}
				return true
			})
		}
	}
	return findings
}

// checkGoroutines wants whoever starts goroutines to prove in its tests that they end.
func checkGoroutines(t *tree) []string {
	var findings []string
	for _, p := range t.packages {
		start := ""
		for _, file := range p.production() {
			ast.Inspect(file.ast, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.GoStmt:
					start = t.at(n)
				case *ast.SelectorExpr:
					if n.Sel.Name == "Go" { // errgroup.Group and sync.WaitGroup
						start = t.at(n)
					}
				}
				return start == ""
			})
		}
		watched := slices.ContainsFunc(p.files, func(s *source) bool { return s.localName("go.uber.org/goleak") != "" })
		if start != "" && !watched && p.name != "main" {
			findings = append(findings, fmt.Sprintf("%s: starts a goroutine, but no test of the package uses goleak", start))
		}
	}
	return findings
}
