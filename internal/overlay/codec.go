package overlay

import (
	"yurt/internal/splice"
	"yurt/internal/wire"
)

// The fields of the messages that are read or changed.
var (
	metadata           = splice.Message(1, "metadata")
	metaLabels         = splice.List(11, "labels")
	podStatus          = splice.Message(3, "status")
	serviceSpec        = splice.Message(2, "spec")
	sliceAddressType   = splice.Message(4, "addressType")
	sliceEndpoints     = splice.List(2, "endpoints")
	endpointAddresses  = splice.List(1, "addresses")
	endpointConditions = splice.Message(2, "conditions")
	endpointTarget     = splice.Message(4, "targetRef")
	endpointNode       = splice.Message(6, "nodeName")
	conditionReady     = splice.Varint(1, "ready")
	conditionServing   = splice.Varint(2, "serving")
	subsets            = splice.List(2, "subsets")
	subsetReady        = splice.List(1, "addresses")
	subsetNotReady     = splice.List(2, "notReadyAddresses")
	addressIP          = splice.Message(1, "ip")
	addressTarget      = splice.Message(2, "targetRef")
	addressNode        = splice.Message(4, "nodeName")
	refUID             = splice.Message(4, "uid")
)

// codec reads and changes what the overlay concerns.
type codec struct{ splice.Editor }

func codecOf(enc wire.Encoding) *codec {
	if enc == wire.Protobuf {
		return &codec{splice.Editor{Format: splice.Protobuf()}}
	}
	return &codec{splice.Editor{Format: splice.JSON()}}
}
