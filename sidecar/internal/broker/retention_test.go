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

// declareDeparted declares the topic of departed flights with other options, and its consumer.
func (w *world) declareDeparted(change func(*mqv1.TopicOptions)) {
	w.t.Helper()
	files := w.files(nil)
	for _, f := range files.File {
		for _, m := range f.GetMessageType() {
			if m.GetName() == "FlightDeparted" {
				o := proto.GetExtension(m.GetOptions(), mqv1.E_Topic).(*mqv1.TopicOptions)
				change(o)
				proto.SetExtension(m.Options, mqv1.E_Topic, o)
			}
		}
	}
	_, err := w.Declare(w.t.Context(), broker.Declaration{Descriptors: files, Topics: []string{"air.flights.v1.FlightDeparted"}, Subscriptions: []string{boardRPC}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// held adds up what the logs of departed flights hold: offsets, and the bytes of the fullest partition.
func (w *world) held() (messages, fullest int64) {
	w.t.Helper()
	for _, top := range w.Topics(w.t.Context()) {
		if top.Declared.Name == departed {
			for _, p := range top.Bounds {
				messages += p.End - p.Begin
				fullest = max(fullest, p.Bytes)
			}
		}
	}
	return messages, fullest
}

// TestRetentionByBytesBeginsWithTheTopic: a topic need not wait for the search of each minute to be held against its bound.
func TestRetentionByBytesBeginsWithTheTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const limit = 5_000
		for _, bound := range []uint64{limit, limit / 2} { // the second is a change of the declaration
			w.declareDeparted(func(o *mqv1.TopicOptions) { o.RetentionBytes = proto.Uint64(bound) })
			for i := range 50 {
				w.publish(departed, i*10, 10, 1)
			}
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if _, size := w.held(); size > int64(bound) || size == 0 {
				t.Errorf("%d bytes are kept after 3 s, the limit is %d", size, bound)
			}
		}
		w.close()
	})
}

// TestRetentionByBytes: each partition keeps about so many bytes, the newest, soon after it has grown beyond.
func TestRetentionByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const limit = 5_000
		w.declareDeparted(func(*mqv1.TopicOptions) {})
		for i := range 50 {
			w.publish(departed, i*10, 10, 1) // one key, so one partition; a batch is a chunk
		}
		before, unbounded := w.held()
		if before != 500 || unbounded < 2*limit {
			t.Fatalf("published %d messages, %d bytes: too few for a test", before, unbounded)
		}
		w.declareDeparted(func(o *mqv1.TopicOptions) { o.RetentionBytes = proto.Uint64(limit) })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		kept, size := w.held()
		if chunk := unbounded / 50; size > limit || size < limit-2*chunk {
			t.Errorf("%d messages of %d bytes are kept, the limit is %d, a chunk has %d", kept, size, limit, chunk)
		}
		s := w.join("board", departed, 1000)
		stop := beat(s)
		defer stop()
		var seen []delivery
		for int64(len(seen)) < kept {
			ds := w.next(s)
			seen = append(seen, ds...)
			w.settle("board", departed, broker.Acked, ds...)
		}
		if sum := w.total("board", departed); sum.Lag != 0 {
			t.Errorf("in the end %+v", sum)
		}
		for i := range 50 {
			w.publish(departed, 500+i*10, 10, 1)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, size := w.held(); size > limit {
			t.Errorf("two seconds after it grew the log has %d bytes, the limit is %d", size, limit)
		}
		w.close()
	})
}

// TestTheNewestChunkStays: a message larger than all that a topic keeps is delivered like any other.
func TestTheNewestChunkStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declareDeparted(func(o *mqv1.TopicOptions) { o.RetentionBytes = proto.Uint64(1) })
		w.publish(departed, 0, 10, 1)
		w.publish(departed, 10, 1, 1)
		time.Sleep(2 * time.Minute)
		if kept, _ := w.held(); kept != 1 {
			t.Errorf("%d messages are kept, want the newest", kept)
		}
		w.close()
	})
}

// TestRetentionReadsLittle: a log of many chunks is searched, not read, and one that is within its retention is hardly looked at.
func TestRetentionReadsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declareDeparted(func(o *mqv1.TopicOptions) { o.Retention = durationpb.New(time.Hour); o.Partitions = proto.Uint32(1) })
		const chunks = 3000
		for i := range chunks {
			if i == chunks/2 {
				time.Sleep(30 * time.Minute)
			}
			w.publish(departed, i, 1, 1)
		}
		time.Sleep(29*time.Minute + 30*time.Second)
		synctest.Wait()
		w.engine.reads.Store(0)
		time.Sleep(2 * time.Minute) // now the first half is too old
		synctest.Wait()
		if kept, _ := w.held(); kept != chunks/2 {
			t.Errorf("%d messages are kept, want %d", kept, chunks/2)
		}
		if n := w.engine.reads.Load(); n > 40 {
			t.Errorf("deleting them took %d reads", n)
		}
		w.engine.reads.Store(0)
		time.Sleep(10 * time.Minute)
		if n := w.engine.reads.Load(); n > 10 {
			t.Errorf("looking ten times took %d reads", n)
		}
		w.close()
	})
}

// TestDeadLettersAreKeptForTheirRetention: then they are deleted, also over a restart, without reading them all each minute.
func TestDeadLettersAreKeptForTheirRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declare(func(_ string, o *mqv1.SubscribeOptions) {
			o.DeadLetter = &mqv1.DeadLetter{Retention: durationpb.New(time.Hour)}
		})
		synctest.Wait()
		left := func(when string, want int) {
			t.Helper()
			synctest.Wait()
			if got := len(w.letters()); got != want || w.total("baggage", bags).DeadLetters != int64(want) {
				t.Fatalf("%s %d dead letters are left, counted %d, want %d", when, got, w.total("baggage", bags).DeadLetters, want)
			}
		}
		time.Sleep(10 * time.Minute)
		w.bury(2500, 3, sameError)
		time.Sleep(30 * time.Minute)
		w.bury(7, 3, sameError)
		time.Sleep(29 * time.Minute)
		left("after 59 minutes", 2507)
		time.Sleep(3 * time.Minute)
		left("after 62 minutes", 7)
		w.close() // and over a restart
		w.open()
		synctest.Wait()
		scans := w.engine.letterScans.Load()
		time.Sleep(20 * time.Minute)
		left("after 82 minutes", 7)
		most := int64(0) // the first look at each shard, and what left does
		for _, top := range w.Topics(t.Context()) {
			most += int64(len(top.Bounds))
			if top.Declared.Name == bags {
				most += int64(len(top.Bounds))
			}
		}
		if n := w.engine.letterScans.Load() - scans; n > most {
			t.Errorf("in 20 minutes without a dead letter that is due there were %d scans, want %d", n, most)
		}
		time.Sleep(12 * time.Minute)
		left("after 94 minutes", 0)
		expired := int64(0)
		groups, err := w.Groups(t.Context(), "baggage", bags)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range groups[0].Partitions {
			expired += p.Counters.DeadLettersExpired
		}
		if expired != 7 { // since the restart
			t.Errorf("counted %d", expired)
		}
		w.close()
	})
}

// TestOldDeadLettersGoSoonAfterTheStart: those that came to their retention while the sidecar was down.
func TestOldDeadLettersGoSoonAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declare(func(_ string, o *mqv1.SubscribeOptions) {
			o.DeadLetter = &mqv1.DeadLetter{Retention: durationpb.New(time.Hour)}
		})
		w.bury(20, 5, sameError)
		w.close()
		time.Sleep(2 * time.Hour)
		w.open()
		time.Sleep(3 * time.Second)
		if left := w.total("baggage", bags).DeadLetters; left != 0 {
			t.Errorf("%d dead letters are left", left)
		}
		scans := w.engine.letterScans.Load()
		time.Sleep(10 * time.Minute)
		if n := w.engine.letterScans.Load() - scans; n > 0 {
			t.Errorf("%d scans followed", n)
		}
		w.close()
	})
}

// TestARedrivenLetterIsNotExpired: it is on its way again, however old its death is.
func TestARedrivenLetterIsNotExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.declare(func(_ string, o *mqv1.SubscribeOptions) {
			o.DeadLetter = &mqv1.DeadLetter{Retention: durationpb.New(time.Hour)}
		})
		synctest.Wait()
		w.bury(5, 1, sameError)
		time.Sleep(59 * time.Minute)
		if n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true, Limit: 2}); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		time.Sleep(10 * time.Minute)
		if sum := w.total("baggage", bags); sum.Lag != 2 || sum.DeadLetters != 0 {
			t.Errorf("lag %d, dead letters %d", sum.Lag, sum.DeadLetters)
		}
		w.close()
	})
}
