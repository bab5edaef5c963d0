package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestAKeyGoesOnWhenItsDeadLetterIsGone: discarded, or past its retention.
func TestAKeyGoesOnWhenItsDeadLetterIsGone(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, w *world){
		"discarded": func(t *testing.T, w *world) {
			list, _, err := w.DeadLetters(t.Context(), "board", departed, "", 10, "")
			if err != nil || len(list) != 1 || !list[0].HoldsKey || list[0].Priority != 0 {
				t.Fatalf("dead letters %+v, %v", list, err)
			}
			if n, _, _, err := w.Discard(t.Context(), "board", departed, broker.Selection{IDs: []string{list[0].ID}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		},
		"expired": func(*testing.T, *world) { time.Sleep(62 * time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			keep := func(service string, o *mqv1.SubscribeOptions) {
				if service == "Board" {
					o.DeadLetter = &mqv1.DeadLetter{HoldKey: proto.Bool(true), Retention: durationpb.New(time.Hour)}
				}
			}
			inBubbleWith(t, onePartition, keep, func(t *testing.T, w *world) {
				w.publish(departed, 0, 3, 1)
				s := w.join("board", departed, 10)
				stop := beat(s)
				defer stop()
				got := w.next(s)
				w.settle("board", departed, broker.Rejected, got...)
				synctest.Wait()
				if sum := w.total("board", departed); len(got) != 1 || sum.Stats.Held != 1 || sum.Stats.Leased != 0 {
					t.Fatalf("%d came first, then %+v", len(got), sum)
				}
				end(t, w)
				for _, want := range []int64{1, 2} {
					next := w.next(s)
					if len(next) != 1 || next[0].offset != want {
						t.Fatalf("came %+v, want offset %d", next, want)
					}
					w.settle("board", departed, broker.Acked, next...)
				}
				if sum := w.total("board", departed); sum.Stats.Held != 0 || sum.Lag != 0 || sum.DeadLetters != 0 {
					t.Fatalf("in the end %+v", sum)
				}
			})
		})
	}
}
