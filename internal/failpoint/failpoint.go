// Package failpoint makes named places in the code fail on demand: with an error, a delay, or the end of the process.
//
// Tests arm points; the environment variable YURT_FAILPOINTS arms them in a whole process ("name=action;name=action").
// With nothing armed a point costs one atomic load. It never changes what a program does unless something is armed.
package failpoint
