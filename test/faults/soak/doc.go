// Package soak lets two nodes live through cuts, grey links, kills and power
// cuts in the order that a seed gives, one fault after the other for as long as
// it is told, while the cloud changes what they are to run.
//
// Between two faults it asserts that both sides agree: each node runs exactly
// the pods that the cloud has for it, all of them ready. Throughout it asserts
// that no list that the hub answers is older than one before it, and that what
// ran before a power cut in the dark runs again. At the end it reports how
// memory and disk have grown. The seed is printed, and SEED draws the same faults
// again; the machine's own timing is not replayed. SOAK says how long it is.
package soak
