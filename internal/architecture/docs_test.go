package architecture

import (
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"unicode"
)

const guarantees = "docs/guarantees.md"

var (
	testLine = regexp.MustCompile(`^Test: (\w+) \((\S+)\)$`)
	link     = regexp.MustCompile(`\]\(([^()\s]+)(?:\s+"[^"]*")?\)|^\[[^\]]+\]:\s+(\S+)`)
	codeSpan = regexp.MustCompile("`[^`]*`")
)

// checkGuarantees wants every guarantee to have tests that exist, one of them of its own name. The format is in the document.
func checkGuarantees(t *tree) []string {
	text, err := fs.ReadFile(t.fsys, guarantees)
	if err != nil {
		return []string{err.Error()}
	}
	var findings []string
	guarantee, named := "", true
	finish := func() {
		if !named {
			findings = append(findings, fmt.Sprintf("%s: %q has no test %s", guarantees, guarantee, testName(guarantee)))
		}
	}
	for i, line := range strings.Split(string(text), "\n") {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			finish()
			guarantee, named = title, false
			continue
		}
		if !strings.HasPrefix(line, "Test:") {
			continue
		}
		m := testLine.FindStringSubmatch(line)
		switch {
		case m == nil:
			findings = append(findings, fmt.Sprintf("%s:%d: want \"Test: TestName (directory)\"", guarantees, i+1))
		case !t.hasTest(m[2], m[1]):
			findings = append(findings, fmt.Sprintf("%s:%d: there is no %s in %s", guarantees, i+1, m[1], m[2]))
		case m[1] == testName(guarantee):
			named = true
		}
	}
	finish()
	return findings
}

// testName makes the name of a test of the words of a guarantee: "Frozen while cut" becomes TestFrozenWhileCut.
func testName(guarantee string) string {
	words := strings.FieldsFunc(guarantee, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	name := "Test"
	for _, word := range words {
		name += strings.ToUpper(word[:1]) + word[1:]
	}
	return name
}

func (t *tree) hasTest(dir, name string) bool {
	for _, p := range t.packages {
		for _, file := range p.files {
			if p.dir != dir || !file.test {
				continue
			}
			for _, decl := range file.ast.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == name {
					return true
				}
			}
		}
	}
	return false
}

// checkLinks wants every relative link of a document to lead to a file, and to a heading if it names one.
func checkLinks(t *tree) []string {
	var findings []string
	for _, doc := range t.docs {
		prose, err := t.prose(doc)
		if err != nil {
			findings = append(findings, err.Error())
		}
		for i, line := range prose {
			for _, m := range link.FindAllStringSubmatch(codeSpan.ReplaceAllString(line, ""), -1) {
				target := m[1] + m[2]
				if strings.Contains(target, ":") { // https:, mailto:
					continue
				}
				if why := t.follow(doc, target); why != "" {
					findings = append(findings, fmt.Sprintf("%s:%d: %s: %s", doc, i+1, target, why))
				}
			}
		}
	}
	return findings
}

// follow says why a link in doc leads nowhere, or "".
func (t *tree) follow(doc, target string) string {
	file, heading, _ := strings.Cut(target, "#")
	to := doc
	if file != "" {
		to = path.Join(path.Dir(doc), file)
	}
	if _, err := fs.Stat(t.fsys, to); err != nil {
		return "no such file"
	}
	if heading == "" {
		return ""
	}
	prose, err := t.prose(to)
	if err != nil {
		return err.Error()
	}
	for _, line := range prose {
		if strings.HasPrefix(line, "#") && anchor(strings.TrimLeft(line, "# ")) == heading {
			return ""
		}
	}
	return "no such heading"
}

// prose returns the lines of a document, those of code blocks empty.
func (t *tree) prose(doc string) ([]string, error) {
	text, err := fs.ReadFile(t.fsys, doc)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	code := false
	for i, line := range lines {
		fence := strings.HasPrefix(strings.TrimSpace(line), "```")
		if code || fence {
			lines[i] = ""
		}
		code = code != fence
	}
	return lines, nil
}

// anchor is the fragment by which forges link to a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}
