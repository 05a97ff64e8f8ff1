package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// board prints the story: a line per event, the time before it, and what
// concerns one node in that node's column. Nothing that was printed changes, so
// it reads the same in a terminal, a file and a pipe. It is at most 80 columns
// wide.
type board struct {
	w     io.Writer
	color bool

	mu    sync.Mutex
	start time.Time
}

const (
	columnWidth = 36
	bold        = "\x1b[1m"
	dim         = "\x1b[2m"
	plain       = "\x1b[0m"
)

func (b *board) style(style, text string) string {
	if !b.color {
		return text
	}
	return style + text + plain
}

func (b *board) title() {
	fmt.Fprintf(b.w, "%s\n\n", b.style(bold, "A node that survives: the same site on two nodes, one of them behind YurtHub"))
	fmt.Fprintln(b.w, b.style(dim, "time   edge (behind YurtHub)                bare (straight to the cloud)"))
	fmt.Fprintln(b.w, b.style(dim, strings.Repeat("-", 79)))
}

func (b *board) clock() string {
	since := time.Since(b.start)
	return fmt.Sprintf("%d:%02d", int(since.Minutes()), int(since.Seconds())%60)
}

// act says what happens to both nodes, or in the cloud.
func (b *board) act(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintf(b.w, "%5s  %s\n", b.clock(), b.style(bold, text))
}

// edge and bare say what happens on one node.
func (b *board) edge(format string, args ...any) { b.column(0, format, args...) }
func (b *board) bare(format string, args ...any) { b.column(1, format, args...) }

func (b *board) column(n int, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if runes := []rune(text); len(runes) > columnWidth {
		text = string(runes[:columnWidth-1]) + "…"
	}
	fmt.Fprintf(b.w, "%5s  %s%s\n", b.clock(), strings.Repeat(" ", n*(columnWidth+1)), text)
}

func (b *board) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fmt.Fprintf(b.w, format+"\n", args...)
}

// fact is a row of the table at the end.
type fact struct{ what, edge, bare string }

func (b *board) end(facts []fact, logs string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	line := b.style(dim, strings.Repeat("-", 79))
	fmt.Fprintf(b.w, "\n%-41s %s %s\n%s\n", "", b.style(bold, fmt.Sprintf("%-22s", "edge")), b.style(bold, "bare"), line)
	for _, f := range facts {
		fmt.Fprintf(b.w, "%-41s %-22s %s\n", f.what, f.edge, f.bare)
	}
	fmt.Fprintf(b.w, "%s\nlogs: %s\n", line, logs)
}
