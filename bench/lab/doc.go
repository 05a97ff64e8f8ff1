// Package lab measures: it boots what the rows of the benchmark need, puts the same load on an API server and on each gateway in
// front of it, side by side in one run, and records the samples.
//
// It knows a gateway by its address, its process and, for the hub, its flags; it never looks inside. Load comes from this process,
// whose own share of the processor is recorded with the result.
package lab
