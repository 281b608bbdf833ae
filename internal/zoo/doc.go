// Command zoo shows that the tests of Deimos catch the defects that they are
// there for. It keeps a table of mutants: deliberate defects, each a few
// replaced lines of product code or of a dependency, with the tests that are to
// catch it. For each mutant it builds those tests with the defect in place,
// runs them, and demands that they fail.
//
//	go run ./internal/zoo             all mutants
//	go run ./internal/zoo -short      the cheap ones
//	go run ./internal/zoo -only M7,M8 some of them
//	go run ./internal/zoo -sim        those that the simulator sees, caught by it alone
//	go run ./internal/zoo -list       the table
//
// The product is never touched: a changed file is laid over its original with
// go build -overlay, and a dependency is replaced by a changed copy. A mutant
// whose old text does not occur exactly once is stale and fails the zoo, and so
// does one that does not build, one whose tests do not pass without it, and one
// that survives. A test that runs into its time limit has caught nothing, unless
// the table says that hanging is how the defect shows.
//
// The exit status is 0 when every mutant was caught, 1 when not, and 2 for
// wrong use.
package main
