package mq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestHandlersFollowEachOther: whatever a handler does to its goroutine, the messages that wait behind it are handled, in order and not before.
func TestHandlersFollowEachOther(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 64
		var order []string // by one handler at a time
		running := 0
		r := run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error {
			if running++; running != 1 {
				t.Errorf("%d handlers at a time", running)
			}
			defer func() { running-- }()
			order = append(order, m.GetValue())
			switch m.GetValue()[:1] {
			case "g":
				runtime.Goexit()
			case "p":
				panic("boom")
			case "e":
				return errors.New("boom")
			}
			return nil
		}, WithConcurrency(1), WithPrefetch(63))
		k := <-b.consumers
		values := strings.Fields("a1 g1 a2 g2 g3 p1 g4 e1 a3 p2 g5")
		if err := k.deliver(values...); err != nil {
			t.Fatal(err)
		}
		settled := b.allSettled()
		expect(t, "handled", order, values...)
		if len(settled) != len(values) {
			t.Errorf("settled: %q", settled)
		}
		if err := k.deliver("a4"); err != nil {
			t.Fatal(err)
		}
		expect(t, "settled afterwards", b.nextSettled(t), "11 ack")
		r.finish(t)
	})
}

// TestHandlersThatWaitGetCompany: each that waits for something leaves its turn to the next, up to the limit; those that end make room.
func TestHandlersThatWaitGetCompany(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 1000
		var running atomic.Int64
		proceed := make(chan struct{})
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error {
			running.Add(1)
			defer running.Add(-1)
			<-proceed
			return nil
		}, WithConcurrency(100), WithPrefetch(900))
		k := <-b.consumers
		if err := k.deliver(make([]string, 500)...); err != nil {
			t.Fatal(err)
		}
		for range 400 {
			synctest.Wait()
			if n := running.Load(); n != 100 {
				t.Fatalf("%d handlers run", n)
			}
			proceed <- struct{}{}
			if len(b.allSettled()) != 1 {
				t.Fatal("one has returned, and nothing was settled")
			}
		}
		close(proceed)
		r.finish(t)
		if n := r.worker.Counts().Acked; n != 500 {
			t.Errorf("%d acknowledged", n)
		}
	})
}

// TestEachHandlerHasItsOwnDeadline, though one timer serves them all.
func TestEachHandlerHasItsOwnDeadline(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 8
		began := time.Now()
		ended := make(chan string, 8)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			if m.GetValue() == "quick" {
				return nil
			}
			<-ctx.Done()
			ended <- fmt.Sprint(m.GetValue(), " ", time.Since(began), " ", context.Cause(ctx))
			return ctx.Err()
		})
		k := <-b.consumers
		for _, m := range []struct {
			after time.Duration
			value string
		}{{0, "a"}, {time.Second, "quick"}, {19 * time.Second, "b"}, {0, "c"}, {39 * time.Second, "d"}, {58 * time.Second, "quick"}, {0, "e"}} {
			advance(m.after)
			if err := k.deliver(m.value); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		advance(10 * time.Minute) // in which the timer rests
		if err := k.deliver("f"); err != nil {
			t.Fatal(err)
		}
		advance(time.Minute)
		close(ended)
		var got []string
		for line := range ended {
			got = append(got, line)
		}
		if len(got) > 2 && got[1] > got[2] {
			got[1], got[2] = got[2], got[1]
		}
		const cause = " mq: processing timeout after 1m0s"
		expect(t, "ended", got, "a 1m0s"+cause, "b 1m20s"+cause, "c 1m20s"+cause, "d 1m59s"+cause, "e 2m57s"+cause, "f 12m57s"+cause)
		r.finish(t)
	})
}
