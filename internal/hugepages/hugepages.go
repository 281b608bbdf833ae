// Package hugepages asks the kernel for large pages under large buffers. Each
// page of new memory is a page fault the first time it is touched: 16,000 of them
// for a segment of the log that is read at a start, and 32 with pages of 2 MiB.
//
// The package refuses to be needed: it gives advice, which a kernel may not
// know or not follow, and nothing but the speed depends on it.
package hugepages
