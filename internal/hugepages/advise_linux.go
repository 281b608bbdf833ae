package hugepages

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Advise asks for huge pages under b, which must not have been touched yet to gain
// by that, as with madvise(2) and MADV_HUGEPAGE. The pages at its ends that it
// shares with others are left out. The advice stays with the memory when the
// collector gives it to somebody else.
func Advise(b []byte) {
	page := uintptr(os.Getpagesize())
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (page - 1)
	if uintptr(len(b)) < skip+page {
		return
	}
	b = b[skip:]
	// It fails where there are no huge pages.
	_ = unix.Madvise(b[:uintptr(len(b))&^(page-1)], unix.MADV_HUGEPAGE)
}
