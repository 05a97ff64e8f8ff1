// Package fairness shares the hub between its clients: Gate says when a request
// may be answered, Strangers when a token may be asked about.
//
// It guarantees that the node is never slowed down for others, that no client
// has more than its share of what is answered at a time and of what is answered
// in a second, and that what waits is bounded in number and in time. It never
// looks at a request, and never ends one that it has let in.
package fairness
