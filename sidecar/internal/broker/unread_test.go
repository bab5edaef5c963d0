package broker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// TestWhatAConsumerDoesNotReadStaysInItsLog: credits for all messages do not bring all of them into memory. When it reads on, it gets each of them once.
func TestWhatAConsumerDoesNotReadStaysInItsLog(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total, size = 4000, 5000 // 20 MB
		w.publishSized(departed, total, size)
		s := w.join("board", departed, total)
		stop := beat(s)
		defer stop()
		synctest.Wait()
		const most = broker.MaxUnsentBytes + 16*512<<10                                                                     // what a partition leases at a time
		if leased := w.total("board", departed).Stats.Leased * size; leased < broker.MaxUnsentBytes*9/10 || leased > most { // records are a little larger
			t.Fatalf("%d bytes are leased to a consumer that reads nothing, want about %d to %d", leased, broker.MaxUnsentBytes, most)
		}
		type place struct {
			partition uint32
			offset    int64
		}
		seen, began := map[place]bool{}, time.Now()
		for len(seen) < total {
			synctest.Wait()
			for _, d := range w.next(s) {
				p := place{d.partition, d.offset}
				if seen[p] {
					t.Fatalf("%v came twice", p)
				}
				seen[p] = true
			}
		}
		if waited := time.Since(began); waited > 0 {
			t.Fatalf("a consumer that read on waited %v for what was there", waited)
		}
	})
}
