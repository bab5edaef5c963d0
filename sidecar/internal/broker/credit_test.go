package broker_test

import (
	"testing"
	"testing/synctest"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// weight adds up what is unsettled.
func weight(slices []broker.Slice) (n int) {
	for _, s := range slices {
		n += len(s.Records)
	}
	return n
}

// TestCreditsInBytes: a consumer never has more than it said, over all partitions, unless it is one message that is larger by itself.
func TestCreditsInBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total, size, bound = 400, 1000, 10_500
		w.publishSized(departed, total, size)
		s, err := w.Join("board", departed, "test", 1000, bound)
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for seen := 0; seen < total; {
			synctest.Wait()
			news, err := s.Next(t.Context(), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, weight(news.Slices))
			ds := deliveries(t, news.Slices)
			seen += len(ds)
			w.settle("board", departed, broker.Acked, ds...)
		}
		if most > bound || most < bound-2*size {
			t.Fatalf("at most %d bytes were unsettled, want just under %d", most, bound)
		}
		w.publishSized(departed, 3, 20_000) // each larger than the bound
		for range 3 {
			synctest.Wait()
			got := w.next(s)
			if len(got) != 1 {
				t.Fatalf("of those that do not fit came %d", len(got))
			}
			w.settle("board", departed, broker.Acked, got...)
		}
		w.publishSized(departed, 5, 3000)
		if err := s.SetCredits(2, 7000); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if leased := w.total("board", departed).Stats.Leased; leased != 2 {
			t.Fatalf("%d leased on 2 credits of 7000 bytes", leased)
		}
		if err := s.SetCredits(10, 0); err != nil { // the bytes stay
			t.Fatal(err)
		}
		synctest.Wait()
		if leased := w.total("board", departed).Stats.Leased; leased != 2 {
			t.Fatalf("%d of 3000 bytes each leased on 7000", leased)
		}
		if err := s.SetCredits(10, 13_000); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if leased := w.total("board", departed).Stats.Leased; leased != 4 {
			t.Fatalf("%d of 3000 bytes each leased on 13000", leased)
		}
	})
}

// TestARedrivenMessageHasItsWeight: also after a restart.
func TestARedrivenMessageHasItsWeight(t *testing.T) {
	inBubbleWith(t, onePartition, nil, func(t *testing.T, w *world) {
		w.publishSized(departed, 4, 3000)
		w.settle("board", departed, broker.Rejected, w.pull(departed, 4)...)
		if n, _, _, err := w.Redrive(t.Context(), "board", departed, broker.Selection{All: true}); n != 4 || err != nil {
			t.Fatal(n, err)
		}
		for range 2 {
			s, err := w.Join("board", departed, "test", 10, 7000)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if leased := w.total("board", departed).Stats.Leased; leased != 2 {
				t.Fatalf("%d of 3000 bytes each leased on 7000", leased)
			}
			s.Close(false)
			w.close()
			w.open()
			synctest.Wait()
		}
	})
}

func TestCreditsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			messages int
			bytes    int64
		}{{-1, 0}, {broker.MaxCredits + 1, 0}, {1, -1}, {1, broker.MaxCreditBytes + 1}} {
			if _, err := w.Join("board", departed, "test", c.messages, c.bytes); err == nil || broker.Refusal(err).Reason != broker.BadCredits {
				t.Errorf("joined with %+v: %v", c, err)
			}
			if err := w.join("board", departed, 1).SetCredits(c.messages, c.bytes); err == nil || broker.Refusal(err).Reason != broker.BadCredits {
				t.Errorf("set %+v: %v", c, err)
			}
		}
	})
}
