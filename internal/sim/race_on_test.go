//go:build race

package sim

// The race detector makes a seed take five times as long, and has little to
// find in one goroutine.
const seedsMost = 10
