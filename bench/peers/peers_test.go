package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serverCommand {
		if err := serveJetStream(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// startPeer starts a server that ends with the test.
func startPeer(t *testing.T, s system) node {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer") // the path of a socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n, err := s.start(t.Context(), dir)
	if reason, ok := isAbsence(err); ok {
		t.Skip(reason)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// eventually waits until the server has so many messages left: what it is told last may not be answered.
func eventuallyLeft(t *testing.T, n node, want int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		left, err := n.left(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if left == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d messages are left at the server, not %d", left, want)
		}
	}
}

// noneComesBack looks for half a second: RabbitMQ counts what was delivered and not acknowledged only a moment after its consumer is gone.
func noneComesBack(t *testing.T, n node) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	for range 10 {
		<-tick.C
		if left, err := n.left(t.Context()); err != nil || left != 0 {
			t.Fatalf("%d messages were not acknowledged (%v)", left, err)
		}
	}
}

// What is published is at the server, and each message is counted as acknowledged once.
func TestPublished(t *testing.T) {
	for _, s := range systems() {
		t.Run(s.id, func(t *testing.T) {
			n := startPeer(t, s)
			total := callers*s.batch + s.batch/2 // the last batch is not full
			var acked atomic.Int64
			l := load{node: n, batch: s.batch, size: bodySize, keys: keys(total), total: total}
			if err := l.publish(t.Context(), nil, func(count int) { acked.Add(int64(count)) }); err != nil {
				t.Fatal(err)
			}
			if acked.Load() != int64(total) {
				t.Errorf("%d of %d messages were acknowledged", acked.Load(), total)
			}
			eventuallyLeft(t, n, total)
		})
	}
}

// What is published is what is handled, as often as it was published, and nothing of it is left at the server.
func TestHandled(t *testing.T) {
	for _, s := range systems() {
		t.Run(s.id, func(t *testing.T) {
			n := startPeer(t, s)
			total := 4*callers*s.batch + s.batch/2 + 1 // the last batch is not full
			want := keys(total)
			var mu sync.Mutex
			handled := make(map[string]int, total)
			count := 0
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("not all of %d messages came within a minute", total))
			defer cancel()
			all, done := context.WithCancel(ctx)
			ended := make(chan error, 1)
			go func() {
				l := load{node: n, batch: s.batch, room: 4, size: bodySize, keys: want, total: total}
				ended <- l.endToEnd(all, func(m *message) {
					mu.Lock()
					defer mu.Unlock()
					if len(m.GetBody()) != bodySize || m.GetBody()[3] != 21 {
						t.Errorf("a message of %q has the body %x", m.GetKey(), m.GetBody())
					}
					handled[m.GetKey()]++
					count++
				})
			}()
			eventually(t, ctx, func() bool { mu.Lock(); defer mu.Unlock(); return count >= total })
			eventuallyLeft(t, n, 0)
			done()
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			noneComesBack(t, n)
			if count != total {
				t.Errorf("%d messages were handled, not %d", count, total)
			}
			for _, key := range want {
				if handled[key] != 1 {
					t.Errorf("the message of %s was handled %d times", key, handled[key])
				}
			}
		})
	}
}

func eventually(t *testing.T, ctx context.Context, is func() bool) {
	t.Helper()
	for tick := time.NewTicker(5 * time.Millisecond); !is(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
}

// A rate is measured between a warm-up and the end, and a measurement that is interrupted ends at once, with its server.
func TestInterrupted(t *testing.T) {
	for _, s := range systems() {
		t.Run(s.id, func(t *testing.T) {
			n := startPeer(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(300*time.Millisecond, cancel)
			began := time.Now()
			_, err := load{node: n, batch: s.batch, room: s.room, size: bodySize, keys: keys(10)}.measure(ctx, "queue", time.Hour, time.Hour)
			if err == nil || ctx.Err() == nil {
				t.Errorf("it ended with %v", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v to end", took)
			}
		})
	}
}
