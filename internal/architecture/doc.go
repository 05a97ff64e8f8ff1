// Package architecture holds the rules of this repository that no linter knows, as tests.
//
// It reads the sources and the documents of the checkout and compares them with the table of floors (floors_test.go), with the
// rules for Go sources (source_test.go) and with the rules for documents (docs_test.go). Every rule is a pure function from the
// tree to what is wrong with it; testdata shows for each rule a tree that it accepts and one that it refuses.
//
// The package never looks at behaviour, runs no other program, and has no code outside its tests.
package architecture
