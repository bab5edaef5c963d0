package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// rawDisk measures sequential writes of so many bytes to a file, each synced before the next.
func rawDisk(bytes int) measure {
	return func(ctx context.Context, s settings, _ string) (out []measured, err error) {
		f, err := os.CreateTemp(s.dir, "mqbench")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
		block := make([]byte, bytes)
		for i := range block {
			block[i] = byte(i * 7)
		}
		var n int
		began := time.Now()
		for ; time.Since(began) < s.time; n++ {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if _, err := f.Write(block); err != nil {
				return nil, fmt.Errorf("write: %w", err)
			}
			if err := f.Sync(); err != nil {
				return nil, fmt.Errorf("sync: %w", err)
			}
		}
		took := time.Since(began).Seconds()
		return []measured{{unit: mebibytesPerSecond, value: float64(n*bytes) / (1 << 20) / took}}, nil
	}
}
