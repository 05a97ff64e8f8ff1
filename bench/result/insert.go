package result

import (
	"bytes"
	"fmt"
	"os"
)

// The lines of a document between which its table is.
const (
	tableBegins = "<!-- figures: bench table RESULT.json --into docs/performance.md -->\n"
	tableEnds   = "<!-- end of figures -->\n"
)

// Insert replaces the table of a document.
func (r *Result) Insert(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("put table into document: %w", err)
	}
	before, rest, ok := bytes.Cut(data, []byte(tableBegins))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnds))
	if !ok || !ok2 {
		return fmt.Errorf("put table into %s: it has no lines %q and %q", file, tableBegins, tableEnds)
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(tableBegins + "\n")
	r.Markdown(&out)
	out.WriteString("\n" + tableEnds)
	out.Write(after)
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("put table into document: %w", err)
	}
	return nil
}
