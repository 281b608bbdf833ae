// Package walmeta is the generated encoding of the metadata in the log
// segments of package wal. It holds no behaviour and starts no goroutine.
package walmeta
