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

// inBubble runs a test in fake time.
func inBubble(t *testing.T, run func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declare(nil)
		defer w.close()
		synctest.Wait()
		run(t, w)
	})
}

// inBubbleWith is inBubble with other topics and policies.
func inBubbleWith(t *testing.T, topics func(string, *mqv1.TopicOptions), policy func(string, *mqv1.SubscribeOptions), run func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.topics = topics
		w.declare(policy)
		defer w.close()
		synctest.Wait()
		run(t, w)
	})
}

// TestKafkaPartitions: the same key lands where Kafka's default partitioner puts it. The hashes are those that Kafka's own clients agree on.
func TestKafkaPartitions(t *testing.T) {
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		want := (uint32(hash) & 0x7fffffff) % 1000
		if got := broker.PartitionOf([]byte(key), 1000); got != want {
			t.Errorf("key %q: partition %d, want %d", key, got, want)
		}
	}
}

func TestRetryWaitsAndCounts(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		start := time.Now()
		for attempt := uint32(1); attempt <= 3; attempt++ {
			got := w.next(s)
			if len(got) != 1 || got[0].attempt != attempt {
				t.Fatalf("attempt %d came as %+v", attempt, got)
			}
			// The baggage policy: 50 ms, then 100 ms, each up to a fifth longer.
			least, most := []time.Duration{0, 50, 150}[attempt-1]*time.Millisecond, []time.Duration{0, 60, 180}[attempt-1]*time.Millisecond
			if waited := time.Since(start); waited < least || waited > most {
				t.Errorf("attempt %d came after %v, want %v to %v", attempt, waited, least, most)
			}
			w.settle("baggage", bags, broker.Retried, got...)
		}
		if sum := w.total("baggage", bags); sum.DeadLetters != 1 || sum.Lag != 0 {
			t.Fatalf("after three attempts of three: %+v", sum)
		}
		dead, _, err := w.DeadLetters(t.Context(), "baggage", bags, "", 10, "")
		if err != nil || len(dead) != 1 || dead[0].Reason != "attempts_spent" || dead[0].Attempts != 3 {
			t.Fatalf("buried as %+v, %v", dead, err)
		}
	})
}

func TestRetryWaitSurvivesRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		got := w.next(s)
		if _, err := w.Settle(t.Context(), "baggage", bags, nil, []broker.Settlement{
			{Token: got[0].token, Outcome: broker.Retried, Error: "later", After: time.Hour, HasAfter: true},
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute)
		w.close()
		time.Sleep(20 * time.Minute)
		w.open()
		synctest.Wait()
		start := time.Now()
		s = w.join("baggage", bags, 10)
		stop := beat(s)
		got = w.next(s)
		stop()
		if waited := time.Since(start); waited < 20*time.Minute || waited > 20*time.Minute+time.Second || got[0].attempt != 2 {
			t.Fatalf("came after %v as attempt %d, want 20m and 2", waited, got[0].attempt)
		}
	})
}

// beat sends heartbeats until stop is called.
func beat(s *broker.Session) (stop func()) {
	done := make(chan struct{})
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-time.After(s.Lease / 3):
				s.Heartbeat()
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-over }
}

func TestASilentConsumerLosesItsMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		silent := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		lost := w.next(silent)
		other := w.join("baggage", bags, 10)
		stop := beat(other)
		defer stop()
		start := time.Now()
		got := w.next(other)
		if waited := time.Since(start); waited > 31*time.Second || got[0].attempt != 1 {
			t.Fatalf("came after %v as attempt %d, want 30s and 1", waited, got[0].attempt)
		}
		if r := w.settle("baggage", bags, broker.Acked, lost...); len(r) != 1 || r[0].Error.Reason != broker.LeaseLost {
			t.Fatalf("the silent consumer's token: %+v", r)
		}
		if _, err := silent.Next(t.Context(), 1); broker.Refusal(err).Reason != broker.SessionLost {
			t.Fatalf("the silent consumer was told %v", err)
		}
		if r := w.settle("baggage", bags, broker.Acked, got...); len(r) != 0 {
			t.Fatalf("the other's token: %+v", r)
		}
	})
}

func TestALeavingConsumerUsesNoAttempt(t *testing.T) {
	for name, crashed := range map[string]bool{"clean": false, "crashed": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				s := w.join("baggage", bags, 10)
				w.publish(bags, 0, 1, 1)
				w.next(s)
				s.Close(crashed)
				if got := w.next(w.join("baggage", bags, 10)); got[0].attempt != 1 {
					t.Fatalf("came as attempt %d, want 1", got[0].attempt)
				}
			})
		})
	}
}

// TestConsumersShare: three consumers with few credits get every message exactly once, and never more at a time than they allow.
func TestConsumersShare(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total, credits = 3000, 7
		w.publish(bags, 0, total, 1)
		w.publish(bags, total, total, 1) // another partition, most likely
		results := make(chan map[string]int)
		for range 3 {
			s := w.join("baggage", bags, credits)
			go func() {
				got := map[string]int{}
				for {
					news, err := s.Next(t.Context(), 1<<20)
					if err != nil {
						results <- got
						return
					}
					ds := deliveries(t, news.Slices)
					if len(ds) > credits {
						t.Errorf("%d messages at once on %d credits", len(ds), credits)
					}
					for _, d := range ds {
						got[d.id]++
					}
					if r := w.settle("baggage", bags, broker.Acked, ds...); len(r) > 0 {
						t.Errorf("refused %+v", r)
					}
				}
			}()
		}
		synctest.Wait()
		if sum := w.total("baggage", bags); sum.Lag != 0 || sum.Counters.Delivered != 2*total || sum.Counters.Acknowledged != 2*total {
			t.Errorf("in the end %+v", sum)
		}
		w.close()
		all := map[string]int{}
		for range 3 {
			for id, n := range <-results {
				all[id] += n
			}
		}
		for id, n := range all {
			if n != 1 {
				t.Errorf("%q came %d times", id, n)
			}
		}
		if len(all) != 2*total {
			t.Errorf("%d of %d came", len(all), 2*total)
		}
	})
}

// TestAFailedCommitLosesNothing: when the store does not say whether a write happened, the partition is claimed anew, and every
// acknowledgement that was confirmed holds.
func TestAFailedCommitLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 200
		w.publish(bags, 0, total, 1)
		confirmed := map[string]bool{}
		pulled := 0
		for round := 0; len(confirmed) < total; round++ {
			if round > 1000 {
				t.Fatalf("%d of %d confirmed", len(confirmed), total)
			}
			slices, err := w.Pull(t.Context(), "baggage", bags, 10, time.Minute, 0)
			if err != nil {
				time.Sleep(time.Second) // while the partition is claimed anew
				continue
			}
			ds := deliveries(t, slices)
			if len(ds) == 0 {
				time.Sleep(time.Second) // until leases are over
				continue
			}
			if pulled++; pulled%3 == 1 { // not by round: those without messages might fall into step with it
				w.engine.failCommits.Store(1)
			}
			refused := map[string]bool{}
			for _, r := range w.settle("baggage", bags, broker.Acked, ds...) {
				refused[string(r.Token)] = true
			}
			w.engine.failCommits.Store(-1 << 30)
			for _, d := range ds {
				if confirmed[d.id] {
					t.Fatalf("%q came again after its acknowledgement was confirmed", d.id)
				}
				if !refused[string(d.token)] {
					confirmed[d.id] = true
				}
			}
		}
		time.Sleep(5 * time.Second)
		if sum := w.total("baggage", bags); sum.Lag != 0 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

func TestAnotherPolicyTakesEffect(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 1, 1)
		got := w.next(s)
		w.declare(func(service string, o *mqv1.SubscribeOptions) {
			if service == "Baggage" {
				o.Retry.MaxAttempts = proto.Uint32(1)
				o.Lease = durationpb.New(time.Minute)
			}
		})
		w.settle("baggage", bags, broker.Retried, got...)
		if sum := w.total("baggage", bags); sum.DeadLetters != 1 {
			t.Fatalf("with one attempt allowed: %+v", sum)
		}
		if s := w.join("baggage", bags, 1); s.Lease != time.Minute {
			t.Fatalf("the lease is %v", s.Lease)
		}
	})
}

// TestBatchesAreLeasedLikeSingleMessages: the consumer puts batches together, and declares that it does.
func TestBatchesAreLeasedLikeSingleMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.declare(func(_ string, o *mqv1.SubscribeOptions) { o.Batch = &mqv1.Batch{MaxMessages: proto.Uint32(2)} })
		s := w.join("baggage", bags, 10)
		w.publish(bags, 0, 3, 3)
		var got []delivery
		for len(got) < 3 {
			got = append(got, w.next(s)...)
		}
		w.settle("baggage", bags, broker.Acked, got...)
		err := w.tryDeclare(func(_ string, o *mqv1.SubscribeOptions) { o.Batch = &mqv1.Batch{MaxMessages: proto.Uint32(1000)} })
		if err == nil || string(broker.Refusal(err).Reason) != "CONTRADICTION" {
			t.Fatalf("a batch that is never full was declared with %v", err)
		}
	})
}

// TestAQueueIsEmptied: what is settled is deleted from the log.
func TestAQueueIsEmptied(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 5000
		w.publish(bags, 0, total, 1)
		for {
			slices, err := w.Pull(t.Context(), "baggage", bags, 1000, time.Minute, 0)
			if err != nil {
				t.Fatal(err)
			}
			ds := deliveries(t, slices)
			if len(ds) == 0 {
				break
			}
			w.settle("baggage", bags, broker.Acked, ds...)
		}
		time.Sleep(5 * time.Second)
		kept := int64(0)
		for _, top := range w.Topics(t.Context()) {
			if top.Declared.Name == bags {
				for _, p := range top.Bounds {
					kept += p.End - p.Begin
				}
			}
		}
		if kept > 2048 {
			t.Fatalf("%d of %d settled messages are kept", kept, total)
		}
	})
}

// TestASmallQueueIsEmptied: a second after the last one was settled its disk is free.
func TestASmallQueueIsEmptied(t *testing.T) {
	inBubbleWith(t, prioritised, nil, func(t *testing.T, w *world) {
		for lane := range uint32(3) {
			w.publishAt(lane, bags, 0, 3)
		}
		got := w.pull(bags, 9)
		held := func() (n int64) {
			for _, top := range w.Topics(t.Context()) {
				for _, p := range top.Bounds {
					n += p.End - p.Begin
				}
			}
			return n
		}
		w.settle("baggage", bags, broker.Acked, got[1:]...)
		time.Sleep(1100 * time.Millisecond) // the lease of the first is over
		if n := held(); n != 3 {
			t.Fatalf("%d messages are kept, want the lane of the one that is not settled", n)
		}
		w.settle("baggage", bags, broker.Acked, w.pull(bags, 9)...)
		if n := held(); n != 3 {
			t.Fatalf("%d messages are kept at once, want a second of patience", n)
		}
		time.Sleep(1100 * time.Millisecond)
		if n := held(); n != 0 {
			t.Fatalf("%d messages are kept of none that is unsettled", n)
		}
	})
}

// TestRetention: a topic forgets what is older than it keeps, and a group that was too slow goes on behind it.
func TestRetention(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.publish(departed, 0, 100, 100)
		time.Sleep(8 * 24 * time.Hour)
		w.publish(departed, 100, 10, 10)
		left := int64(0)
		for _, top := range w.Topics(t.Context()) {
			if top.Declared.Name == departed {
				for _, p := range top.Bounds {
					left += p.End - p.Begin
				}
			}
		}
		if left != 10 {
			t.Fatalf("%d messages are kept, want the 10 new ones", left)
		}
		s := w.join("board", departed, 1000)
		seen := 0
		for seen < 10 {
			ds := w.next(s)
			seen += len(ds)
			w.settle("board", departed, broker.Acked, ds...)
		}
		if sum := w.total("board", departed); sum.Lag != 0 {
			t.Fatalf("in the end %+v", sum)
		}
	})
}

func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		s := w.join("baggage", bags, 1)
		w.publish(bags, 0, 2, 1)
		got := w.next(s)
		drained := make(chan struct{})
		go func() { w.Drain(t.Context()); close(drained) }()
		synctest.Wait()
		if news, err := s.Next(t.Context(), 1); err != nil || !news.Drain {
			t.Fatalf("a draining sidecar says %+v, %v", news, err)
		}
		if r := w.settle("baggage", bags, broker.Acked, got...); len(r) != 0 {
			t.Fatalf("settling during drain: %+v", r)
		}
		w.publish(bags, 2, 1, 1) // publishing goes on
		synctest.Wait()
		if sum := w.total("baggage", bags); sum.Stats.Leased != 0 {
			t.Fatalf("leased during drain: %+v", sum)
		}
		if _, err := w.Join("baggage", bags, "late", 1, 0); broker.Refusal(err).Reason != broker.Draining {
			t.Fatalf("a new consumer got %v", err)
		}
		s.Close(false)
		<-drained
	})
}
