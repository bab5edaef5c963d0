package broker_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// prioritised gives the bags three priority levels in one partition.
func prioritised(name string, o *mqv1.TopicOptions) {
	if name == bags {
		o.PriorityLevels, o.Partitions = proto.Uint32(3), proto.Uint32(1)
	}
}

// publishAt publishes into a lane.
func (w *world) publishAt(lane uint32, topic string, first, n int) {
	w.t.Helper()
	w.priority = lane + 1
	w.publish(topic, first, n, 1)
	w.priority = 0
}

// TestUrgentMessagesGoFirst: what waits in a higher lane is leased before anything of a lower one, and every lane keeps its own place.
func TestUrgentMessagesGoFirst(t *testing.T) {
	inBubbleWith(t, prioritised, nil, func(t *testing.T, w *world) {
		w.publishAt(0, bags, 0, 50)
		w.publishAt(2, bags, 50, 5)
		w.publishAt(1, bags, 55, 5)
		synctest.Wait()
		s := w.join("baggage", bags, 12)
		var got []delivery
		for len(got) < 12 { // they may come in parts
			got = append(got, w.next(s)...)
		}
		var levels []uint32
		for _, d := range got {
			levels = append(levels, d.priority)
		}
		if want := []uint32{3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1}; !slices.Equal(levels, want) {
			t.Fatalf("leased priorities %v, want %v", levels, want)
		}
		if refused := w.settle("baggage", bags, broker.Acked, got...); len(refused) > 0 {
			t.Fatalf("refused %+v", refused)
		}
		if sum := w.total("baggage", bags); sum.End != 60 || sum.Position != 12 || sum.Lag != 48 {
			t.Fatalf("position, end and lag are %+v", sum)
		}
		s.Close(false)
		w.close()
		w.open()
		synctest.Wait()
		if sum := w.total("baggage", bags); sum.End != 60 || sum.Position != 12 || sum.Lag != 48 {
			t.Fatalf("after a restart %+v", sum)
		}
		for seen := 0; seen < 48; {
			ds, err := w.Pull(t.Context(), "baggage", bags, 100, 1e9, 0)
			if err != nil {
				t.Fatal(err)
			}
			batch := deliveries(t, ds)
			for _, d := range batch {
				if d.priority != 1 || d.attempt != 1 {
					t.Fatalf("came %+v, which was settled", d)
				}
			}
			if seen += len(batch); len(batch) == 0 {
				t.Fatalf("%d of 48 came", seen)
			}
			w.settle("baggage", bags, broker.Acked, batch...)
		}
	})
}

// TestDeadLettersOfLanes: three messages of the same offset in three lanes are three dead letters, and each comes back in its lane.
func TestDeadLettersOfLanes(t *testing.T) {
	inBubbleWith(t, prioritised, nil, func(t *testing.T, w *world) {
		for lane := range uint32(3) {
			w.publishAt(lane, bags, int(lane), 1)
		}
		s := w.join("baggage", bags, 10)
		synctest.Wait() // a slice for each lane
		got := w.next(s)
		w.settle("baggage", bags, broker.Rejected, got...)
		s.Close(false)
		w.close()
		w.open()
		synctest.Wait()
		dead, _, err := w.DeadLetters(t.Context(), "baggage", bags, "", 10, "")
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, d := range dead {
			ids = append(ids, d.ID)
		}
		if want := []string{"0-0", "0.2-0", "0.3-0"}; !slices.Equal(ids, want) {
			t.Fatalf("dead letters %v, want %v", ids, want)
		}
		page, next, err := w.DeadLetters(t.Context(), "baggage", bags, "", 2, "")
		if err != nil || len(page) != 2 {
			t.Fatal(page, err)
		}
		if page, _, err = w.DeadLetters(t.Context(), "baggage", bags, "", 2, next); err != nil || len(page) != 1 || page[0].ID != "0.3-0" {
			t.Fatalf("the second page is %+v, %v", page, err)
		}
		if n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{IDs: []string{"0.3-0"}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		w.close() // with the redriven one on its way
		w.open()
		synctest.Wait()
		again := w.next(w.join("baggage", bags, 10))
		if len(again) != 1 || again[0].priority != 3 || again[0].id != got[0].id {
			t.Fatalf("redriven %+v, want the one of priority 3: %+v", again, got[0])
		}
		if refused := w.settle("baggage", bags, broker.Acked, again...); len(refused) > 0 {
			t.Fatalf("refused %+v", refused)
		}
		if sum := w.total("baggage", bags); sum.Lag != 0 || sum.DeadLetters != 2 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

// TestIDsOfLanesAreReserved: a publisher cannot choose an id that another message has by its place.
func TestIDsOfLanesAreReserved(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for id, ok := range map[string]bool{"1-2": false, "1.3-2": false, "1.x-2": true, ".3-2": true, "1.-2": true, "1.3.4-2": true} {
			if err := w.publishWithID(bags, id); (err == nil) != ok {
				t.Errorf("id %q: %v", id, err)
			}
		}
	})
}

func TestANewGroupAtTheLatestOfEachLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.topics = prioritised
		w.declareTopics()
		w.publishAt(0, bags, 0, 3)
		w.publishAt(2, bags, 3, 7)
		defer w.close()
		w.declare(func(_ string, o *mqv1.SubscribeOptions) { o.StartFrom = mqv1.StartFrom_START_FROM_LATEST.Enum() })
		synctest.Wait()
		w.publishAt(1, bags, 10, 1)
		w.publishAt(2, bags, 11, 1)
		s := w.join("baggage", bags, 100)
		synctest.Wait() // a slice for each lane
		got := w.next(s)
		if len(got) != 2 || got[0].offset != 7 || got[1].offset != 0 {
			t.Fatalf("came %+v, want the two that were published after the group was declared", got)
		}
	})
}
