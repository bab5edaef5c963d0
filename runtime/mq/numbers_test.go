package mq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// numbers is what a frame says of its batches: "<1: 1 2>" if all below 1 is answered and it has the batches 1 and 2.
func numbers(r *brokerv1.PublishStreamRequest) string {
	text := fmt.Sprintf("<%d:", r.GetAnsweredBelow())
	for _, b := range r.GetBatches() {
		text += fmt.Sprint(" ", b.GetNumber())
	}
	return text
}

func TestBatchesAreNumbered(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		texts, integers := NewPublisher(c, stringTopic), NewPublisher(c, numberTopic)
		all := []<-chan published{publish(t.Context(), texts, "a"), publish(t.Context(), texts, "b")}
		done := make(chan error, 1)
		go func() { _, err := integers.Publish(t.Context(), wrapperspb.Int64(7)); done <- err }()
		synctest.Wait()
		g.answer <- nil
		g.answer <- nil
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		all = append(all, publish(t.Context(), texts, "c"))
		g.answer <- nil
		for _, one := range all {
			if r := <-one; r.err != nil {
				t.Error(r.err)
			}
		}
		var got []string
		for _, f := range b.frames() {
			got = append(got, numbers(f))
			if id := f.GetProducerId(); len(id) != 16 || !slices.Equal(id, b.frames()[0].GetProducerId()) {
				t.Errorf("producer %x", id)
			}
		}
		expect(t, "frames", got, "<1: 1", "<2: 2 3", "<4: 4")
		other := dialed(t, b)
		go func() { g.answer <- nil }()
		if _, err := NewPublisher(other, stringTopic).Publish(t.Context(), wrapperspb.String("d")); err != nil {
			t.Fatal(err)
		}
		if last := b.frames()[3]; numbers(last) != "<1: 1" || slices.Equal(last.GetProducerId(), b.frames()[0].GetProducerId()) {
			t.Errorf("another client: %s", numbers(last))
		}
	})
}

// A batch that was sent is sent again as it was, with the records that were given up since.
func TestSentBatchesDoNotChange(t *testing.T) {
	for name, again := range map[string]func(*fakeBroker, *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error){
		"connection lost": func(b *fakeBroker, _ *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			b.network.cut(false)
			return nil, errors.New("unheard")
		},
		"outcome unknown": func(_ *fakeBroker, r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
				{Refusal: refusalOf(connect.CodeUnavailable, "OUTCOME_UNKNOWN")}}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				g := newGate(b)
				p := NewPublisher(c, stringTopic)
				short, cancel := context.WithCancel(t.Context())
				first := publish(t.Context(), p, "first")
				given, kept := publish(short, p, "given up"), publish(t.Context(), p, "kept")
				g.answer <- nil
				synctest.Wait()
				cancel()
				if r := <-given; !errors.Is(r.err, ErrUnknownOutcome) {
					t.Errorf("given up: %v", r.err)
				}
				g.answer <- func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) { return again(b, r) }
				g.answer <- nil
				for _, one := range []<-chan published{first, kept} {
					if r := <-one; r.err != nil {
						t.Error(r.err)
					}
				}
				frames := b.frames()
				if len(frames) != 3 {
					t.Fatalf("%d frames", len(frames))
				}
				frames[2].Sequence = frames[1].GetSequence()
				if !proto.Equal(frames[1], frames[2]) || numbers(frames[1]) != "<2: 2" || !slices.Equal(payloads(frames[1]), []string{"given up", "kept"}) {
					t.Errorf("%s %q, then %s %q", numbers(frames[1]), payloads(frames[1]), numbers(frames[2]), payloads(frames[2]))
				}
			})
		})
	}
}

// A batch that is refused for one of its records was not stored: its halves are new batches, without what was given up.
func TestHalvesAreNumberedAnew(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		short, cancel := context.WithCancel(t.Context())
		first := publish(t.Context(), p, "first")
		all := []<-chan published{publish(t.Context(), p, "a"), publish(t.Context(), p, "b"), publish(short, p, "c"), publish(t.Context(), p, "d")}
		g.answer <- nil
		synctest.Wait()
		cancel()
		synctest.Wait()
		g.answer <- func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
				{Refusal: refusalOf(connect.CodeAlreadyExists, "DEDUPE_CONFLICT")}}}, nil
		}
		g.answer <- nil
		g.answer <- nil
		for i, one := range append(all, first) {
			if r := <-one; (r.err != nil) != (i == 2) {
				t.Errorf("%d: %v", i, r.err)
			}
		}
		var got []string
		for _, f := range b.frames() {
			got = append(got, numbers(f))
		}
		expect(t, "frames", got, "<1: 1", "<2: 2", "<3: 3", "<4: 4")
		expect(t, "the halves", append(payloads(b.frames()[2]), payloads(b.frames()[3])...), "a", "b", "d")
	})
}

// The sidecar remembers so many answers of a producer: numbers do not run away from the first that is not answered.
func TestNumbersStayNearTheFirstUnanswered(t *testing.T) {
	f := newFrame()
	for i := range 3 * maxFrameBatches {
		f.batches = append(f.batches, &batch{topic: &topic{name: fmt.Sprint(i)}})
	}
	given := func(last uint64) (from, to, n, now uint64) {
		head, now := f.head(last)
		return head[0].number, head[len(head)-1].number, uint64(len(head)), now
	}
	if from, to, n, last := given(7); from != 8 || to != 7+maxFrameBatches || n != maxFrameBatches || last != to {
		t.Fatalf("%d to %d, %d batches, last %d", from, to, n, last)
	}
	// All are answered but the first, which stands behind one without a number, and one that is not here any more.
	f.batches[0], f.batches[maxFrameBatches] = f.batches[maxFrameBatches], f.batches[0]
	f.batches = slices.Delete(f.batches, 1, maxFrameBatches)
	last := uint64(7 + maxFrameBatches + 1)
	if f.unanswered() != 8 {
		t.Errorf("unanswered from %d on", f.unanswered())
	}
	if from, _, n, now := given(last); from != 8 || n != 1 || now != last {
		t.Errorf("%d, %d batches, last %d", from, n, now)
	}
	f.batches = f.batches[1:]
	if from, to, n, now := given(last); from != last+1 || to != last+maxFrameBatches || n != maxFrameBatches || now != to {
		t.Errorf("after the answer: %d to %d, %d batches, last %d", from, to, n, now)
	}
}

// Topics beyond so many go into the next frame.
func TestFrameHoldsSoManyTopics(t *testing.T) {
	f := newFrame()
	var last *topic
	for i := range maxFrameBatches {
		last = &topic{name: fmt.Sprint(i)}
		if !f.fits(last, 1) {
			t.Fatalf("topic %d does not fit", i)
		}
		b := (&lane{pipeline: &pipeline{}}).newBatchLocked(last)
		f.begin(b)
		f.add(b, []byte{0})
	}
	if f.fits(&topic{name: "one more"}, 1) || !f.fits(last, 1) {
		t.Error("the bound is another one")
	}
}

func TestReceiptsTellDuplicates(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			result := &brokerv1.BatchResult{}
			for i, value := range payloads(r) {
				result.Partitions = append(result.Partitions, 1)
				result.Offsets = append(result.Offsets, map[string]int64{"a": 9, "b": 8, "c": -1}[value])
				if value != "a" {
					result.Duplicates = append(result.Duplicates, uint32(i))
				}
			}
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{result}}, nil
		}
		results := NewPublisher(c, stringTopic).PublishBatch(t.Context(),
			[]*wrapperspb.StringValue{wrapperspb.String("a"), wrapperspb.String("b"), wrapperspb.String("c")}, WithID("i"))
		var got []string
		for _, r := range results {
			got = append(got, fmt.Sprint(r.Receipt.Offset, r.Receipt.Scheduled, r.Receipt.Duplicate, r.Err))
		}
		expect(t, "receipts", got, "9 false false <nil>", "8 false true <nil>", "-1 true true <nil>")
	})
}
