// Package bench measures what users get: generated code and a sidecar, each in a process of its own, on a Unix socket and a disk that is synced.
package bench

import (
	"context"
	"errors"
	"fmt"
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

// binary is the path of mq, which TestMain builds.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "typedmq-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "mq")
	if out, err := exec.Command("go", "build", "-o", binary, "github.com/typedmq/typedmq/sidecar/cmd/mq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build mq: %v\n%s", err, out)
		return 1
	}
	return m.Run()
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
	command := exec.Command(binary, "serve", "--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--socket", socket)
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
