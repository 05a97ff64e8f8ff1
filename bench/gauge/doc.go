// Package gauge reads what processes and block devices have used, from /proc and /sys, and makes the things that are measured
// there: a disk of one's own, a control group with little memory, files that are not in the page cache. It never judges a figure.
package gauge
