// Package traffic is what goes on around a hub under test: an API server that keeps to the protocol and whose link can be
// cut, and clients that list, watch and write through the hub and record what they are told.
//
// It guarantees that what the API server does is recorded before anybody is told, and what a client is told as it came.
// It judges nothing.
package traffic
