package broker_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestCreditsPassOn: a partition whose next message does not fit into the credits that came back leaves them to the others, and all that wait get their turn.
func TestCreditsPassOn(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publishSized(departed, 10, 1000)
		s, err := w.Join("board", departed, "test", 1000, 10_300)
		if err != nil {
			t.Fatal(err)
		}
		got := w.next(s)
		for len(got) < 10 {
			got = append(got, w.next(s)...)
		}
		synctest.Wait()
		for i := range 16 { // those that wait longest have what does not fit
			w.publishOne(departed, fmt.Sprintf("large %d", i), 5000)
		}
		synctest.Wait()
		for i := range 16 {
			w.publishOne(departed, fmt.Sprintf("small %d", i+100), 900)
		}
		synctest.Wait()
		w.settle("board", departed, broker.Acked, got[0])
		synctest.Wait()
		if leased := w.total("board", departed).Stats.Leased; leased != 10 {
			t.Errorf("%d are leased, want 10: there are messages of other partitions that fit", leased)
		}
		w.settle("board", departed, broker.Acked, got[1:]...)
		for seen := 10; seen < 42; {
			ds := w.next(s)
			seen += len(ds)
			w.settle("board", departed, broker.Acked, ds...)
		}
	})
}

// publishOne sends a flight of about size bytes.
func (w *world) publishOne(topic, origin string, size int) {
	w.t.Helper()
	s, err := structpb.NewStruct(map[string]any{"flightId": strings.Repeat("x", size), "origin": origin})
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := w.Compose(topic, broker.Draft{JSON: s})
	if err != nil {
		w.t.Fatal(err)
	}
	placed, err := w.Publish(w.t.Context(), []broker.Batch{{Topic: topic, Records: engine.AppendRecord(nil, raw)}})
	if err != nil || placed[0].Refused != nil {
		w.t.Fatal(err, placed)
	}
}

// TestOneCreditWakesOnePartition: not all that have messages.
func TestOneCreditWakesOnePartition(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.close()
		var turns atomic.Int64
		w.turn = func(who fmt.Stringer) {
			if strings.HasPrefix(who.String(), "shard ") {
				turns.Add(1)
			}
		}
		w.open()
		w.publish(departed, 0, 300, 300)
		s := w.join("board", departed, 1)
		synctest.Wait()
		began := turns.Load()
		const n = 100
		for range n {
			w.settle("board", departed, broker.Acked, w.next(s)...)
		}
		synctest.Wait()
		did := turns.Load() - began
		if did > 3*n {
			t.Errorf("%d turns for %d credits", did, n)
		}
	})
}
