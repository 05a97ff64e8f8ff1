// Package scenario runs a real hub on a disk that fails, with traffic around it, and hands the history to validate.
//
// It guarantees that a run is drawn from its seed: what is written, when the power goes (counted in changes of the disk,
// not in time) and what survives. The hub is a process that is killed, with all its threads wherever they are.
package scenario
