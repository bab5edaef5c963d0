package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestIdle: what is leased is work, what waits for a consumer or for a time is none.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		idle := func(when string, want bool) {
			t.Helper()
			synctest.Wait()
			if w.Idle(0) != want {
				t.Errorf("%s: idle is %t, should be %t", when, !want, want)
			}
		}
		idle("at the start", true)
		w.declare(nil)
		w.publish(bags, 0, 1, 1)
		idle("nobody consumes", true)
		s := w.join("baggage", bags, 10)
		idle("a message is leased", false)
		d := w.next(s)
		idle("a message was delivered", false)
		if !w.Idle(1) || w.Idle(2) {
			t.Error("what a consumer lets wait for the clock is no work, and no more than that")
		}
		w.settle("baggage", bags, broker.Retried, d...)
		idle("a message waits for its retry", true)
		time.Sleep(time.Second)
		idle("a message is leased again", false)
		w.settle("baggage", bags, broker.Acked, w.next(s)...)
		idle("all is settled", true)
		s.Close(false)
		idle("the consumer is gone", true)
		time.Sleep(3 * time.Minute)
		idle("the group rests", true)
	})
}

// TestKeepConsumers: a consumer that is kept lives on without heartbeats, and one that is not does not.
func TestKeepConsumers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.declare(nil)
		s := w.join("baggage", bags, 10)
		synctest.Wait()
		w.KeepConsumers(time.Hour)
		time.Sleep(time.Hour)
		w.publish(bags, 0, 1, 1)
		if d := w.next(s); len(d) != 1 {
			t.Fatalf("delivered %v", d)
		}
		time.Sleep(s.Lease + time.Second)
		if _, err := s.Next(t.Context(), 1<<20); err == nil {
			t.Error("the session outlives its lease")
		}
	})
}
