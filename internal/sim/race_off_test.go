//go:build !race

package sim

const seedsMost = 1 << 31
