package mq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// withInterceptors runs a test without interceptors, and with one that only calls the next.
func withInterceptors(t *testing.T, test func(t *testing.T, b *fakeBroker, c *Client)) {
	for _, intercepted := range []bool{false, true} {
		t.Run(fmt.Sprintf("intercepted=%v", intercepted), func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				if intercepted {
					c.publish = intercept([]PublishInterceptor{func(next PublishFunc) PublishFunc {
						return func(ctx context.Context, p *Publication) (Receipt, error) { return next(ctx, p) }
					}}, c.send)
				}
				test(t, b, c)
			})
		})
	}
}

func TestPublishAsyncKeepsOrderAndDoesNotWait(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		gate := newGate(b)
		p := NewPublisher(c, stringTopic)
		var all []*Pending
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint(i))
			all = append(all, p.PublishAsync(t.Context(), wrapperspb.String(want[i])))
		}
		gate.open()
		for i, pending := range all {
			for range 2 { // any number of times
				if receipt, err := pending.Wait(t.Context()); err != nil || receipt.Offset != int64(i) {
					t.Errorf("message %d: %+v, %v", i, receipt, err)
				}
			}
		}
		var got []string
		for _, f := range b.frames() {
			got = append(got, payloads(f)...)
		}
		expect(t, "order", got, want...)
	})
}

func TestPendingWaitGivesUpAndTheMessageIsPublished(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		gate := newGate(b)
		ctx, cancel := context.WithCancel(t.Context())
		pending := NewPublisher(c, stringTopic).PublishAsync(ctx, wrapperspb.String("a"))
		cancel() // matters until it is queued only
		short, done := context.WithTimeout(t.Context(), time.Second)
		defer done()
		if _, err := pending.Wait(short); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"strings"`) {
			t.Errorf("Wait returned %v", err)
		}
		gate.open()
		if _, err := pending.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := pending.Wait(ctx); err != nil {
			t.Errorf("of an answered message, Wait returned %v", err)
		}
	})
}

func TestPublishAsyncTellsRefusals(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
				{Refusal: refusalOf(connect.CodeResourceExhausted, "DISK_FULL")}}}, nil
		}
		p := NewPublisher(c, stringTopic)
		if _, err := p.PublishAsync(t.Context(), wrapperspb.String("a")).Wait(t.Context()); !errors.Is(err, ErrDiskFull) {
			t.Errorf("by the sidecar: %v", err)
		}
		if _, err := p.PublishAsync(t.Context(), nil).Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "nil") {
			t.Errorf("nil: %v", err)
		}
		if _, err := p.PublishAsync(t.Context(), wrapperspb.String("a"), WithTTL(-1)).Wait(t.Context()); !errors.Is(err, ErrBadTTL) {
			t.Errorf("an option: %v", err)
		}
	})
}

func TestPublishAsyncWaitsWhenTheQueueIsFull(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		gate := newGate(b)
		p := NewPublisher(c, NewTopic[wrapperspb.BytesValue]("blobs", nil))
		message := wrapperspb.Bytes(make([]byte, 1<<20-64))
		queued := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			pending := p.PublishAsync(ctx, message)
			full := ctx.Err() != nil
			cancel()
			if full {
				if _, err := pending.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknownOutcome) {
					t.Errorf("Wait returned %v", err)
				}
				break
			}
			if queued++; queued > 100 {
				t.Fatal("there is no bound")
			}
		}
		if queued < 16 || queued > 21 { // 16 MiB, and what the frame in flight holds
			t.Errorf("%d MiB are queued", queued)
		}
		gate.open()
		if err := c.Flush(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestFlush(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		if err := c.Flush(t.Context()); err != nil {
			t.Errorf("of nothing: %v", err)
		}
		gate := newGate(b)
		p := NewPublisher(c, stringTopic)
		var all []*Pending
		for i := range 3 {
			all = append(all, p.PublishAsync(t.Context(), wrapperspb.String(fmt.Sprint(i))))
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Flush(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before the answers: %v", err)
		}
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-flushed:
			t.Fatalf("flushed before the answers: %v", err)
		default:
		}
		gate.open()
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for i, pending := range all {
			if _, err := pending.Wait(ended); err != nil {
				t.Errorf("message %d is not answered: %v", i, err)
			}
		}
	})
}

// Flush is over when what was queued before it is answered, however much is queued meanwhile.
func TestFlushDoesNotWaitForWhatComesLater(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		steps := make(chan struct{})
		b.frame = func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			<-steps
			return nil, nil
		}
		p := NewPublisher(c, stringTopic)
		p.PublishAsync(t.Context(), wrapperspb.String("first"))
		synctest.Wait()
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		p.PublishAsync(t.Context(), wrapperspb.String("later"))
		steps <- struct{}{}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		close(steps)
	})
}

func TestCloseAnswersWhatIsPending(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		gate := newGate(b)
		pending := NewPublisher(c, stringTopic).PublishAsync(t.Context(), wrapperspb.String("a"))
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := pending.Wait(t.Context()); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("Wait returned %v", err)
		}
		if err := <-flushed; !errors.Is(err, ErrClosed) {
			t.Errorf("Flush returned %v", err)
		}
		if _, err := NewPublisher(c, stringTopic).PublishAsync(t.Context(), wrapperspb.String("a")).Wait(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		gate.open()
	})
}

func TestPublishBatchHasOneResultForEach(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.maxBytes = 100
		p := NewPublisher(c, stringTopic)
		results := p.PublishBatch(t.Context(), []*wrapperspb.StringValue{
			wrapperspb.String("a"), nil, wrapperspb.String("b"), wrapperspb.String(strings.Repeat("long", 100)), wrapperspb.String("c"),
		}, WithHeader("all", "yes"))
		var got []string
		for _, r := range results {
			got = append(got, fmt.Sprintf("%d %s %v %v", r.Receipt.Offset, r.Receipt.Topic, errors.Is(r.Err, ErrTooLarge), r.Err != nil))
		}
		expect(t, "results", got, "0 strings false false", "0  false true", "1 strings false false", "0  true true", "2 strings false false")
		var values, headers []string
		for _, f := range b.frames() {
			values = append(values, payloads(f)...)
			for _, r := range records(f.GetBatches()[0]) {
				headers = append(headers, r.GetHeaders()[1].GetValue())
			}
		}
		expect(t, "published", values, "a", "b", "c")
		expect(t, "options", headers, "yes", "yes", "yes")
		if len(p.PublishBatch(t.Context(), nil)) != 0 {
			t.Error("results of nothing")
		}
	})
}

func TestPublishBatchGivesUpWithItsContext(t *testing.T) {
	withInterceptors(t, func(t *testing.T, b *fakeBroker, c *Client) {
		gate := newGate(b)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		results := NewPublisher(c, stringTopic).PublishBatch(ctx, []*wrapperspb.StringValue{wrapperspb.String("a"), wrapperspb.String("b")})
		for i, r := range results {
			if !errors.Is(r.Err, context.DeadlineExceeded) || r.Receipt != (Receipt{}) {
				t.Errorf("message %d: %+v", i, r)
			}
		}
		if !errors.Is(results[0].Err, ErrUnknownOutcome) {
			t.Errorf("the first was sent: %v", results[0].Err)
		}
		gate.open()
	})
}

// open lets all frames go, now and later.
func (g *gate) open() { close(g.answer) }
