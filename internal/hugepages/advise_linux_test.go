package hugepages

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"
)

func TestAdvise(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
		t.Skipf("the kernel has no transparent huge pages: %v", err)
	}
	b := make([]byte, 8<<20)
	middle := uintptr(unsafe.Pointer(&b[len(b)/2]))
	if slices.Contains(flagsOf(t, middle), "hg") {
		t.Fatal("there is advice before Advise")
	}
	Advise(b[1 : len(b)-1])
	if flags := flagsOf(t, middle); !slices.Contains(flags, "hg") {
		t.Errorf("flags of the memory after Advise: %q, want hg among them", flags)
	}
	runtime.KeepAlive(b)
}

// Nothing but whole pages takes advice, and what is in them stays.
func TestAdviseOfLessThanAPage(t *testing.T) {
	page := os.Getpagesize()
	b := bytes.Repeat([]byte{7}, 4*page)
	for _, n := range []int{0, 1, page - 1, page, page + 1, 2*page - 1} {
		for _, from := range []int{0, 1, page - 1} {
			Advise(b[from : from+n])
		}
	}
	Advise(nil)
	if !bytes.Equal(b, bytes.Repeat([]byte{7}, 4*page)) {
		t.Error("Advise has changed the memory")
	}
}

// flagsOf returns what /proc/self/smaps tells of the mapping at an address.
func flagsOf(t *testing.T, address uintptr) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	here := false
	for line := range bytes.Lines(text) {
		var from, to uintptr
		if n, _ := fmt.Sscanf(string(line), "%x-%x ", &from, &to); n == 2 {
			here = from <= address && address < to
		}
		if flags, ok := bytes.CutPrefix(line, []byte("VmFlags:")); ok && here {
			var words []string
			for word := range bytes.FieldsSeq(flags) {
				words = append(words, string(word))
			}
			return words
		}
	}
	t.Fatalf("nothing is mapped at %x", address)
	return nil
}
