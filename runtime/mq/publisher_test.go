package mq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func TestPublishReturnsTheReceipt(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		p := NewPublisher(c, stringTopic)
		receipt, err := p.Publish(t.Context(), wrapperspb.String("a"))
		if want := (Receipt{ID: "3-0", Topic: "strings", Partition: 3}); err != nil || receipt != want {
			t.Fatalf("receipt %+v, %v; want %+v", receipt, err, want)
		}
		receipt, err = p.Publish(t.Context(), wrapperspb.String("b"),
			WithID("mine"), WithKey([]byte("k")), WithHeader("length", "9"), WithHeader("x", ""))
		if want := (Receipt{ID: "mine", Topic: "strings", Partition: 3, Offset: 1}); err != nil || receipt != want {
			t.Fatalf("receipt %+v, %v; want %+v", receipt, err, want)
		}
		frames := b.frames()
		if len(frames) != 2 || frames[0].GetBatches()[0].GetTopic() != "strings" {
			t.Fatalf("frames: %v", frames)
		}
		first, second := records(frames[0].GetBatches()[0])[0], records(frames[1].GetBatches()[0])[0]
		if string(first.GetKey()) != "a" || first.GetId() != "" || first.GetHeaders()[0].GetValue() != "1" {
			t.Errorf("first record: %v", first)
		}
		if string(second.GetKey()) != "k" || second.GetId() != "mine" || len(second.GetHeaders()) != 2 ||
			second.GetHeaders()[0].GetValue() != "9" || second.GetHeaders()[1].GetName() != "x" {
			t.Errorf("second record: %v", second)
		}
	})
}

// A zero message, an empty key and no headers encode to an empty record; it must arrive as one record all the same.
func TestPublishEmptyRecord(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		p := NewPublisher(c, NewTopic[wrapperspb.Int64Value]("numbers", nil))
		if _, err := p.Publish(t.Context(), &wrapperspb.Int64Value{}); err != nil {
			t.Fatal(err)
		}
		if got := len(records(b.frames()[0].GetBatches()[0])); got != 1 {
			t.Fatalf("%d records", got)
		}
	})
}

// gate holds each frame until the test lets it go.
type gate struct {
	arrived chan *brokerv1.PublishStreamRequest
	answer  chan func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error)
}

func newGate(b *fakeBroker) *gate {
	g := &gate{make(chan *brokerv1.PublishStreamRequest, 64),
		make(chan func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error), 64)}
	b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
		g.arrived <- r
		answer := <-g.answer
		if answer == nil {
			return nil, nil
		}
		return answer(r)
	}
	return g
}

type published struct {
	receipt Receipt
	err     error
}

// publish starts a Publish call and returns when it is queued.
func publish(ctx context.Context, p *Publisher[*wrapperspb.StringValue], value string) <-chan published {
	done := make(chan published, 1)
	go func() {
		r, err := p.Publish(ctx, wrapperspb.String(value))
		done <- published{r, err}
	}()
	synctest.Wait()
	return done
}

func TestPublishCoalescesWhileAFrameIsOnItsWay(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		numbers := NewPublisher(c, NewTopic[wrapperspb.Int64Value]("numbers", nil))
		var all []<-chan published
		for i := range 5 {
			all = append(all, publish(t.Context(), p, fmt.Sprint(i)))
		}
		other := make(chan error, 1)
		go func() {
			_, err := numbers.Publish(t.Context(), wrapperspb.Int64(1))
			other <- err
		}()
		synctest.Wait()
		if got := payloads(<-g.arrived); !slices.Equal(got, []string{"0"}) {
			t.Fatalf("first frame %q", got)
		}
		synctest.Wait()
		if len(g.arrived) != 0 {
			t.Fatal("a second frame was sent before the first was answered")
		}
		g.answer <- nil
		second := <-g.arrived
		if len(second.GetBatches()) != 2 || second.GetBatches()[1].GetTopic() != "numbers" {
			t.Fatalf("second frame %v", second)
		}
		if got := records(second.GetBatches()[0]); len(got) != 4 {
			t.Fatalf("%d records in the second frame", len(got))
		}
		g.answer <- nil
		for i, done := range all {
			if r := <-done; r.err != nil || r.receipt.Offset != int64(i) {
				t.Errorf("%d: %+v", i, r)
			}
		}
		if err := <-other; err != nil {
			t.Error(err)
		}
	})
}

func TestFramesStayWithinTheirBounds(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		var all []<-chan published
		value := strings.Repeat("x", 900<<10)
		short := WithKey(nil)
		for range 10 {
			done := make(chan published, 1)
			go func() {
				r, err := p.Publish(t.Context(), wrapperspb.String(value), short)
				done <- published{r, err}
			}()
			all = append(all, done)
		}
		g.open() // how many frames they make depends on when the first leaves
		for _, done := range all {
			if r := <-done; r.err != nil {
				t.Error(r.err)
			}
		}
		for _, f := range b.frames() {
			size := 0
			for _, batch := range f.GetBatches() {
				size += len(batch.GetRecords())
			}
			if size > 4<<20 {
				t.Errorf("a frame of %d bytes", size)
			}
		}
	})
}

func TestPublishWaitsWhenTheQueueIsFull(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		value := strings.Repeat("x", 1000<<10)
		var wg sync.WaitGroup
		for range 24 {
			wg.Go(func() {
				if _, err := p.Publish(t.Context(), wrapperspb.String(value), WithKey(nil)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		c.pipeline.mu.Lock()
		queued := c.pipeline.mu.bytes
		c.pipeline.mu.Unlock()
		if queued > maxQueuedBytes || queued < maxQueuedBytes-2<<20 {
			t.Errorf("%d bytes are queued", queued)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.Publish(ctx, wrapperspb.String(value), WithKey(nil)); !errors.Is(err, context.DeadlineExceeded) ||
			errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("error %v, want the context's", err)
		}
		for range 24 {
			g.answer <- nil
		}
		wg.Wait()
	})
}

func TestRefusedBatchIsReturned(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
				{Refusal: refusalOf(connect.CodeResourceExhausted, "DISK_FULL")}}}, nil
		}
		_, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a"))
		var refused *Error
		if !errors.As(err, &refused) || !errors.Is(err, ErrDiskFull) || refused.Code != connect.CodeResourceExhausted {
			t.Fatalf("error %#v", err)
		}
		if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("%v matches other sentinels", err)
		}
	})
}

// One caller's bad record must not fail the records that happen to share its frame.
func TestOneBadRecordIsRefusedAlone(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		refuseBad := func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			answer := &brokerv1.PublishStreamResponse{Sequence: r.GetSequence()}
			for _, batch := range r.GetBatches() {
				one := &brokerv1.PublishStreamRequest{Batches: []*brokerv1.TopicRecords{batch}}
				if slices.Contains(payloads(one), "bad") {
					answer.Results = append(answer.Results, &brokerv1.BatchResult{Refusal: refusalOf(connect.CodeInvalidArgument, "SCHEMA_MISMATCH")})
				} else {
					answer.Results = append(answer.Results, b.store(one).GetResults()...)
				}
			}
			return answer, nil
		}
		first := publish(t.Context(), p, "first")
		var all []<-chan published
		values := []string{"a", "b", "c", "bad", "d", "e", "f"}
		for _, v := range values {
			all = append(all, publish(t.Context(), p, v))
		}
		for range 8 {
			g.answer <- refuseBad
		}
		if r := <-first; r.err != nil {
			t.Fatal(r.err)
		}
		for i, done := range all {
			r := <-done
			if bad := values[i] == "bad"; bad != errors.Is(r.err, ErrSchemaMismatch) || bad != (r.err != nil) {
				t.Errorf("%s: %v", values[i], r.err)
			}
		}
		counts := map[string]int{}
		for _, f := range b.frames() {
			for _, v := range payloads(f) {
				counts[v]++
			}
		}
		if counts["a"] != 2 || counts["f"] != 3 || counts["bad"] != 4 {
			t.Errorf("records were sent %v times; want a with the batch and with its half, f once more, bad until it was alone", counts)
		}
	})
}

func TestPublishTriesAgainWhileTheSidecarSaysUnavailable(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		refusals := 3
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			if refusals--; refusals >= 0 {
				return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
					{Refusal: refusalOf(connect.CodeUnavailable, "COORDINATOR_UNAVAILABLE")}}}, nil
			}
			return nil, nil
		}
		if _, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
		if n := len(b.frames()); n != 4 {
			t.Errorf("%d frames", n)
		}
	})
}

// The connection breaks after a frame was sent and before its answer: the frame goes first on the next connection.
func TestPublishSendsTheFrameAgainAfterAReconnect(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		first := publish(t.Context(), p, "1")
		second := publish(t.Context(), p, "2")
		<-g.arrived
		b.reset()
		b.network.cut(true)
		g.answer <- nil
		synctest.Wait()
		advance(10 * time.Second)
		b.network.up()
		if got := payloads(<-g.arrived); !slices.Equal(got, []string{"1"}) {
			t.Fatalf("the first frame after the reconnect has %q", got)
		}
		if declares := b.declares(); len(declares) != 2 || declares[1].GetDescriptors() == nil {
			t.Errorf("the new sidecar got %d declarations", len(declares))
		}
		g.answer <- nil
		g.answer <- nil
		if r := <-first; r.err != nil {
			t.Error(r.err)
		}
		if r := <-second; r.err != nil {
			t.Error(r.err)
		}
		if got := payloads(<-g.arrived); !slices.Equal(got, []string{"2"}) {
			t.Errorf("the next frame has %q", got)
		}
	})
}

func TestPublishGivesUpWithItsContext(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		ctx, cancel := context.WithCancel(t.Context())
		sent := publish(ctx, p, "sent")
		queued := publish(ctx, p, "queued")
		kept := publish(t.Context(), p, "kept")
		<-g.arrived
		cancel()
		if r := <-sent; !errors.Is(r.err, ErrUnknownOutcome) || !errors.Is(r.err, context.Canceled) {
			t.Errorf("a call given up after sending returned %v", r.err)
		}
		if r := <-queued; errors.Is(r.err, ErrUnknownOutcome) || !errors.Is(r.err, context.Canceled) {
			t.Errorf("a call given up before sending returned %v", r.err)
		}
		// The frame on its way is lost with the connection: what was given up is not sent again.
		b.network.cut(false)
		g.answer <- nil
		if got := payloads(<-g.arrived); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("the next frame has %q", got)
		}
		g.answer <- nil
		if r := <-kept; r.err != nil {
			t.Error(r.err)
		}
		if _, err := p.Publish(ctx, wrapperspb.String("late")); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that ended before: %v", err)
		}
	})
}

func TestPublishErrorSaysWhatWasInTheWay(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		p := NewPublisher(c, stringTopic)
		if _, err := p.Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
		b.network.cut(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := p.Publish(ctx, wrapperspb.String("b"))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("error %v", err)
		}
		if errors.Is(err, ErrUnknownOutcome) && !strings.Contains(err.Error(), "may or may not") {
			t.Errorf("error %v", err)
		}
	})
}

func TestPublishDeclaresOnce(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		p := NewPublisher(c, stringTopic)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := p.Publish(t.Context(), wrapperspb.String("a")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		declares := b.declares()
		// The hash, then the descriptors, then once more before the stream's first frame.
		if len(declares) != 3 || declares[0].GetDescriptors() != nil || declares[1].GetDescriptors() == nil ||
			declares[2].GetDescriptors() != nil {
			t.Fatalf("%d declarations", len(declares))
		}
		if got := declares[1].GetDescriptors().GetFile()[0].GetName(); got != "google/protobuf/wrappers.proto" {
			t.Errorf("descriptors of %s", got)
		}
		if len(declares[0].GetDescriptorsHash()) != 32 || !slices.Equal(declares[0].GetTopics(), []string{"google.protobuf.StringValue"}) {
			t.Errorf("declared %v", declares[0])
		}
	})
}

func TestRefusedDeclarationIsReturnedAndTriedAgain(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		refuse := true
		b.declare = func(*brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error) {
			if refuse {
				return nil, refusalError(connect.CodeFailedPrecondition, "TOPIC_INCOMPATIBLE")
			}
			return nil, nil
		}
		p := NewPublisher(c, stringTopic)
		_, err := p.Publish(t.Context(), wrapperspb.String("a"))
		var refused *Error
		if !errors.Is(err, ErrTopicIncompatible) || !errors.As(err, &refused) || refused.Field != "field" || refused.Metadata["bound"] != "7" {
			t.Fatalf("error %v", err)
		}
		refuse = false
		if _, err := p.Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestPublishDeclaresAgainWhenTheTopicIsUnknown(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		unknown := 1
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			if unknown--; unknown >= 0 {
				return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
					{Refusal: refusalOf(connect.CodeNotFound, "TOPIC_UNKNOWN")}}}, nil
			}
			return nil, nil
		}
		p := NewPublisher(c, stringTopic)
		if _, err := p.Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
		unknown = 2
		if _, err := p.Publish(t.Context(), wrapperspb.String("a")); !errors.Is(err, ErrTopicUnknown) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestStaleGeneratedCodeIsRefused(t *testing.T) {
	withBroker(t, func(t *testing.T, _ *fakeBroker, c *Client) {
		p := NewPublisher(c, NewTopic[wrapperspb.StringValue]("old-name", nil))
		if _, err := p.Publish(t.Context(), wrapperspb.String("a")); !errors.Is(err, ErrTopicIncompatible) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestPublishChecksBounds(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.maxBytes = 100
		p := NewPublisher(c, stringTopic)
		var many []PublishOption
		for i := range 65 {
			many = append(many, WithHeader(fmt.Sprint("h", i), ""))
		}
		ok := wrapperspb.String("a")
		for _, test := range []struct {
			name   string
			msg    *wrapperspb.StringValue
			opts   []PublishOption
			reason string
			field  string
		}{
			{"nil", nil, nil, "BAD_MESSAGE", "payload"},
			{"not UTF-8", wrapperspb.String("\xff"), []PublishOption{WithKey(nil)}, "BAD_MESSAGE", "payload"},
			{"message", wrapperspb.String(strings.Repeat("x", 99)), nil, "MESSAGE_TOO_LARGE", "payload"},
			{"key", ok, []PublishOption{WithKey(make([]byte, 1025))}, "KEY_TOO_LARGE", "key"},
			{"id", ok, []PublishOption{WithID(strings.Repeat("i", 250))}, "BAD_NAME", "id"},
			{"id text", ok, []PublishOption{WithID("a\tb")}, "BAD_NAME", "id"},
			{"id not UTF-8", ok, []PublishOption{WithID("\xff")}, "BAD_NAME", "id"},
			{"id like a place", ok, []PublishOption{WithID("2026-11")}, "BAD_NAME", "id"},
			{"id like a place with a priority", ok, []PublishOption{WithID("0.3-17")}, "BAD_NAME", "id"},
			{"header count", ok, many, "HEADERS_TOO_LARGE", "headers"},
			{"header bytes", ok, []PublishOption{WithHeader("h", strings.Repeat("v", 32<<10))}, "HEADERS_TOO_LARGE", "headers"},
			{"header name", ok, []PublishOption{WithHeader("a b", "")}, "BAD_HEADER", "headers"},
			{"no header name", ok, []PublishOption{WithHeader("", "")}, "BAD_HEADER", "headers"},
			{"long header name", ok, []PublishOption{WithHeader(strings.Repeat("n", 250), "")}, "BAD_HEADER", "headers"},
			{"header value", ok, []PublishOption{WithHeader("h", "a\r\nb")}, "BAD_HEADER", "headers.h"},
			{"header text", ok, []PublishOption{WithHeader("h", "\xff")}, "BAD_HEADER", "headers.h"},
		} {
			_, err := p.Publish(t.Context(), test.msg, test.opts...)
			var e *Error
			if !errors.As(err, &e) || e.Reason != test.reason || e.Field != test.field ||
				errors.Is(err, ErrTooLarge) != strings.HasSuffix(test.reason, "TOO_LARGE") {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		if n := len(b.frames()); n != 0 {
			t.Errorf("%d frames were sent", n)
		}
		if _, err := p.Publish(t.Context(), wrapperspb.String(strings.Repeat("x", 98)), many[:63]...); err != nil {
			t.Errorf("at the bounds: %v", err)
		}
	})
}

// An answer that does not fit the frame must neither hang the callers nor be taken for success.
func TestAnswerThatDoesNotMatch(t *testing.T) {
	for name, answer := range map[string]*brokerv1.PublishStreamResponse{
		"sequence": {Sequence: 77, Results: []*brokerv1.BatchResult{{Partitions: []uint32{1}, Offsets: []int64{1}}}},
		"results":  {Sequence: 1},
		"offsets":  {Sequence: 1, Results: []*brokerv1.BatchResult{{Partitions: []uint32{1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.frame = func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) { return answer, nil }
				if _, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a")); !errors.Is(err, ErrUnknownOutcome) {
					t.Fatalf("error %v", err)
				}
			})
		})
	}
}

// A frame that the sidecar refuses as a whole must not be sent for ever.
func TestStreamRefusalIsReturned(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.frame = func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return nil, refusalError(connect.CodeInvalidArgument, "BAD_FRAME")
		}
		var e *Error
		if _, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a")); !errors.As(err, &e) || e.Reason != "BAD_FRAME" {
			t.Fatalf("error %v", err)
		}
		b.frame = nil
		if _, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseEndsPublishes(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		g.answer <- nil
		if _, err := p.Publish(t.Context(), wrapperspb.String("before")); err != nil {
			t.Fatal(err)
		}
		<-g.arrived
		sent := publish(t.Context(), p, "sent")
		queued := publish(t.Context(), p, "queued")
		undeclared := NewPublisher(c, NewTopic[wrapperspb.Int64Value]("numbers", nil))
		<-g.arrived
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if r := <-sent; !errors.Is(r.err, ErrClosed) || !errors.Is(r.err, ErrUnknownOutcome) {
			t.Errorf("sent: %v", r.err)
		}
		if r := <-queued; !errors.Is(r.err, ErrClosed) || errors.Is(r.err, ErrUnknownOutcome) {
			t.Errorf("queued: %v", r.err)
		}
		if _, err := p.Publish(t.Context(), wrapperspb.String("late")); !errors.Is(err, ErrClosed) {
			t.Errorf("late: %v", err)
		}
		if _, err := undeclared.Publish(t.Context(), wrapperspb.Int64(1)); !errors.Is(err, ErrClosed) {
			t.Errorf("undeclared: %v", err)
		}
		g.answer <- nil
	})
}

func TestCloseEndsPublishesThatCouldNotBeQueued(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		g := newGate(b)
		p := NewPublisher(c, stringTopic)
		value := strings.Repeat("x", 1000<<10)
		errs := make(chan error, 30)
		for range 30 {
			go func() {
				_, err := p.Publish(t.Context(), wrapperspb.String(value), WithKey(nil))
				errs <- err
			}()
		}
		synctest.Wait()
		_ = c.Close()
		for range 30 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("error %v", err)
			}
		}
		close(g.answer)
	})
}

func TestCloseEndsADeclaration(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.network.cut(true)
		first := publish(t.Context(), NewPublisher(c, stringTopic), "declares")
		second := publish(t.Context(), NewPublisher(c, stringTopic), "waits for the first")
		_ = c.Close()
		for _, done := range []<-chan published{first, second} {
			if r := <-done; !errors.Is(r.err, ErrClosed) || errors.Is(r.err, ErrUnknownOutcome) {
				t.Errorf("error %v", r.err)
			}
		}
	})
}
