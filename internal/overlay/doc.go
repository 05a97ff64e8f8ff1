// Package overlay keeps what a node finds out about its pods while the cloud is away, and lays it over what the cloud said
// last, on the way out to the node's clients.
//
// The kubelet's status writes go into entries, one for each pod, in a table of the store. An entry shows in the pod itself,
// and in the EndpointSlices and Endpoints that name the pod: with the addresses that it has now, and as ready as it is now.
// So Services and DNS names lead to the right places after an offline reboot. For a pod of which the kubelet writes nothing,
// an entry is assumed, which holds off after the heal what the cloud has concluded from the node's silence. lift.go says when
// an entry shows and when it gives way to the cloud again.
//
// It guarantees that an accepted status write survives a power cut; that an object which no entry concerns leaves with the
// bytes that it came with; that of the others nothing changes but a pod's status, an endpoint's addresses and its ready and
// serving conditions, in JSON and in protobuf alike, fields that nobody here knows included; and that no entry shows in a pod
// of another uid. One thing is lost: fields that this release does not know within a pod's status, once that is overlaid.
//
// It never edits what the store holds of the cloud, never changes a resourceVersion, starts no goroutine, speaks no HTTP, and
// does not know whether there is a link: it is told.
package overlay
