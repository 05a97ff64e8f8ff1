package wire

import (
	"fmt"
	"mime"
	"slices"
	"sort"
	"strconv"
	"strings"
)

const (
	jsonType     = "application/json"
	protobufType = "application/vnd.kubernetes.protobuf"
	yamlType     = "application/yaml"
	cborType     = "application/cbor"

	metaGroup = "meta.k8s.io"
)

// MediaType returns the media type of the encoding.
func (e Encoding) MediaType() string {
	switch e {
	case JSON:
		return jsonType
	case Protobuf:
		return protobufType
	}
	return ""
}

// ContentType returns the Content-Type with which the API server answers, a watch or anything else.
func ContentType(enc Encoding, watch bool) string {
	if watch && enc == Protobuf {
		return protobufType + ";stream=watch"
	}
	return enc.MediaType()
}

// ParseContentType returns the encoding of an answer with this Content-Type, and false if it is none of ours.
func ParseContentType(contentType string) (Encoding, bool) {
	mediaType, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, false
	}
	switch mediaType {
	case jsonType:
		return JSON, true
	case protobufType:
		return Protobuf, true
	}
	return 0, false
}

// Transform is what the client asks the API server to make of the objects.
type Transform uint8

// The transforms that are known.
const (
	// Whole leaves the objects as they are.
	Whole Transform = iota
	// PartialMetadata turns each object into a meta.k8s.io/v1 PartialObjectMetadata.
	PartialMetadata
	// Table turns a list into a Table. It can't be split, so it is never replicated.
	Table
)

func (t Transform) String() string {
	switch t {
	case Whole:
		return "whole"
	case PartialMetadata:
		return "metadata"
	case Table:
		return "table"
	}
	return fmt.Sprintf("Transform(%d)", uint8(t))
}

// Preference is the order in which a client takes encodings. What it gets depends on the resource: custom resources have no
// protobuf of their own, but everything has JSON, so nothing counts that comes after JSON.
type Preference uint8

// The preferences.
const (
	OnlyJSON Preference = iota
	ProtobufOrJSON
	OnlyProtobuf
)

func (p Preference) String() string {
	switch p {
	case OnlyJSON:
		return "json"
	case ProtobufOrJSON:
		return "protobuf+json"
	case OnlyProtobuf:
		return "protobuf"
	}
	return fmt.Sprintf("Preference(%d)", uint8(p))
}

// Representation is what is left of an Accept header when all is taken away that does not change the answer. It is comparable:
// the same request in equal representations gets the same answer.
type Representation struct {
	Preference Preference
	Transform  Transform
}

// String returns the representation in a short form that will not change: "protobuf+json", "json;metadata".
func (r Representation) String() string {
	if r.Transform == Whole {
		return r.Preference.String()
	}
	return r.Preference.String() + ";" + r.Transform.String()
}

// ParseRepresentation reads what String returned.
func ParseRepresentation(s string) (Representation, error) {
	for _, p := range []Preference{OnlyJSON, ProtobufOrJSON, OnlyProtobuf} {
		for _, t := range []Transform{Whole, PartialMetadata, Table} {
			if r := (Representation{p, t}); r.String() == s {
				return r, nil
			}
		}
	}
	return Representation{}, fmt.Errorf("parse representation %q: unknown", s)
}

// Accept returns the Accept header that asks for this representation, of a list or else of an object or a watch.
func (r Representation) Accept(list bool) string {
	params := ""
	switch {
	case r.Transform == PartialMetadata && list:
		params = ";as=" + partialKind + "List;g=" + metaGroup + ";v=v1"
	case r.Transform == PartialMetadata:
		params = ";as=" + partialKind + ";g=" + metaGroup + ";v=v1"
	case r.Transform == Table:
		params = ";as=Table;g=" + metaGroup + ";v=v1"
	}
	switch r.Preference {
	case ProtobufOrJSON:
		return protobufType + params + "," + jsonType + params
	case OnlyProtobuf:
		return protobufType + params
	}
	return jsonType + params
}

// Negotiate reads an Accept header as the API server does. It reports false if the answer may be one that can't be split for
// another reason than being a Table: YAML, CBOR, a v1beta1 transform, indented JSON, 406 Not Acceptable.
func Negotiate(accept string) (Representation, bool) {
	if accept == "" {
		return Representation{}, true
	}
	return negotiate(parseAccept(accept))
}

// NegotiateObjects reads the part of an Accept header that does not ask for Tables: what a client takes that would rather have
// one. It reports false if that is nothing, or nothing that can be split.
func NegotiateObjects(accept string) (Representation, bool) {
	return negotiate(slices.DeleteFunc(parseAccept(accept), func(c clause) bool { return c.params["as"] == "Table" }))
}

func negotiate(clauses []clause) (Representation, bool) {
	var chosen []offer
	for _, clause := range clauses {
		for _, o := range clause.offers() {
			if len(chosen) > 0 && o.transform != chosen[0].transform {
				// The first one is reached for every resource when it transforms. When it does not, custom resources
				// get the second: two transforms in one header.
				r, _ := represent(chosen[:1])
				return r, chosen[0].transform != Whole
			}
			chosen = append(chosen, o)
			if o.mediaType != protobufType {
				return represent(chosen)
			}
		}
	}
	return represent(chosen)
}

// represent turns the offers that the server may take, of one transform and all but the last protobuf, into a representation.
func represent(offers []offer) (Representation, bool) {
	if len(offers) == 0 {
		return Representation{}, false
	}
	first, last := offers[0], offers[len(offers)-1]
	r := Representation{Transform: first.transform}
	switch {
	case last.mediaType == jsonType && first.mediaType == protobufType:
		r.Preference = ProtobufOrJSON
	case last.mediaType == protobufType:
		r.Preference = OnlyProtobuf
	}
	splittable := true
	for _, o := range offers {
		splittable = splittable && o.splittable
	}
	return r, splittable
}

// offer is one encoding and transform that the server may answer a clause with.
type offer struct {
	mediaType  string
	transform  Transform
	splittable bool
}

// clause is one of the alternatives of an Accept header.
type clause struct {
	typ, subtype string
	q            float64
	params       map[string]string
}

// offers returns what the API server may answer to a clause, in the server's order. What the server would pass over is left out;
// CBOR, which is behind a feature gate, is not.
func (c clause) offers() []offer {
	var offers []offer
	for _, mediaType := range []string{jsonType, yamlType, protobufType, cborType} {
		typ, subtype, _ := strings.Cut(mediaType, "/")
		matches := c.typ == typ && (c.subtype == subtype || c.subtype == "*") || c.typ == "*" && c.subtype == "*"
		if o, ok := c.offer(mediaType); ok && matches {
			offers = append(offers, o)
		}
	}
	return offers
}

// offer says what this clause makes of a media type, and false if the server passes over it.
func (c clause) offer(mediaType string) (offer, bool) {
	if s := c.params["stream"]; s != "" && s != "watch" {
		return offer{}, false
	}
	if v := c.params["sv"]; v != "" && v != "v1" {
		return offer{}, false
	}
	o := offer{mediaType: mediaType, splittable: mediaType == jsonType || mediaType == protobufType}
	if c.params["pretty"] == "1" {
		o.splittable = false
	}
	_, as := c.params["as"]
	_, g := c.params["g"]
	_, v := c.params["v"]
	if !as && !g && !v {
		return o, true
	}
	version := c.params["v"]
	if c.params["g"] != metaGroup || version != "v1" && version != "v1beta1" {
		return offer{}, false
	}
	switch c.params["as"] {
	case "Table":
		o.transform = Table
		return o, mediaType == jsonType || mediaType == yamlType
	case partialKind, partialKind + "List":
		o.transform = PartialMetadata
		o.splittable = o.splittable && version == "v1"
		return o, true
	}
	return offer{}, false
}

// parseAccept returns the clauses of an Accept header in the API server's order of preference, which is not quite
// that of RFC 9110: a clause without a wildcard comes before one with it whatever their q.
func parseAccept(accept string) []clause {
	var clauses []clause
	for part := range strings.SplitSeq(accept, ",") {
		mediaType, params, _ := strings.Cut(strings.Trim(part, " "), ";")
		typ, rest, _ := strings.Cut(mediaType, "/")
		subtype, more, _ := strings.Cut(rest, "/")
		c := clause{typ: strings.Trim(typ, " "), subtype: strings.Trim(subtype, " "), q: 1, params: map[string]string{}}
		if rest == "" && c.typ == "*" {
			c.subtype = "*"
		} else if rest == "" || more != "" {
			continue
		}
		for param := range strings.SplitSeq(params, ";") {
			key, rest, _ := strings.Cut(param, "=")
			value, more, _ := strings.Cut(rest, "=")
			if rest == "" || more != "" {
				continue
			}
			if key = strings.Trim(key, " "); key == "q" {
				c.q, _ = strconv.ParseFloat(value, 32)
				continue
			}
			c.params[key] = strings.Trim(value, " ")
		}
		clauses = append(clauses, c)
	}
	sort.Sort(byPreference(clauses))
	return clauses
}

// byPreference orders clauses as the API server does. It is no strict order, so the algorithm counts: it must be
// sort.Sort.
type byPreference []clause

func (s byPreference) Len() int      { return len(s) }
func (s byPreference) Swap(i, j int) { s[i], s[j] = s[j], s[i] }
func (s byPreference) Less(i, j int) bool {
	a, b := s[i], s[j]
	return a.q > b.q || a.typ != "*" && b.typ == "*" || a.subtype != "*" && b.subtype == "*"
}
