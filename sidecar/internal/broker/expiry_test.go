package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// perishable lets the bags expire after an hour.
func perishable(name string, o *mqv1.TopicOptions) {
	if name == bags {
		onePartition(name, o) // so that a Pull takes all there is
		o.Ttl = durationpb.New(time.Hour)
	}
}

// publishTTL sends one message with a bound of its own.
func (w *world) publishTTL(topic string, ttl time.Duration) {
	w.t.Helper()
	raw, err := w.Compose(topic, broker.Draft{JSON: new(structpb.Struct)})
	if err != nil {
		w.t.Fatal(err)
	}
	raw = protowire.AppendVarint(protowire.AppendTag(raw, 8, protowire.VarintType), uint64(ttl.Milliseconds()))
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: engine.AppendRecord(nil, raw)}})
	if err != nil || placed[0].Refused != nil {
		w.t.Fatal(err, placed)
	}
}

func TestTheShorterBoundCounts(t *testing.T) {
	inBubbleWith(t, perishable, nil, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 1)
		w.publishTTL(bags, 30*time.Minute)
		w.publishTTL(bags, 2*time.Hour)
		w.publishTTL(bags, broker.MaxTTL) // longer than the topic allows
		time.Sleep(29 * time.Minute)
		if got := w.pull(bags, 100); len(got) != 6 {
			t.Fatalf("after 29m came %d messages of 6", len(got))
		}
		time.Sleep(2 * time.Second) // the leases are over
		time.Sleep(time.Minute)
		if got := w.pull(bags, 100); len(got) != 5 {
			t.Fatalf("after 30m came %d messages, want the 5 without the short bound", len(got))
		}
		time.Sleep(30 * time.Minute)
		w.publish(bags, 3, 1, 1)
		if got := w.pull(bags, 100); len(got) != 1 {
			t.Fatalf("after an hour came %d messages, want the new one", len(got))
		}
		if sum := w.total("baggage", bags); sum.Counters.Expired != 6 || sum.DeadLetters != 0 || sum.Lag != 1 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

// TestWhatExpiredWhileTheSidecarWasDownDoesNotCome: the time counts from when the message entered the log, on the wall clock.
func TestWhatExpiredWhileTheSidecarWasDownDoesNotCome(t *testing.T) {
	inBubbleWith(t, perishable, nil, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 1)
		time.Sleep(40 * time.Minute)
		w.publish(bags, 3, 2, 1)
		w.close()
		time.Sleep(20 * time.Minute)
		w.open()
		if got := w.pull(bags, 100); len(got) != 2 {
			t.Fatalf("came %d messages, want the 2 that are younger than an hour", len(got))
		}
	})
}

func TestExpiredMessagesBecomeDeadLetters(t *testing.T) {
	bury := func(_ string, o *mqv1.SubscribeOptions) { o.DeadLetterExpired = proto.Bool(true) }
	inBubbleWith(t, perishable, bury, func(t *testing.T, w *world) {
		w.publish(bags, 0, 3, 1)
		time.Sleep(time.Hour)
		if got := w.pull(bags, 100); len(got) != 0 {
			t.Fatalf("came %+v", got)
		}
		dead, _, err := w.DeadLetters(t.Context(), "baggage", bags, "", 10, "")
		if err != nil || len(dead) != 3 || dead[0].Reason != "expired" || dead[0].Attempts != 0 {
			t.Fatalf("dead letters %+v, %v", dead, err)
		}
		if n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true}); n != 3 || err != nil {
			t.Fatal(n, err)
		}
		if got := w.pull(bags, 100); len(got) != 3 { // somebody wants them after all
			t.Fatalf("of 3 redriven messages came %d", len(got))
		}
		w.close()
		w.open()
		synctest.Wait()
		if got := w.pull(bags, 100); len(got) != 3 {
			t.Fatalf("after a restart came %d", len(got))
		}
	})
}

// pull leases what there is for a second.
func (w *world) pull(topic string, n int) []delivery {
	w.t.Helper()
	group := map[string]string{bags: "baggage", departed: "board"}[topic]
	slices, err := w.Pull(w.t.Context(), group, topic, n, time.Second, time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	return deliveries(w.t, slices)
}
