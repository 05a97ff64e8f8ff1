package wire

import "errors"

// Status is a metav1.Status: the answer that says what became of a request.
type Status struct {
	Code    int
	Reason  string // NotFound, Expired, ...
	Message string
	Details StatusDetails
}

// StatusDetails says more about a Status. The zero value is left out.
type StatusDetails struct {
	Name, Group, Kind, UID string
	Causes                 []StatusCause
	RetryAfterSeconds      int
}

// StatusCause is one of the causes of a Status.
type StatusCause struct {
	Type    string // ResourceVersionTooLarge, ...
	Message string
	Field   string
}

// AppendStatus appends a status as the body of an answer. It says Success if the code is below 400, else Failure.
func AppendStatus(dst []byte, enc Encoding, s Status) []byte { return dst }

// ParseStatus reads a Status in item form, as ParseObject and WatchDecoder.Next return it.
func ParseStatus(enc Encoding, raw []byte) (Status, error) { return Status{}, errors.ErrUnsupported }
