// Package result is what a run of the benchmark found: figures with all their samples, the limits that they must keep, and the ways
// to show both.
//
// Every figure that may be recorded is in Specs, so a run, the targets and docs/performance.md cannot drift apart. It never measures.
package result
