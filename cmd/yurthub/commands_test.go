package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const checkout = "../.."

// TestCommandsInDocs: what the documents tell people to type is there: targets of make, programs, files of the checkout, and
// the hub's and yurtctl's subcommands and flags. `yurthub config check` is run.
func TestCommandsInDocs(t *testing.T) {
	makefile := string(text(t, filepath.Join(checkout, "Makefile")))
	yurtctl := filepath.Join(t.TempDir(), "yurtctl")
	if out, err := exec.Command("go", "build", "-o", yurtctl, "../yurtctl").CombinedOutput(); err != nil {
		t.Fatalf("build yurtctl: %v\n%s", err, out)
	}
	targets, checked, controls := 0, 0, 0
	for _, block := range commands(t) {
		words := strings.Fields(block.line)
		for _, word := range words {
			if strings.HasPrefix(word, "deploy/") || strings.HasPrefix(word, "./cmd/") {
				if found, err := filepath.Glob(filepath.Join(checkout, word)); err != nil || len(found) == 0 {
					t.Errorf("%s: %s: there is no %s", block.doc, block.line, word)
				}
			}
		}
		switch {
		case words[0] == "yurtctl":
			controls++
			if out, err := exec.Command(yurtctl, append(words[1:], "--help")...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %s", block.doc, block.line, out)
			}
		case words[0] == "make" && len(words) > 1:
			targets++
			if !strings.Contains(makefile, "\n"+words[1]+":") {
				t.Errorf("%s: make has no target %s", block.doc, words[1])
			}
		case filepath.Base(words[0]) == "yurthub":
			checked++
			cmd, args, err := command().Find(words[1:])
			if err == nil {
				err = cmd.ParseFlags(args)
			}
			if err != nil {
				t.Errorf("%s: %s: %v", block.doc, block.line, err)
			}
			if file := words[len(words)-1]; strings.HasPrefix(file, "deploy/") {
				if err := checkFile(filepath.Join(checkout, file), true); err != nil {
					t.Errorf("%s: %s: %v", block.doc, block.line, err)
				}
			}
		}
	}
	if targets < 3 || checked < 2 || controls < 3 {
		t.Errorf("%d targets, %d commands of the hub and %d of yurtctl found: do documents look otherwise now?", targets, checked, controls)
	}
}

// TestFlagsForOpenYurt: the page for those who come from OpenYurt names flags that there are, and every flag that it says is
// the same is spelled the same.
func TestFlagsForOpenYurt(t *testing.T) {
	page := string(text(t, filepath.Join(checkout, "docs", "migrate-from-openyurt.md")))
	flags := command().Flags()
	flag := regexp.MustCompile("`--([a-z-]+)`")
	rows := 0
	for _, line := range strings.Split(page, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.Contains(cells[1], "`--") {
			continue
		}
		rows++
		for _, cell := range cells[2:] {
			for _, m := range flag.FindAllStringSubmatch(cell, -1) {
				if flags.Lookup(m[1]) == nil {
					t.Errorf("there is no --%s: %s", m[1], line)
				}
			}
		}
		for _, m := range flag.FindAllStringSubmatch(cells[1], -1) {
			if f := flags.Lookup(m[1]); f != nil && !strings.Contains(cells[2], "`--"+m[1]+"`") {
				t.Errorf("--%s is here, too: %s", m[1], line)
			}
		}
	}
	if rows < 10 {
		t.Errorf("%d rows", rows)
	}
}

type commandLine struct{ doc, line string }

// commands returns the lines of all shell blocks of the documents for users, without comments.
func commands(t *testing.T) []commandLine {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(checkout, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	var all []commandLine
	for _, doc := range append(docs, filepath.Join(checkout, "README.md"), filepath.Join(checkout, "CONTRIBUTING.md")) {
		code, shell := false, false
		for _, line := range strings.Split(string(text(t, doc)), "\n") {
			if language, fence := strings.CutPrefix(line, "```"); fence {
				code = !code
				shell = code && (language == "" || language == "sh")
				continue
			}
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); shell && line != "" {
				all = append(all, commandLine{doc, line})
			}
		}
	}
	return all
}

func text(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
