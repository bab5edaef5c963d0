package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestASlowDiskTakesNoLeases: a consumer that is heard of keeps what it has, however long commits take.
func TestASlowDiskTakesNoLeases(t *testing.T) {
	inBubbleWith(t, func(_ string, o *mqv1.TopicOptions) {
		onePartition("", o)
		o.Ordering = mqv1.Ordering_ORDERING_NONE.Enum()
	}, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 5000, 5000)
		s := w.join("board", departed, 100)
		stop := beat(s)
		defer stop()
		var got []delivery
		for len(got) < 100 {
			got = append(got, w.next(s)...)
		}
		w.engine.stall.Store(int64(40 * time.Second)) // of each commit
		done := make(chan []broker.SettleRefusal)
		for i := range 10 { // acks come one after the other, as handlers return
			go func() {
				time.Sleep(time.Duration(i) * 9 * time.Second)
				r, err := w.Settle(t.Context(), "board", departed, got[i].token, nil)
				if err != nil {
					t.Error(err)
				}
				done <- r
			}()
		}
		refused := 0
		for range 10 {
			refused += len(<-done)
		}
		w.engine.stall.Store(0)
		synctest.Wait()
		sum := w.total("board", departed)
		groups, _ := w.Groups(t.Context(), "board", departed)
		if sum.Counters.Lost > 0 || groups[0].Consumers != 1 {
			t.Fatalf("%d losses, %d acks refused, %d consumers; the one consumer beat every 10s all the time", sum.Counters.Lost, refused, groups[0].Consumers)
		}
	})
}

// TestAnExtendedLeaseKeepsAGroupUp: it lasts as long as it was extended, though nobody is there.
func TestAnExtendedLeaseKeepsAGroupUp(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 1, 1)
		sl, err := w.Pull(t.Context(), "board", departed, 1, 30*time.Second, 0)
		if err != nil {
			t.Fatal(err)
		}
		d := deliveries(t, sl)
		if r, err := w.Settle(t.Context(), "board", departed, nil, []broker.Settlement{{Token: d[0].token, Outcome: broker.Extended, After: time.Hour}}); err != nil || len(r) > 0 {
			t.Fatal(err, r)
		}
		time.Sleep(5 * time.Minute)
		sl, err = w.Pull(t.Context(), "board", departed, 1, 30*time.Second, 0)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(deliveries(t, sl)); n > 0 {
			t.Errorf("the message is leased to another after 5 minutes of an hour")
		}
		if r := w.settle("board", departed, broker.Acked, d...); len(r) > 0 {
			t.Errorf("ack: %v", r[0].Error)
		}
	})
}

// TestALongCallKeepsItsGroupUp: a call takes longer than a group waits before it rests.
func TestALongCallKeepsItsGroupUp(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.bury(12000, 2, sameError)
		w.engine.stall.Store(int64(15 * time.Second))
		n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true})
		w.engine.stall.Store(0)
		if err != nil || n != 12000 {
			t.Errorf("redriven %d: %v", n, err)
		}
	})
}

// TestALetterIsMovedWhileItsMessageDiesAgain: after a seek back over it, in either order within one turn.
func TestALetterIsMovedWhileItsMessageDiesAgain(t *testing.T) {
	for name, order := range map[string]bool{"reject first": true, "redrive first": false} {
		t.Run(name, func(t *testing.T) {
			inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
				w.publish(departed, 0, 2, 2)
				s := w.join("board", departed, 10)
				stop := beat(s)
				defer stop()
				var got []delivery
				for len(got) < 2 {
					got = append(got, w.next(s)...)
				}
				w.settle("board", departed, broker.Rejected, got[0])
				if _, err := w.Seek(t.Context(), "board", departed, nil, broker.SeekTo{Edge: "earliest"}); err != nil {
					t.Fatal(err)
				}
				got = nil
				for len(got) < 2 {
					got = append(got, w.next(s)...)
				}
				w.engine.stall.Store(int64(time.Second))
				go w.Settle(t.Context(), "board", departed, nil, []broker.Settlement{{Token: got[1].token, Outcome: broker.Retried, Error: "x", After: time.Hour, HasAfter: true}})
				synctest.Wait() // the commit is under way: what follows shares the next turn
				done := make(chan int, 2)
				reject := func() { w.settle("board", departed, broker.Rejected, got[0]); done <- -1 }
				redrive := func() {
					n, _, _, err := w.Discard(t.Context(), "board", departed, broker.Selection{All: true})
					t.Log("discarded", n, err)
					done <- n
				}
				if order {
					go reject()
					synctest.Wait()
					go redrive()
				} else {
					go redrive()
					synctest.Wait()
					go reject()
				}
				<-done
				<-done
				w.engine.stall.Store(0)
				list, _, err := w.DeadLetters(t.Context(), "board", departed, "", 10, "")
				if err != nil {
					t.Fatal(err)
				}
				if sum := w.total("board", departed); sum.DeadLetters != int64(len(list)) {
					t.Errorf("status says %d dead letters, there are %d", sum.DeadLetters, len(list))
				}
				if order && len(list) != 0 {
					t.Errorf("discarded after it died, and it is still there")
				}
			})
		})
	}
}

// TestARepeatedAckCountsOnce.
func TestARepeatedAckCountsOnce(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 1, 1)
		s := w.join("board", departed, 10)
		stop := beat(s)
		defer stop()
		got := w.next(s)
		w.settle("board", departed, broker.Acked, got...)
		w.settle("board", departed, broker.Acked, got...)
		w.settle("board", departed, broker.Skipped, got...)
		if sum := w.total("board", departed); sum.Counters.Acknowledged != 1 {
			t.Errorf("acknowledged %d of 1 message", sum.Counters.Acknowledged)
		}
	})
}

// TestAConsumerOfOneMessageAtATimeCostsNoReadForEach.
func TestAConsumerOfOneMessageAtATimeCostsNoReadForEach(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 5000, 5000)
		s := w.join("board", departed, 1)
		stop := beat(s)
		defer stop()
		got := w.next(s)
		w.engine.reads.Store(0)
		for range 1000 {
			w.settle("board", departed, broker.Acked, got...)
			got = w.next(s)
		}
		if n := w.engine.reads.Load(); n > 10 {
			t.Errorf("%d reads for 1,000 messages", n)
		}
	})
}

// TestACallThatMeetsCloseReturns.
func TestACallThatMeetsCloseReturns(t *testing.T) {
	for range 50 {
		inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
			done := make(chan bool)
			for i := range 4 {
				go func() {
					if i%2 == 0 {
						_, _, _ = w.DeadLetters(context.Background(), "board", departed, "", 10, "")
					} else {
						_, _ = w.Pull(context.Background(), "baggage", bags, 1, time.Second, 0)
					}
					done <- true
				}()
			}
			w.close()
			for range 4 {
				<-done
			}
		})
	}
}
