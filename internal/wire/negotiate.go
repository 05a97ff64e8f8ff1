package wire

// Transform is what the client asks the API server to make of the objects.
type Transform uint8

// The transforms that are known.
const (
	// Whole objects as they are.
	Whole Transform = iota
	// PartialMetadata turns each object into a meta.k8s.io/v1 PartialObjectMetadata.
	PartialMetadata
	// Table turns a list into a meta.k8s.io Table. It is never split.
	Table
)

// Preference is the order in which a client takes encodings. What it gets depends on the resource: custom resources have no
// protobuf of their own.
type Preference uint8

// The preferences. Since every resource has JSON, nothing counts that comes after it.
const (
	PreferJSON Preference = iota
	PreferProtobuf
	OnlyProtobuf
)

// Representation is what is left of an Accept header when all that does not change the answer is taken away. It is
// comparable: two requests for the same thing in equal representations get the same bytes.
type Representation struct {
	Preference Preference
	Transform  Transform
}

// Negotiate reads an Accept header as the API server does. It reports false if the answer may be of a kind that this package can't
// split (YAML, CBOR, v1beta1 transforms, indented JSON) or would be 406 Not Acceptable.
func Negotiate(accept string) (Representation, bool) { return Representation{}, false }

// Accept returns the Accept header that asks for this representation, of a list or of an object or watch.
func (r Representation) Accept(list bool) string { return "" }

// String returns the representation in a form that is stable and short: "protobuf+json", "json;as=metadata".
func (r Representation) String() string { return "" }

// ContentType returns the Content-Type with which the API server answers.
func ContentType(enc Encoding, watch bool) string { return "" }

// ParseContentType returns the encoding of an answer with this Content-Type, and false if it is none of ours.
func ParseContentType(contentType string) (Encoding, bool) { return 0, false }
