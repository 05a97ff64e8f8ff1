// Package offline is what a request gets that neither a replica nor the cloud
// can answer: the answers that the API server gave last (Book), the events of
// the dark time and their replay (Journal), and the table of what each write is
// told while the cloud is away (Desk).
//
// It guarantees that nothing is invented: a token is one that the API server
// issued, a node one that it knows, an event is replayed with its own
// timestamps, and whatever is not in the table is refused with 503 and the
// outage's start. It never decides whether the cloud is away; its caller does.
package offline
