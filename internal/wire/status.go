package wire

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// Status is a metav1.Status: the answer that says what became of a request.
type Status struct {
	Code    int
	Reason  string // NotFound, Expired, ...
	Message string
	Details *StatusDetails
}

// StatusDetails says more about a Status.
type StatusDetails struct {
	Name              string        `json:"name,omitempty"`
	Group             string        `json:"group,omitempty"`
	Kind              string        `json:"kind,omitempty"`
	UID               string        `json:"uid,omitempty"`
	Causes            []StatusCause `json:"causes,omitempty"`
	RetryAfterSeconds int           `json:"retryAfterSeconds,omitempty"`
}

// StatusCause is one of the causes of a Status.
type StatusCause struct {
	Type    string `json:"reason,omitempty"` // ResourceVersionTooLarge, ...
	Message string `json:"message,omitempty"`
	Field   string `json:"field,omitempty"`
}

// statusType is the type of every Status.
func statusType() TypeMeta { return TypeMeta{"v1", "Status"} }

// IsStatus reports whether an object of this type is a Status.
func (tm TypeMeta) IsStatus() bool { return tm == statusType() }

// AppendStatus appends a status as the body of an answer. It says Success if the code is below 400, else Failure.
func AppendStatus(dst []byte, enc Encoding, s Status) []byte {
	return AppendObject(dst, enc, statusType(), s.item(enc))
}

// ParseStatus reads a Status as ParseObject and WatchDecoder return it.
func ParseStatus(enc Encoding, raw []byte) (Status, error) {
	if enc == Protobuf {
		return parseProtoStatus(raw)
	}
	var j jsonStatus
	if err := json.Unmarshal(raw, &j); err != nil {
		return Status{}, fmt.Errorf("%w Status: %w", ErrMalformed, err)
	}
	return Status{j.Code, j.Reason, j.Message, j.Details}, nil
}

func (s Status) outcome() string {
	if s.Code < http.StatusBadRequest {
		return "Success"
	}
	return "Failure"
}

// jsonStatus is a Status in item form.
type jsonStatus struct {
	Metadata struct{}       `json:"metadata"`
	Status   string         `json:"status,omitempty"`
	Message  string         `json:"message,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Details  *StatusDetails `json:"details,omitempty"`
	Code     int            `json:"code,omitempty"`
}

// item returns the status in item form.
func (s Status) item(enc Encoding) []byte {
	if enc == Protobuf {
		return s.protoItem()
	}
	b, err := json.Marshal(jsonStatus{Status: s.outcome(), Message: s.Message, Reason: s.Reason, Details: s.Details, Code: s.Code})
	if err != nil {
		panic(fmt.Sprintf("wire: marshal a Status: %v", err))
	}
	return b
}

// Field numbers of metav1.Status, StatusDetails and StatusCause.
const (
	statusOutcome = 2
	statusMessage = 3
	statusReason  = 4
	statusDetails = 5
	statusCode    = 6

	detailsName              = 1
	detailsGroup             = 2
	detailsKind              = 3
	detailsCauses            = 4
	detailsRetryAfterSeconds = 5
	detailsUID               = 6

	causeType    = 1
	causeMessage = 2
	causeField   = 3
)

func (s Status) protoItem() []byte {
	b := appendString(nil, metadataField, string(appendListMeta(nil, ListMeta{})))
	b = appendString(b, statusOutcome, s.outcome())
	b = appendString(b, statusMessage, s.Message)
	b = appendString(b, statusReason, s.Reason)
	if s.Details != nil {
		b = appendString(b, statusDetails, string(s.Details.proto()))
	}
	return appendNumber(b, statusCode, int64(s.Code))
}

func (d StatusDetails) proto() []byte {
	b := appendString(nil, detailsName, d.Name)
	b = appendString(b, detailsGroup, d.Group)
	b = appendString(b, detailsKind, d.Kind)
	for _, c := range d.Causes {
		cause := appendString(nil, causeType, c.Type)
		cause = appendString(cause, causeMessage, c.Message)
		cause = appendString(cause, causeField, c.Field)
		b = appendString(b, detailsCauses, string(cause))
	}
	b = appendNumber(b, detailsRetryAfterSeconds, int64(d.RetryAfterSeconds))
	return appendString(b, detailsUID, d.UID)
}

func parseProtoStatus(m message) (Status, error) {
	var s Status
	var code int64
	for len(m) > 0 {
		f, err := m.next()
		if err != nil {
			return s, err
		}
		switch f.num {
		case statusMessage:
			err = f.text(&s.Message)
		case statusReason:
			err = f.text(&s.Reason)
		case statusDetails:
			s.Details, err = parseProtoDetails(f.bytes)
		case statusCode:
			err = f.number(&code)
		}
		if err != nil {
			return s, err
		}
	}
	s.Code = int(int32(code))
	return s, nil
}

func parseProtoDetails(m message) (*StatusDetails, error) {
	var d StatusDetails
	var seconds int64
	for len(m) > 0 {
		f, err := m.next()
		if err != nil {
			return nil, err
		}
		switch f.num {
		case detailsName:
			err = f.text(&d.Name)
		case detailsGroup:
			err = f.text(&d.Group)
		case detailsKind:
			err = f.text(&d.Kind)
		case detailsUID:
			err = f.text(&d.UID)
		case detailsRetryAfterSeconds:
			err = f.number(&seconds)
		case detailsCauses:
			var c StatusCause
			err = c.parseProto(f.bytes)
			d.Causes = append(d.Causes, c)
		}
		if err != nil {
			return nil, err
		}
	}
	d.RetryAfterSeconds = int(int32(seconds))
	return &d, nil
}

func (c *StatusCause) parseProto(m message) error {
	for len(m) > 0 {
		f, err := m.next()
		if err != nil {
			return err
		}
		switch f.num {
		case causeType:
			err = f.text(&c.Type)
		case causeMessage:
			err = f.text(&c.Message)
		case causeField:
			err = f.text(&c.Field)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
