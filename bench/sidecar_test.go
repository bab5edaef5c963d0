// Package bench measures what users get: generated code and a sidecar, each in a process of its own, on a Unix socket and a disk that is synced.
package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

// built is mq, built for the first benchmark that needs it.
var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// binary returns the path of mq.
func binary(b *testing.B) string {
	b.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "typedmq-bench-"); built.err != nil {
			return
		}
		command := exec.Command("go", "build", "-o", filepath.Join(built.dir, "mq"), "github.com/typedmq/typedmq/sidecar/cmd/mq")
		command.Stderr = os.Stderr
		built.err = command.Run()
	})
	if built.err != nil {
		b.Fatalf("build mq: %v", built.err)
	}
	return filepath.Join(built.dir, "mq")
}

// serve starts a sidecar on a directory of its own, which ends with the benchmark, and returns a client of it.
func serve(b *testing.B) *mq.Client {
	b.Helper()
	dir, err := os.MkdirTemp("", "mq") // the path of a socket is bounded
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "mq.sock")
	command := exec.Command(binary(b), "serve", "--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--socket", socket)
	if err := command.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			b.Fatalf("mq serve does not listen: %v", err)
		}
	}
	client, err := mq.Dial(context.Background(), mq.WithAddress("unix://"+socket))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = client.Close() })
	return client
}

// together does something n times, from so many callers, and returns how long that took.
func together(b *testing.B, callers, n int, do func() error) time.Duration {
	b.Helper()
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	close(left)
	var (
		work sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	began := time.Now()
	for range callers {
		work.Go(func() {
			for range left {
				if err := do(); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	work.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return took
}

// body is bytes that do not compress.
func body(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(rand.Uint32())
	}
	return out
}

func median(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
