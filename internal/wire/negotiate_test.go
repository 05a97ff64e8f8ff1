package wire

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/munnerz/goautoneg"
)

func TestContentType(t *testing.T) {
	tests := []struct {
		enc   Encoding
		watch bool
		want  string
	}{
		{JSON, false, "application/json"},
		{JSON, true, "application/json"},
		{Protobuf, false, "application/vnd.kubernetes.protobuf"},
		{Protobuf, true, "application/vnd.kubernetes.protobuf;stream=watch"},
	}
	for _, tt := range tests {
		got := ContentType(tt.enc, tt.watch)
		if got != tt.want {
			t.Errorf("ContentType(%v, %v) is %q, want %q", tt.enc, tt.watch, got, tt.want)
		}
		if enc, ok := ParseContentType(got); !ok || enc != tt.enc {
			t.Errorf("ParseContentType(%q) is %v, %v", got, enc, ok)
		}
	}
	for _, other := range []string{"", "text/html", "application/yaml", "application/json-seq", "application/cbor", ";"} {
		if enc, ok := ParseContentType(other); ok {
			t.Errorf("ParseContentType(%q) is %v", other, enc)
		}
	}
}

func TestEmptyAcceptIsJSON(t *testing.T) {
	r, ok := Negotiate("")
	if want := (Representation{OnlyJSON, Whole}); !ok || r != want {
		t.Errorf("Negotiate of nothing: %v, %v", r, ok)
	}
}

// FuzzParseAccept compares with the parser that the API server uses.
func FuzzParseAccept(f *testing.F) {
	for _, s := range []string{
		"application/vnd.kubernetes.protobuf, */*", "a/b;q=.2, c/*;q=0.9, *;q=1, */*", "application/json;as=Table;v=v1;g=meta.k8s.io",
		"a/b/c", "a", "*", ";", ",,", "a/b;q=x;y==z;w= 1 ", "a/;b=c", "/b", "a/b,c/d,e/f;q=2,g/*,*/h,i/j;q=0,k/l",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		want := goautoneg.ParseAccept(accept)
		got := parseAccept(accept)
		if len(got) != len(want) {
			t.Fatalf("%q has %d clauses, want %d", accept, len(got), len(want))
		}
		for i, w := range want {
			params := w.Params
			if params == nil {
				params = map[string]string{}
			}
			g := got[i]
			if g.typ != w.Type || g.subtype != w.SubType || g.q != w.Q && !(math.IsNaN(g.q) && math.IsNaN(w.Q)) {
				t.Errorf("clause %d of %q is %v, want %v", i, accept, g, w)
			}
			if diff := cmp.Diff(params, g.params); diff != "" {
				t.Errorf("clause %d of %q (-want +got):\n%s", i, accept, diff)
			}
		}
		if r, ok := Negotiate(accept); ok {
			if again, ok := Negotiate(r.Accept(true)); !ok || again != r {
				t.Errorf("%q is %v, asked for again %v, %v", accept, r, again, ok)
			}
		}
	})
}

// TestNegotiateObjects: what a client takes beside Tables.
func TestNegotiateObjects(t *testing.T) {
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	for _, tc := range []struct {
		accept string
		want   string // "": nothing that can be split
	}{
		{table + ",application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "json"}, // kubectl's
		{table, ""},
		{table + ",application/yaml", ""},
		{table + ",application/vnd.kubernetes.protobuf,application/json", "protobuf+json"},
		{table + ",*/*", "json"},
		{"application/json", "json"},
	} {
		r, ok := NegotiateObjects(tc.accept)
		if got := r.String(); ok != (tc.want != "") || ok && got != tc.want {
			t.Errorf("%s: got %q, %t, want %q", tc.accept, got, ok, tc.want)
		}
	}
}
