//go:build !linux

package load

// move moves the bytes of all callers until the run is over.
func (r *run) move() error {
	r.moveWithGoroutines()
	return nil
}
