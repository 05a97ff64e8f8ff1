package architecture

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
)

// checkState refuses package-level variables that change: a value that is never assigned to is a constant that Go cannot spell,
// all else belongs to a value that somebody made and hands on.
func checkState(t *tree) []string {
	var findings []string
	for _, p := range t.packages {
		if _, may := exceptions()["state "+p.dir]; !may {
			findings = append(findings, t.state(p)...)
		}
	}
	return findings
}

func (t *tree) state(p *pkg) []string {
	files := map[string][]*ast.File{} // by package clause: commands of several platforms share a directory
	for _, file := range p.production() {
		name := file.ast.Name.Name
		files[name] = append(files[name], file.ast)
	}
	var findings []string
	for _, group := range files {
		info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
		// Only the package's own names matter here, and they resolve although nothing is imported; hence errors don't.
		conf := types.Config{Importer: noImports{}, Error: func(error) {}}
		checked, _ := conf.Check(p.dir, t.fset, group, info)
		for _, file := range group {
			findings = append(findings, t.locks(file)...)
			ast.Inspect(file, func(n ast.Node) bool {
				for _, changed := range changes(n) {
					id := root(changed)
					if id == nil {
						continue
					}
					v, ok := info.Uses[id].(*types.Var)
					if ok && v.Parent() == checked.Scope() {
						findings = append(findings, fmt.Sprintf("%s: changes the package-level variable %s", t.at(id), id.Name))
					}
				}
				return true
			})
		}
	}
	slices.Sort(findings)
	return findings
}

// changes returns the expressions that n assigns to, or lets others assign to.
func changes(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	case *ast.UnaryExpr:
		if n.Op == token.AND {
			return []ast.Expr{n.X}
		}
	case *ast.CallExpr:
		if fn, ok := n.Fun.(*ast.Ident); ok && (fn.Name == "delete" || fn.Name == "clear") {
			return n.Args[:1]
		}
	}
	return nil
}

// root returns the variable that x is, or is a part of.
func root(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.IndexExpr:
			x = e.X
		case *ast.SelectorExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		case *ast.SliceExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// locks finds package-level variables whose type exists to be changed.
func (t *tree) locks(file *ast.File) []string {
	var findings []string
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			ast.Inspect(v, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				from, ok := sel.X.(*ast.Ident)
				if ok && (from.Name == "sync" && !strings.HasPrefix(sel.Sel.Name, "Once") || from.Name == "atomic") {
					findings = append(findings, fmt.Sprintf("%s: package-level variable %s is a %s.%s", t.at(v), v.Names[0].Name, from.Name, sel.Sel.Name))
				}
				return true
			})
		}
	}
	return findings
}

type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	return nil, errors.New("imports are not followed")
}
