package wire

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs the scripts in testdata, which are JSON in and what is read of it out:
//
//	list       reads a list
//	relist     reads a list and writes it again
//	watch      reads a watch stream
//	object     reads an object
//	event      writes an event about an item: type, kind
//	bookmark   makes a bookmark from an item: version, end
//	negotiate  reads Accept headers, one a line
//
// The argument max is the limit of an item or frame.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			run, ok := scripts()[d.Cmd]
			if !ok {
				d.Fatalf(t, "unknown command")
			}
			out := &strings.Builder{}
			if err := run(t, d, out); err != nil {
				fmt.Fprintf(out, "error: %v\n", err)
			}
			return out.String()
		})
	})
}

func scripts() map[string]func(*testing.T, *datadriven.TestData, io.Writer) error {
	return map[string]func(*testing.T, *datadriven.TestData, io.Writer) error{
		"list":      scriptList,
		"relist":    scriptRelist,
		"watch":     scriptWatch,
		"object":    scriptObject,
		"event":     scriptEvent,
		"bookmark":  scriptBookmark,
		"negotiate": scriptNegotiate,
	}
}

func maxArg(t *testing.T, d *datadriven.TestData) int {
	limit := 1 << 20
	d.MaybeScanArgs(t, "max", &limit)
	return limit
}

func scriptList(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	list, err := ReadList(strings.NewReader(d.Input), JSON, maxArg(t, d), func(item Item) error {
		printItem(out, item)
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%+v\n%+v\n", list.Envelope, list.ListMeta)
	return nil
}

func scriptRelist(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	list, items, err := readAll(strings.NewReader(d.Input), JSON)
	if err != nil {
		return err
	}
	_, err = out.Write(writeAll(t, JSON, list, items))
	return err
}

func scriptWatch(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	dec := NewWatchDecoder(strings.NewReader(d.Input), JSON, maxArg(t, d))
	for {
		ev, err := dec.Next()
		var frame *FrameError
		switch {
		case errors.As(err, &frame):
			fmt.Fprintf(out, "skipped: %v\n", err)
			continue
		case err != nil:
			return err
		}
		fmt.Fprintf(out, "%v %v: ", ev.Type, ev.TypeMeta)
		printItem(out, ev.Item)
		if ev.Type == Error {
			s, err := ParseStatus(JSON, ev.Raw)
			fmt.Fprintf(out, "%+v %v\n", s, err)
		}
	}
}

func scriptObject(_ *testing.T, d *datadriven.TestData, out io.Writer) error {
	item, tm, err := ParseObject(JSON, []byte(d.Input))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%v: ", tm)
	printItem(out, item)
	return nil
}

func scriptEvent(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	var typ, kind string
	d.ScanArgs(t, "type", &typ)
	d.ScanArgs(t, "kind", &kind)
	parsed, err := parseEventType([]byte(typ))
	if err != nil {
		return err
	}
	_, err = out.Write(AppendEvent(nil, JSON, parsed, TypeMeta{"v1", kind}, []byte(d.Input)))
	return err
}

func scriptBookmark(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	var version string
	d.ScanArgs(t, "version", &version)
	b, err := AppendBookmark(nil, JSON, TypeMeta{"v1", "Pod"}, []byte(d.Input), version, d.HasArg("end"))
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}

func scriptNegotiate(t *testing.T, d *datadriven.TestData, out io.Writer) error {
	for accept := range strings.Lines(d.Input) {
		r, ok := Negotiate(strings.TrimSuffix(accept, "\n"))
		if !ok {
			fmt.Fprintln(out, "not replicable")
			continue
		}
		if again, err := ParseRepresentation(r.String()); err != nil || again != r {
			t.Errorf("%v parsed again: %v, %v", r, again, err)
		}
		for _, list := range []bool{false, true} {
			if again, ok := Negotiate(r.Accept(list)); !ok || again != r {
				t.Errorf("%v asked for again: %v, %v", r, again, ok)
			}
		}
		fmt.Fprintln(out, r)
	}
	return nil
}

func printItem(out io.Writer, item Item) {
	fmt.Fprintf(out, "%+v\n  %s\n", item.Meta, item.Raw)
}
