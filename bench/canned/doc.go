// Package canned is an API server that has nothing behind it: it sends bytes that were encoded when it started, over TLS and HTTP/2
// as a kube-apiserver does, so that what a gateway costs is not hidden by what an API server costs.
//
// Every list and watch with a selector of its own is a table of its own, whose events are made up when they are asked for. It speaks
// as much of the protocol as a reflector and a gateway need: list, watch from a version, WatchList, get, /readyz, /version. It never
// checks who asks, and knows no selectors: all tables of a resource show the same objects.
package canned
