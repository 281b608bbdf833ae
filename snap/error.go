package snap

import (
	"errors"
	"fmt"
)

var (
	// ErrNone tells that there is no snapshot that fits.
	ErrNone = errors.New("no usable snapshot")
	// ErrVersion tells that a file was written by a newer version of Deimos.
	ErrVersion = errors.New("unknown snapshot format")
	// ErrIO tells that the operating system failed an operation. The cause is
	// wrapped beside it.
	ErrIO = errors.New("I/O failed")
)

// DamageError tells that a snapshot file is not what was once written.
type DamageError struct {
	// File is the path of the file.
	File string
	// Offset is where the first bad part begins, in bytes.
	Offset int64
	// Err says what is wrong there.
	Err error
}

// Error implements the error interface.
func (e *DamageError) Error() string {
	return fmt.Sprintf("snap: %s is damaged at offset %d: %v", e.File, e.Offset, e.Err)
}

// Unwrap returns what is wrong.
func (e *DamageError) Unwrap() error { return e.Err }

func ioError(doing, name string, err error) error {
	return fmt.Errorf("snap: %s %s: %w: %w", doing, name, ErrIO, err)
}
