package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// The write that a log cannot do without.
const (
	diskFileBytes  = 64 << 20
	diskWriteBytes = 256
)

// measureDisk returns the median time of one write and fdatasync at the end of
// what was written before, in a file that has its place already.
func (b *bench) measureDisk(ctx context.Context) (p50 float64, err error) {
	name := filepath.Join(b.dir, "disk")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(name)) }()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, diskFileBytes); err != nil {
		return 0, err
	}
	latencies := hdrhistogram.New(1, int64(time.Minute), 3)
	data := make([]byte, diskWriteBytes)
	began := time.Now()
	for at := int64(0); time.Since(began) < b.measure && at < diskFileBytes; at += diskWriteBytes {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		sent := time.Now()
		if _, err := f.WriteAt(data, at); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		if err := latencies.RecordValue(int64(time.Since(sent))); err != nil {
			return 0, err
		}
	}
	return time.Duration(latencies.ValueAtPercentile(50)).Seconds(), nil
}
