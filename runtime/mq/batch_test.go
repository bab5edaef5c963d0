package mq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

type stringBatch = Batch[*wrapperspb.StringValue]

// runBatches starts a worker with one batch handler of these bounds.
func runBatches(t *testing.T, c *Client, bounds batchPolicy, handler func(context.Context, *stringBatch) error, opts ...WorkerOption) *running {
	t.Helper()
	w := NewWorker(c, opts...)
	HandleBatch(w, stringSubscription, handler)
	w.mu.subscriptions[0].batch = bounds
	return start(t, w)
}

// bounds of batches of so many messages; max_in_flight counts as set.
func bounds(messages int, wait time.Duration) batchPolicy {
	return batchPolicy{messages: messages, bytes: defaultBatchBytes, wait: wait, inFlight: true}
}

// text is what a batch holds.
func text(b *stringBatch) string {
	var all []string
	for i, m := range b.Messages() {
		if m != b.At(i) {
			return "At and Messages differ"
		}
		all = append(all, m.GetValue())
	}
	return strings.Join(all, " ")
}

// collect returns a handler that sends the text of each batch.
func collect(to chan<- string) func(context.Context, *stringBatch) error {
	return func(_ context.Context, b *stringBatch) error { to <- text(b); return nil }
}

// taken returns what is in the channel once nothing is runnable, sorted.
func taken(c <-chan string) []string {
	synctest.Wait()
	var all []string
	for {
		select {
		case s := <-c:
			all = append(all, s)
		default:
			slices.Sort(all)
			return all
		}
	}
}

func TestBatchIsHandledWhenFull(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 100
		batches := make(chan string, 10)
		r := runBatches(t, c, bounds(3, time.Second), collect(batches))
		k := <-b.consumers
		_ = k.deliver("a", "b")
		expect(t, "too few", taken(batches))
		_ = k.deliver("c", "d", "e", "f", "g")
		expect(t, "full", taken(batches), "a b c", "d e f")
		expect(t, "settled", b.allSettled(), "0 ack", "1 ack", "2 ack", "3 ack", "4 ack", "5 ack")
		advance(time.Second)
		expect(t, "the rest", taken(batches), "g")
		expect(t, "settled", b.allSettled(), "6 ack")
		r.finish(t)
	})
}

func TestBatchIsHandledWhenItsFirstMessageHasWaited(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 100
		batches := make(chan string, 10)
		r := runBatches(t, c, bounds(10, time.Second), collect(batches))
		k := <-b.consumers
		for range 2 { // the timer serves more than one batch
			_ = k.deliver("a")
			advance(900 * time.Millisecond)
			_ = k.deliver("b")
			advance(99 * time.Millisecond)
			expect(t, "before", taken(batches))
			advance(time.Millisecond)
			expect(t, "after", taken(batches), "a b")
		}
		r.finish(t)
	})
}

func TestBatchWithoutWaitIsWhatIsThere(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 100
		batches := make(chan string, 10)
		proceed := make(chan struct{})
		r := runBatches(t, c, bounds(10, 0), func(_ context.Context, m *stringBatch) error {
			batches <- text(m)
			<-proceed
			return nil
		}, WithConcurrency(1), WithPrefetch(10))
		k := <-b.consumers
		if n := k.start.GetCredits(); n != 20 {
			t.Errorf("credit for %d messages: a batch and as many that wait are 20", n)
		}
		_ = k.deliver("a", "b")
		_ = k.deliver("c")
		_ = k.deliver("d")
		expect(t, "handled", taken(batches), "a b")
		proceed <- struct{}{}
		expect(t, "handled", taken(batches), "c d")
		close(proceed)
		r.finish(t)
	})
}

func TestBatchBytes(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 100
		batches := make(chan string, 10)
		r := runBatches(t, c, batchPolicy{messages: 100, bytes: 14, wait: time.Second, inFlight: true}, collect(batches))
		k := <-b.consumers
		_ = k.deliver("aa", "bb", "cc", "dd") // payloads of 4 bytes
		expect(t, "14 bytes are exceeded by the fourth", taken(batches), "aa bb cc")
		_ = k.deliver("a message of its own")
		advance(time.Second)
		expect(t, "larger than the bound", taken(batches), "a message of its own", "dd")
		r.finish(t)
	})
}

// A batch that the credit keeps from being filled does not wait: nothing can come.
func TestBatchDoesNotWaitForMoreThanTheCredit(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 2
		batches := make(chan string, 10)
		r := runBatches(t, c, bounds(10, time.Minute), collect(batches))
		k := <-b.consumers
		_ = k.deliver("a", "b")
		expect(t, "handled", taken(batches), "a b")
		r.finish(t)
	})
}

func TestBatchCredit(t *testing.T) {
	for _, test := range []struct {
		name   string
		bounds batchPolicy
		opts   []WorkerOption
		want   uint32
	}{
		{"max_in_flight is set", batchPolicy{messages: 10, inFlight: true}, nil, 4},
		{"a batch can be filled", batchPolicy{messages: 10}, nil, 10},
		{"smaller batches", batchPolicy{messages: 3}, nil, 4},
		{"one at a time", batchPolicy{messages: 3, inFlight: true}, []WorkerOption{WithConcurrency(1)}, 3},
		{"and some that wait", batchPolicy{messages: 2, inFlight: true}, []WorkerOption{WithConcurrency(1), WithPrefetch(1)}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				r := runBatches(t, c, test.bounds, collect(nil), test.opts...)
				if n := (<-b.consumers).start.GetCredits(); n != test.want {
					t.Errorf("credit %d, want %d", n, test.want)
				}
				r.finish(t)
			})
		})
	}
}

func TestBatchOutcomes(t *testing.T) {
	boom := errors.New("boom")
	fail := func(b *stringBatch) {
		b.Fail(0, boom)
		b.Fail(1, Permanent(boom))
		b.Fail(2, boom)
		b.Fail(2, Skip("late")) // replaces it
		b.Fail(3, nil)          // changes nothing
	}
	for _, test := range []struct {
		name    string
		handler func(*stringBatch) error
		want    []string
	}{
		{"nil", func(*stringBatch) error { return nil }, []string{"0 ack", "1 ack", "2 ack", "3 ack"}},
		{"some fail", func(b *stringBatch) error { fail(b); return nil }, []string{"0 retry boom", "1 reject PERMANENT boom", "2 skip late", "3 ack"}},
		{"the rest fails", func(b *stringBatch) error { fail(b); return RetryAfter(errors.New("rest"), time.Minute) },
			[]string{"0 retry boom", "1 reject PERMANENT boom", "2 skip late", "3 retry rest after 1m0s"}},
		{"the rest snoozes", func(b *stringBatch) error { fail(b); return Snooze(time.Hour) },
			[]string{"0 retry boom", "1 reject PERMANENT boom", "2 skip late", "3 snooze 1h0m0s"}},
		{"panic", func(b *stringBatch) error { fail(b); panic("bang") },
			[]string{"0 retry boom", "1 reject PERMANENT boom", "2 skip late", "3 retry panic: bang"}},
		{"panic of an error", func(b *stringBatch) error { b.Fail(1, angry{}); return nil },
			[]string{"0 ack", "1 retry panic: no text", "2 ack", "3 ack"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				r := runBatches(t, c, bounds(4, time.Minute), func(_ context.Context, b *stringBatch) error { return test.handler(b) })
				k := <-b.consumers
				_ = k.deliver("a", "b", "c", "d")
				expect(t, "settled", b.allSettled(), test.want...)
				_ = k.deliver("e", "f", "g", "h")
				if got := b.allSettled(); len(got) != 4 {
					t.Errorf("the place is not free again: settled %q", got)
				}
				r.finish(t)
			})
		})
	}
}

func TestUndecodableMessagesAreInNoBatch(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		metas := make(chan string, 4)
		r := runBatches(t, c, bounds(2, time.Minute), func(_ context.Context, b *stringBatch) error {
			metas <- fmt.Sprint(b.Len(), " ", b.Meta(0).ID, " ", b.Meta(0).Offset)
			b.Fail(0, errors.New("boom")) // the index is of the batch, not of what was delivered
			return nil
		})
		k := <-b.consumers
		good, _ := proto.Marshal(wrapperspb.String("good"))
		bad := &brokerv1.Record{Payload: []byte{0x0a, 0x05, 'a'}}
		_ = k.deliverRecords(&brokerv1.RecordSet{Records: []*brokerv1.Record{bad, {Payload: good, Id: "id"}}})
		expect(t, "meta", taken(metas), "1 id 1")
		if got := b.allSettled(); len(got) != 2 || !strings.HasPrefix(got[0], "0 reject UNDECODABLE") || got[1] != "1 retry boom" {
			t.Errorf("settled %q", got)
		}
		_ = k.deliverRecords(&brokerv1.RecordSet{Records: []*brokerv1.Record{bad, bad}})
		if got := b.allSettled(); len(got) != 2 || len(metas) != 0 {
			t.Errorf("settled %q, %d calls", got, len(metas))
		}
		r.finish(t)
	})
}

func TestBatchProcessingTimeout(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := runBatches(t, c, bounds(2, time.Hour), func(ctx context.Context, b *stringBatch) error {
			b.Fail(0, Skip("too late: the attempt has failed"))
			<-ctx.Done()
			<-time.After(time.Second) // one that returns at that very instant may be just in time
			return context.Cause(ctx)
		})
		k := <-b.consumers
		_ = k.deliver("a", "b")
		advance(59 * time.Second)
		expect(t, "before", b.allSettled())
		advance(time.Second)
		expect(t, "all of them", b.allSettled(), "0 retry mq: processing timeout after 1m0s", "1 retry mq: processing timeout after 1m0s")
		if n := r.worker.Counts().Retried; n != 2 {
			t.Errorf("%d retried", n)
		}
		r.finish(t)
	})
}

// What waits for a batch to be filled goes back unharmed, as does a batch whose handler the drain timeout interrupts: no attempt is used.
func TestBatchDrain(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 10
		r := runBatches(t, c, bounds(2, time.Minute), func(ctx context.Context, b *stringBatch) error {
			<-ctx.Done()
			b.Fail(0, ctx.Err())
			return ctx.Err()
		}, WithDrainTimeout(time.Second))
		k := <-b.consumers
		_ = k.deliver("a", "b", "waits")
		synctest.Wait()
		r.stop()
		expect(t, "what waits", b.nextSettled(t), "2 release")
		r.finish(t)
		expect(t, "what was interrupted", b.allSettled(), "0 release", "1 release")
	})
}

// A message that comes again while the handler of its lost lease runs waits for that alone: others are not held up.
func TestBatchWithAMessageThatIsStillHandled(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 100
		batches := make(chan string, 10)
		proceed := make(chan struct{})
		first := true
		r := runBatches(t, c, bounds(3, time.Second), func(_ context.Context, m *stringBatch) error {
			batches <- text(m)
			if first {
				first = false
				<-proceed
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("a")
		advance(time.Second)
		k.end <- errors.New("lost")
		k = <-b.consumers
		k.next = 1
		_ = k.deliver("b", "c")
		k.next = 0
		_ = k.deliver("a") // has the same place
		advance(time.Second)
		expect(t, "others", taken(batches), "a", "b c")
		close(proceed)
		expect(t, "then", taken(batches), "a")
		r.finish(t)
	})
}

func TestBatchPolicyOfTheAnnotations(t *testing.T) {
	batch := func(messages, bytes uint32, wait time.Duration) *mqv1.Batch {
		b := &mqv1.Batch{}
		if messages > 0 {
			b.MaxMessages = &messages
		}
		if bytes > 0 {
			b.MaxBytes = &bytes
		}
		if wait > 0 {
			b.MaxWait = durationpb.New(wait)
		}
		return b
	}
	consumer, method := &descriptorpb.ServiceOptions{}, &descriptorpb.MethodOptions{}
	proto.SetExtension(consumer, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String("group"),
		Defaults: &mqv1.SubscribeOptions{MaxInFlight: proto.Uint32(7), Batch: batch(10, 0, time.Second)}})
	proto.SetExtension(method, mqv1.E_Subscribe, &mqv1.SubscribeOptions{Batch: batch(20, 4096, 0)})
	rpc := func(name string, options *descriptorpb.MethodOptions) *descriptorpb.MethodDescriptorProto {
		return &descriptorpb.MethodDescriptorProto{Name: &name, InputType: proto.String(".google.protobuf.StringValue"),
			OutputType: proto.String(".google.protobuf.StringValue"), Options: options}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("a.b"), Syntax: proto.String("proto3"), Dependency: []string{"google/protobuf/wrappers.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{
			{Name: proto.String("Annotated"), Options: consumer, Method: []*descriptorpb.MethodDescriptorProto{rpc("Own", method), rpc("Inherited", nil)}},
			{Name: proto.String("Plain"), Method: []*descriptorpb.MethodDescriptorProto{rpc("Own", nil)}},
		},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]batchPolicy{
		"a.b.Annotated/Own":       {20, 4096, time.Second, true},
		"a.b.Annotated/Inherited": {10, 1 << 20, time.Second, true},
		"a.b.Plain/Own":           {100, 1 << 20, 0, false},
		"a.b.Missing/Own":         {100, 1 << 20, 0, false},
	} {
		if got := batchPolicyOf(Subscription{RPC: name, File: file}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}
