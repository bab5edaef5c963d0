package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

var first = new(uint32) // partition 0

// offsets leases all there is and settles it.
func (w *world) offsets(topic string) (all []int64) {
	w.t.Helper()
	group := map[string]string{bags: "baggage", departed: "board"}[topic]
	for {
		got := w.pull(topic, 1000)
		if len(got) == 0 {
			slices.Sort(all)
			return all
		}
		for _, d := range got {
			if d.attempt != 1 {
				w.t.Fatalf("came as attempt %d: %+v", d.attempt, d)
			}
			all = append(all, d.offset)
		}
		w.settle(group, topic, broker.Acked, got...)
	}
}

func upTo(from, to int64) (all []int64) {
	for o := from; o < to; o++ {
		all = append(all, o)
	}
	return all
}

func TestSeek(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		start := time.Now()
		for i := range 50 { // a chunk each, ten seconds apart
			w.publish(departed, i, 1, 50)
			time.Sleep(10 * time.Second)
		}
		if got := w.offsets(departed); !slices.Equal(got, upTo(0, 50)) {
			t.Fatalf("at first came %v", got)
		}
		for _, c := range []struct {
			name string
			to   broker.SeekTo
			from int64
		}{
			{"earliest", broker.SeekTo{Edge: "earliest"}, 0},
			{"latest", broker.SeekTo{Edge: "latest"}, 50},
			{"offset", broker.SeekTo{Offset: 7, HasOffset: true}, 7},
			{"first offset", broker.SeekTo{Offset: 0, HasOffset: true}, 0},
			{"end", broker.SeekTo{Offset: 50, HasOffset: true}, 50},
			{"time of the first", broker.SeekTo{HasTime: true, Time: start}, 0},
			{"the zero time", broker.SeekTo{HasTime: true}, 0},
			{"before all", broker.SeekTo{HasTime: true, Time: start.Add(-time.Hour)}, 0},
			{"between", broker.SeekTo{HasTime: true, Time: start.Add(333 * time.Second)}, 34},
			{"exact", broker.SeekTo{HasTime: true, Time: start.Add(330 * time.Second)}, 33},
			{"within the span of a chunk", broker.SeekTo{HasTime: true, Time: start.Add(330*time.Second + 900*time.Millisecond)}, 33},
			{"at the end of the span", broker.SeekTo{HasTime: true, Time: start.Add(331 * time.Second)}, 33},
			{"behind it", broker.SeekTo{HasTime: true, Time: start.Add(331*time.Second + time.Millisecond)}, 34},
			{"now", broker.SeekTo{HasTime: true, Time: time.Now()}, 50},
		} {
			positions, err := w.Seek(t.Context(), "board", departed, first, c.to)
			if err != nil || len(positions) != 1 || positions[0] != (broker.Position{Offset: c.from}) {
				t.Errorf("%s: moved to %v, %v; want %d", c.name, positions, err, c.from)
			}
			if got := w.offsets(departed); !slices.Equal(got, upTo(c.from, 50)) {
				t.Errorf("%s: came %v, want %d to 49", c.name, got, c.from)
			}
		}
	})
}

// TestASeekIsDurable: also one below where the group began, and one that forgets attempts, blocks and waits.
func TestASeekIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() { w.close() }()
		w.topics = onePartition
		w.declareTopics()
		w.publish(departed, 0, 20, 20)
		w.declare(func(_ string, o *mqv1.SubscribeOptions) { o.StartFrom = mqv1.StartFrom_START_FROM_LATEST.Enum() })
		synctest.Wait()
		w.publish(departed, 20, 600, 600)
		got := w.pull(departed, 1000)
		w.settle("board", departed, broker.Acked, got[300:]...)   // blocks
		w.settle("board", departed, broker.Retried, got[:200]...) // attempts and waits
		if _, err := w.Seek(t.Context(), "board", departed, nil, broker.SeekTo{Edge: "earliest"}); err != nil {
			t.Fatal(err)
		}
		w.close()
		w.open()
		synctest.Wait()
		if got := w.offsets(departed); !slices.Equal(got, upTo(0, 620)) {
			t.Fatalf("after the restart came %v", got)
		}
	})
}

// TestASeekEndsLeases: their tokens are refused, and their credits are there again.
func TestASeekEndsLeases(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 30, 30)
		s := w.join("board", departed, 10)
		got := w.next(s)
		w.settle("board", departed, broker.Acked, got[0])
		synctest.Wait() // the eleventh waits in the session
		if _, err := w.Seek(t.Context(), "board", departed, first, broker.SeekTo{Offset: 0, HasOffset: true}); err != nil {
			t.Fatal(err)
		}
		again := w.next(s)
		if len(again) != 10 || again[0].offset != 0 || again[9].offset != 9 {
			t.Fatalf("after the seek came %+v", again)
		}
		if refused := w.settle("board", departed, broker.Acked, got[1:]...); len(refused) != 9 || refused[0].Error.Reason != broker.LeaseLost {
			t.Fatalf("old tokens: %+v", refused)
		}
		if refused := w.settle("board", departed, broker.Acked, again...); len(refused) != 0 {
			t.Fatalf("new tokens: %+v", refused)
		}
		if rest := w.next(s); rest[0].offset != 10 {
			t.Fatalf("then came %+v", rest)
		}
	})
}

// TestADeadLetterThatIsSeenAgain: it stays one dead letter, whether the message dies again or not.
func TestADeadLetterThatIsSeenAgain(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publish(departed, 0, 1, 1)
		for range 2 {
			w.settle("board", departed, broker.Rejected, w.pull(departed, 1)...)
			if sum := w.total("board", departed); sum.DeadLetters != 1 || sum.Lag != 0 {
				t.Fatalf("then %+v", sum)
			}
			if _, err := w.Seek(t.Context(), "board", departed, nil, broker.SeekTo{Edge: "earliest"}); err != nil {
				t.Fatal(err)
			}
		}
		if n, _, _, err := w.Redrive(t.Context(), "board", departed, broker.Selection{All: true}); n != 1 || err != nil { // while the log brings it anyway
			t.Fatal(n, err)
		}
		if got := w.offsets(departed); !slices.Equal(got, []int64{0}) {
			t.Fatalf("came %v, want it once", got)
		}
		w.close()
		w.open()
		synctest.Wait()
		if got := w.offsets(departed); len(got) != 0 {
			t.Fatalf("after a restart came %v", got)
		}
	})
}

func TestSeekOfLanes(t *testing.T) {
	pubsub := func(name string, o *mqv1.TopicOptions) {
		prioritised(name, o)
		o.Delivery = mqv1.Delivery_DELIVERY_PUBSUB.Enum()
	}
	inBubbleWith(t, pubsub, nil, func(t *testing.T, w *world) {
		for lane := range uint32(3) {
			w.publishAt(lane, bags, 0, 2)
		}
		time.Sleep(time.Minute)
		for lane := range uint32(3) {
			w.publishAt(lane, bags, 0, 1)
		}
		if got := w.offsets(bags); len(got) != 9 {
			t.Fatalf("at first came %v", got)
		}
		positions, err := w.Seek(t.Context(), "baggage", bags, nil, broker.SeekTo{HasTime: true, Time: time.Now().Add(-time.Second)})
		if err != nil || len(positions) != 1 || positions[0].Offset != 6 {
			t.Fatalf("moved to %v, %v", positions, err)
		}
		if got := w.offsets(bags); !slices.Equal(got, []int64{2, 2, 2}) {
			t.Fatalf("came %v", got)
		}
		if _, err := w.Seek(t.Context(), "baggage", bags, first, broker.SeekTo{HasOffset: true}); broker.Refusal(err).Reason != broker.BadRequest {
			t.Fatalf("an offset of a topic with priorities: %v", err)
		}
	})
}

func TestSeekRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(departed, 0, 1, 1)
		for _, c := range []struct {
			name, group, topic string
			partition          *uint32
			to                 broker.SeekTo
			want               broker.Reason
		}{
			{"a queue", "baggage", bags, nil, broker.SeekTo{Edge: "earliest"}, broker.SeekQueue},
			{"nothing", "board", departed, nil, broker.SeekTo{}, broker.BadRequest},
			{"two things", "board", departed, nil, broker.SeekTo{Edge: "latest", HasTime: true, Time: time.Now()}, broker.BadRequest},
			{"an edge", "board", departed, nil, broker.SeekTo{Edge: "middle"}, broker.BadRequest},
			{"an offset of all", "board", departed, nil, broker.SeekTo{HasOffset: true}, broker.BadRequest},
			{"a partition", "board", departed, proto.Uint32(16), broker.SeekTo{Edge: "latest"}, broker.BadPartition},
			{"a negative offset", "board", departed, first, broker.SeekTo{Offset: -1, HasOffset: true}, broker.BadOffset},
			{"an offset above", "board", departed, first, broker.SeekTo{Offset: 2, HasOffset: true}, broker.BadOffset},
			{"the future", "board", departed, first, broker.SeekTo{HasTime: true, Time: time.Now().Add(time.Millisecond)}, broker.BadTime},
			{"a group", "nobody", departed, first, broker.SeekTo{Edge: "latest"}, broker.GroupUnknown},
			{"a topic", "board", "nothing", first, broker.SeekTo{Edge: "latest"}, broker.TopicUnknown},
		} {
			if _, err := w.Seek(t.Context(), c.group, c.topic, c.partition, c.to); err == nil || broker.Refusal(err).Reason != c.want {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
	})
}
