package mq

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// running is a worker under test.
type running struct {
	worker *Worker
	stop   context.CancelFunc
	done   chan error
}

// run starts a worker with one subscription. The test ends it, or it is ended with the test.
func run(t *testing.T, c *Client, handler func(context.Context, *wrapperspb.StringValue) error, opts ...WorkerOption) *running {
	t.Helper()
	w := NewWorker(c, opts...)
	Handle(w, stringSubscription, handler)
	return start(t, w)
}

func start(t *testing.T, w *Worker) *running {
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{w, cancel, make(chan error, 1)}
	go func() { r.done <- w.Run(ctx) }()
	synctest.Wait()
	return r
}

// finish stops the worker and expects Run to return nil.
func (r *running) finish(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestHandlerOutcomes(t *testing.T) {
	boom := errors.New("boom")
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"ack", nil, "0 ack"},
		{"retry", boom, "0 retry boom"},
		{"permanent", Permanent(boom), "0 reject PERMANENT boom"},
		{"wrapped permanent", fmt.Errorf("load: %w", Permanent(boom)), "0 reject PERMANENT load: boom"},
		{"joined", errors.Join(boom, Permanent(boom)), "0 reject PERMANENT boom\nboom"},
		{"retry after", RetryAfter(boom, time.Minute), "0 retry boom after 1m0s"},
		{"retry after, negative", RetryAfter(boom, -1), "0 retry boom after 0s"},
		{"outermost decides", RetryAfter(Permanent(boom), time.Second), "0 retry boom after 1s"},
		{"snooze", Snooze(time.Hour), "0 snooze 1h0m0s"},
		{"wrapped snooze", fmt.Errorf("later: %w", Snooze(time.Hour)), "0 snooze 1h0m0s"},
		{"skip", Skip("test data"), "0 skip test data"},
		{"skip without reason", Skip(""), "0 skip skipped"},
		{"permanent nil", Permanent(nil), "0 ack"},
		{"retry after nil", RetryAfter(nil, time.Minute), "0 ack"},
		{"long error", errors.New(strings.Repeat("é", 3000)), "0 retry " + strings.Repeat("é", 2046) + "…"},
		{"invalid UTF-8", errors.New("a\xffb"), "0 retry a\uFFFDb"},
	} {
		t.Run(test.name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return test.err })
				k := <-b.consumers
				if err := k.deliver("a"); err != nil {
					t.Fatal(err)
				}
				expect(t, "settled", b.nextSettled(t), test.want)
				r.finish(t)
			})
		})
	}
}

func TestErrorsAreUnderstoodByErrorsIs(t *testing.T) {
	boom := errors.New("boom")
	if !errors.Is(Permanent(boom), boom) || !errors.Is(RetryAfter(boom, 0), boom) {
		t.Error("the marked error is hidden")
	}
}

type angry struct{}

func (angry) Error() string { panic("no text") }

func TestPanicsAreErrors(t *testing.T) {
	for name, test := range map[string]struct {
		handler func() error
		want    string
	}{
		"handler":    {func() error { panic("boom") }, "0 retry panic: boom"},
		"error text": {func() error { return angry{} }, "0 retry panic: no text"},
		"goexit":     {func() error { runtime.Goexit(); return nil }, "0 retry the handler ended its goroutine"},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.inFlight = 1
				calls := 0
				r := run(t, c, func(context.Context, *wrapperspb.StringValue) error {
					if calls++; calls == 1 {
						return test.handler()
					}
					return nil
				})
				k := <-b.consumers
				_ = k.deliver("a")
				synctest.Wait()
				request := <-b.settled
				expect(t, "settled", describe(request), test.want)
				text := request.GetSettlements()[0].GetRetry().GetError()
				if len(text) > 4096 || (name == "handler" && !strings.Contains(text, "worker_test.go")) {
					t.Errorf("the error has %d bytes: %s", len(text), text)
				}
				_ = k.deliver("b") // the place is free again
				expect(t, "settled", b.nextSettled(t), "1 ack")
				r.finish(t)
			})
		})
	}
}

func TestUndecodablePayloadIsRejected(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error {
			t.Error("the handler was called")
			return nil
		})
		k := <-b.consumers
		_ = k.deliverRecords(&brokerv1.RecordSet{Records: []*brokerv1.Record{{Payload: []byte{0x0a, 0x05, 'a'}}}})
		if got := b.nextSettled(t); len(got) != 1 || !strings.HasPrefix(got[0], "0 reject UNDECODABLE ") {
			t.Errorf("settled %q", got)
		}
		// A record that is itself malformed.
		_ = k.deliverSlice(&brokerv1.Slice{Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x0a, 0x02, 0x0a, 0x05}})
		if got := b.nextSettled(t); len(got) != 1 || !strings.HasPrefix(got[0], "1 reject UNDECODABLE ") {
			t.Errorf("settled %q", got)
		}
		r.finish(t)
	})
}

func TestMetaReachesTheHandler(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		metas := make(chan Meta, 2)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			metas <- MetaFrom(ctx)
			return nil
		})
		k := <-b.consumers
		began := time.Now()
		_ = k.deliver("a")
		m := <-metas
		if m.ID != "2-0" || m.Topic != "strings" || m.Group != "group" || string(m.Key) != "key" || m.Partition != 2 ||
			m.Offset != 0 || m.Attempt != 1 || !m.Published.Equal(time.UnixMilli(1_700_000_000_000)) || !m.Deadline.Equal(began.Add(time.Minute)) {
			t.Errorf("meta %+v", m)
		}
		if v, ok := m.Header("destination"); v != "LAX" || !ok {
			t.Errorf("header %q, %v", v, ok)
		}
		if v, ok := m.Header("empty"); v != "" || !ok {
			t.Errorf("empty header %q, %v", v, ok)
		}
		if _, ok := m.Header("none"); ok {
			t.Error("a header that is not there")
		}
		n := 0
		for range m.Headers() {
			n++
		}
		if n != 2 {
			t.Errorf("%d headers", n)
		}
		_ = k.deliverSlice(&brokerv1.Slice{Offsets: []int64{7}, Attempts: []uint32{3}, Tokens: token(7), Records: []byte("\x0a\x04\x22\x02id")})
		if m := <-metas; m.ID != "id" || m.Attempt != 3 || m.Offset != 7 {
			t.Errorf("meta %+v", m)
		}
		_ = k.deliverSlice(&brokerv1.Slice{Partition: 2, Priority: 3, Offsets: []int64{8}, Tokens: token(8), Records: []byte{0x0a, 0}})
		if m := <-metas; m.ID != "2.3-8" || m.Priority != 3 {
			t.Errorf("meta %+v", m)
		}
		r.finish(t)
		if m := MetaFrom(t.Context()); m.ID != "" {
			t.Error("meta outside a handler")
		}
	})
}

func TestWorkerStartsWithTheSubscriptionsPolicy(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inFlight = 7
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		if k.start.GetGroup() != "group" || k.start.GetTopic() != "strings" || k.start.GetCredits() != 7 || k.start.GetClientName() != "test" {
			t.Errorf("start %v", k.start)
		}
		declares := b.declares()
		if len(declares) != 2 || !slices.Equal(declares[1].GetSubscriptions(), []string{"test.Consumer/strings"}) || declares[1].GetDescriptors() == nil {
			t.Errorf("declared %v", declares)
		}
		r.finish(t)
	})
}

func TestWithConcurrencyLowersTheCredit(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil }, WithConcurrency(2))
		if k := <-b.consumers; k.start.GetCredits() != 2 {
			t.Errorf("start %v", k.start)
		}
		r.finish(t)
	})
}

// Subscriptions of one file are declared by one call; each has a stream of its own.
func TestSubscriptionsOfOneFileAreDeclaredTogether(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		w := NewWorker(c)
		Handle(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) error { return nil })
		numbers := stringSubscription
		numbers.Topic, numbers.RPC = "numbers", "test.Consumer/numbers"
		Handle(w, numbers, func(context.Context, *wrapperspb.Int64Value) error { return nil })
		r := start(t, w)
		topics := []string{(<-b.consumers).start.GetTopic(), (<-b.consumers).start.GetTopic()}
		slices.Sort(topics)
		expect(t, "streams", topics, "numbers", "strings")
		if declares := b.declares(); len(declares) != 2 || len(declares[1].GetSubscriptions()) != 2 {
			t.Errorf("declared %v", declares)
		}
		r.finish(t)
	})
}

func TestHandlersRunConcurrentlyUpToTheLimit(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		var now atomic.Int32
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error {
			now.Add(1)
			<-proceed
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("a", "b", "c", "d", "one too many")
		expect(t, "beyond the limit", b.nextSettled(t), "4 release")
		if n := now.Load(); n != 4 {
			t.Errorf("%d handlers run", n)
		}
		close(proceed)
		expect(t, "settled", b.allSettled(), "0 ack", "1 ack", "2 ack", "3 ack")
		r.finish(t)
		if n := r.worker.Counts(); n.Acked != 4 || n.Released != 1 {
			t.Errorf("counts %+v", n)
		}
	})
}

// What is decided while a Settle call is on its way goes with the next.
func TestOutcomesAreBatched(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		hold := make(chan struct{})
		b.settle = func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			<-hold
			return nil, nil
		}
		r := run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error {
			if m.GetValue() == "bad" {
				return errors.New("bad")
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("a")
		expect(t, "first call", b.nextSettled(t), "0 ack")
		_ = k.deliver("b", "bad", "c")
		synctest.Wait()
		if len(b.settled) != 0 {
			t.Error("a second call was made during the first")
		}
		close(hold)
		second := b.nextSettled(t)
		slices.Sort(second)
		expect(t, "second call", second, "1 ack", "2 retry bad", "3 ack")
		r.finish(t)
	})
}

func TestHeartbeatsKeepTheLease(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		advance(61 * time.Second)
		if n := len(k.requests); n != 6 {
			t.Errorf("%d heartbeats in two leases, want 6", n)
		}
		for range len(k.requests) {
			if m := <-k.requests; m.GetHeartbeat() == nil {
				t.Errorf("request %v", m)
			}
		}
		r.finish(t)
	})
}

func TestSilentSidecarIsLeft(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		causes := make(chan error, 1)
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		})
		k := <-b.consumers
		k.mute <- true
		_ = k.deliver("a")
		advance(20 * time.Second)
		if len(causes) != 0 {
			t.Fatal("the stream was left before a lease was over")
		}
		advance(11 * time.Second)
		if cause := <-causes; !errors.Is(cause, ErrLeaseLost) {
			t.Errorf("cause %v", cause)
		}
		<-k.gone
		<-b.consumers // the next session
		if got := b.allSettled(); len(got) != 0 {
			t.Errorf("settled %q without a lease", got)
		}
		r.finish(t)
	})
}

func TestProcessingTimeout(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		causes := make(chan error, 1)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			if m.GetValue() == "stuck" {
				<-proceed // does not look at its context
			}
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		})
		k := <-b.consumers
		_ = k.deliver("polite")
		advance(time.Minute)
		if cause := <-causes; !errors.Is(cause, ErrProcessingTimeout) {
			t.Errorf("cause %v", cause)
		}
		expect(t, "settled", b.allSettled(), "0 retry mq: processing timeout after 1m0s")
		for range len(k.requests) {
			<-k.requests
		}

		_ = k.deliver("stuck")
		advance(time.Minute)
		expect(t, "settled though the handler is stuck", b.allSettled(), "1 retry mq: processing timeout after 1m0s")
		expect(t, "credit", credits(k), "3")
		close(proceed)
		synctest.Wait()
		expect(t, "credit after the handler returned", credits(k), "4")
		if got := b.allSettled(); len(got) != 0 {
			t.Errorf("settled twice: %q", got)
		}
		r.finish(t)
	})
}

// credits returns the credits that the consumer sent, and drops heartbeats.
func credits(k *fakeConsumer) []string {
	var all []string
	for {
		select {
		case r, ok := <-k.requests:
			if !ok {
				return all
			}
			if r.GetCredit() != nil {
				all = append(all, fmt.Sprint(r.GetCredit().GetCredits()))
			}
		default:
			return all
		}
	}
}

func TestStaleTokensAreCountedAndNotFatal(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.settle = func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			answer := &brokerv1.SettleResponse{}
			for acks := range slices.Chunk(r.GetAcks(), tokenBytes) {
				switch offsetOf(acks) {
				case 0:
					answer.Refusals = append(answer.Refusals, &brokerv1.SettleRefusal{Token: acks, Refusal: refusalOf(connect.CodeFailedPrecondition, "LEASE_LOST")})
				}
			}
			return answer, nil
		}
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		_ = k.deliver("a", "b", "c")
		synctest.Wait()
		if n := r.worker.Counts(); n.LeaseLost != 1 || n.Unsettled != 0 || n.Acked != 2 {
			t.Errorf("counts %+v", n)
		}
		_ = k.deliver("d")
		synctest.Wait()
		if n := r.worker.Counts(); n.Acked != 3 || n.Reconnects != 0 {
			t.Errorf("counts %+v", n)
		}
		r.finish(t)
	})
}

// TestAnOutcomeThatIsRefusedForGoodEndsTheSession: heartbeats would keep a lease that nothing can settle.
func TestAnOutcomeThatIsRefusedForGoodEndsTheSession(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.settle = func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			answer := &brokerv1.SettleResponse{}
			for acks := range slices.Chunk(r.GetAcks(), tokenBytes) {
				answer.Refusals = append(answer.Refusals, &brokerv1.SettleRefusal{Token: acks, Refusal: refusalOf(connect.CodeInvalidArgument, "BAD_TOKEN")})
			}
			return answer, nil
		}
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		_ = k.deliver("a")
		<-b.consumers // it joins again
		if n := r.worker.Counts(); n.Unsettled != 1 || n.Reconnects != 1 {
			t.Errorf("counts %+v", n)
		}
		r.finish(t)
	})
}

func TestSettleIsTriedAgain(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		calls := 0
		b.settle = func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			switch calls++; calls {
			case 1:
				return nil, connect.NewError(connect.CodeUnavailable, errors.New("busy"))
			case 2: // one outcome is to be tried again, the other is done
				return &brokerv1.SettleResponse{Refusals: []*brokerv1.SettleRefusal{
					{Token: r.GetSettlements()[0].GetToken(), Refusal: refusalOf(connect.CodeUnavailable, "MOVING")}}}, nil
			}
			return nil, nil
		}
		r := run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error {
			if m.GetValue() == "bad" {
				return errors.New("bad")
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("bad")
		advance(5 * time.Second)
		expect(t, "settled", b.allSettled(), "0 retry bad", "0 retry bad", "0 retry bad")
		if n := r.worker.Counts(); n.Retried != 1 || n.Unsettled != 0 {
			t.Errorf("counts %+v", n)
		}
		r.finish(t)
	})
}

// Heartbeats would keep leases that can never be settled. The session ends, so that the sidecar gets them back.
func TestRefusedSettleCallEndsTheSession(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.settle = func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			return nil, refusalError(connect.CodeInvalidArgument, "BAD_TOKEN")
		}
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		_ = k.deliver("a")
		<-k.gone
		<-b.consumers
		if n := r.worker.Counts(); n.Unsettled != 1 {
			t.Errorf("counts %+v", n)
		}
		r.finish(t)
	})
}

func TestLostStream(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		causes := make(chan error, 4)
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			switch m.GetValue() {
			case "polite":
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return ctx.Err()
			case "deaf":
				<-proceed
			}
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("polite", "deaf")
		synctest.Wait()
		b.reset()
		b.network.cut(true)
		if cause := <-causes; !errors.Is(cause, ErrLeaseLost) {
			t.Errorf("cause %v", cause)
		}
		advance(time.Minute)
		b.network.up()
		k = <-b.consumers
		if k.start.GetCredits() != 3 {
			t.Errorf("the new session has %d credits; one handler of the old one still runs", k.start.GetCredits())
		}
		if d := b.declares(); len(d) != 2 || d[1].GetDescriptors() == nil {
			t.Errorf("the new sidecar got %d declarations", len(d))
		}
		synctest.Wait()
		close(proceed)
		synctest.Wait()
		expect(t, "credit", credits(k), "4")
		_ = k.deliver("a")
		expect(t, "settled", b.allSettled(), "0 ack")
		r.finish(t)
		if n := r.worker.Counts(); n.Reconnects != 1 || n.Unsettled != 1 || n.Acked != 1 {
			t.Errorf("counts %+v", n)
		}
	})
}

// A handler that succeeds just as the stream is lost is acknowledged all the same: the sidecar may not have noticed.
func TestSuccessIsSettledAfterTheStreamIsLost(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
			<-ctx.Done()
			if m.GetValue() == "done" {
				return nil
			}
			return ctx.Err()
		})
		k := <-b.consumers
		_ = k.deliver("done", "not done")
		synctest.Wait()
		k.end <- connect.NewError(connect.CodeInternal, errors.New("lost"))
		<-b.consumers
		expect(t, "settled", b.allSettled(), "0 ack")
		r.finish(t)
	})
}

func TestDrain(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			<-proceed
			return ctx.Err()
		})
		k := <-b.consumers
		_ = k.deliver("running")
		synctest.Wait()
		r.stop()
		synctest.Wait()
		expect(t, "credit", credits(k), "0")
		_ = k.deliver("late")
		expect(t, "not started", b.nextSettled(t), "1 release")
		advance(25 * time.Second)
		if beat := <-k.requests; beat.GetHeartbeat() == nil {
			t.Errorf("no heartbeats while draining: %v", beat)
		}
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v before the handler", err)
		default:
		}
		close(proceed)
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		expect(t, "settled", b.allSettled(), "0 ack")
		<-k.gone
	})
}

func TestDrainTimeoutInterruptsHandlers(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), ErrShutdown) {
				t.Errorf("cause %v", context.Cause(ctx))
			}
			return fmt.Errorf("interrupted: %w", ctx.Err())
		}, WithDrainTimeout(10*time.Second))
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		began := time.Now()
		r.finish(t)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the drain took %v", took)
		}
		expect(t, "no attempt is used", b.allSettled(), "0 release")
	})
}

func TestHandlerThatNeverReturnsIsLeftBehind(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { <-proceed; return nil })
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		r.stop()
		if err := <-r.done; err == nil || !strings.Contains(err.Error(), "1 handlers did not return") {
			t.Errorf("Run returned %v", err)
		}
		close(proceed)
	})
}

func TestSidecarThatDrainsIsLeftInGoodOrder(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error { <-proceed; return ctx.Err() })
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait() // its handler has begun
		_ = k.send(&brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Draining_{Draining: &brokerv1.ConsumeResponse_Draining{}}})
		_ = k.deliver("b")
		expect(t, "not started", b.nextSettled(t), "1 release")
		if len(b.consumers) != 0 {
			t.Error("the consumer came back before it had settled")
		}
		close(proceed)
		expect(t, "settled", b.nextSettled(t), "0 ack")
		<-k.gone
		k = <-b.consumers
		_ = k.deliver("c")
		expect(t, "settled at the next sidecar", b.nextSettled(t), "0 ack")
		r.finish(t)
	})
}

func TestMalformedDeliveriesEndTheSession(t *testing.T) {
	for name, slice := range map[string]*brokerv1.Slice{
		"tokens":        {Offsets: []int64{1}, Tokens: make([]byte, 31), Records: []byte{0x0a, 0}},
		"attempts":      {Offsets: []int64{1}, Tokens: token(1), Attempts: []uint32{1, 2}, Records: []byte{0x0a, 0}},
		"few records":   {Offsets: []int64{1, 2}, Tokens: append(token(1), token(2)...), Records: []byte{0x0a, 0}},
		"many records":  {Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x0a, 0, 0x0a, 0}},
		"broken record": {Offsets: []int64{1}, Tokens: token(1), Records: []byte{0x0a, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
				k := <-b.consumers
				_ = k.deliverSlice(slice)
				<-k.gone
				<-b.consumers
				r.finish(t)
			})
		})
	}
}

func TestRunEndsWithWhatNoReconnectCanChange(t *testing.T) {
	for name, prepare := range map[string]func(*fakeBroker){
		"declare": func(b *fakeBroker) {
			b.declare = func(*brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error) {
				return nil, refusalError(connect.CodeFailedPrecondition, "QUEUE_HAS_GROUP")
			}
		},
		"consume": func(b *fakeBroker) {
			b.consume = func() error { return refusalError(connect.CodeFailedPrecondition, "QUEUE_HAS_GROUP") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				prepare(b)
				r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
				if err := <-r.done; !errors.Is(err, ErrQueueHasGroup) {
					t.Errorf("Run returned %v", err)
				}
			})
		})
	}
}

// The sidecar was replaced between the declaration and the stream.
func TestRunDeclaresAgainWhenTheTopicIsUnknown(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		unknown := 1
		b.consume = func() error {
			if unknown--; unknown >= 0 {
				return refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN")
			}
			return nil
		}
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		<-b.consumers
		if n := len(b.declares()); n != 3 {
			t.Errorf("%d declarations, want the hash, the descriptors and the hash again", n)
		}
		r.finish(t)
	})
}

func TestRunWaitsForASidecarThatIsAway(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.network.cut(true)
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		advance(time.Hour)
		select {
		case err := <-r.done:
			t.Fatalf("Run returned %v", err)
		default:
		}
		b.network.up()
		<-b.consumers
		r.finish(t)
	})
}

func TestRunStopsAtOnceWhenTheSidecarIsAway(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		<-b.consumers
		b.network.cut(true)
		advance(time.Minute)
		began := time.Now()
		r.finish(t)
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestRunEndsWithTheClient(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			<-ctx.Done()
			return ctx.Err()
		})
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		_ = c.Close()
		if err := <-r.done; !errors.Is(err, ErrClosed) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRegistrationFaultsAreReportedTogether(t *testing.T) {
	withBroker(t, func(t *testing.T, _ *fakeBroker, c *Client) {
		w := NewWorker(c)
		Handle(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) error { return nil })
		Handle(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) error { return nil })
		Handle[wrapperspb.StringValue](w, Subscription{RPC: "test.Consumer/nothing"}, nil)
		err := w.Run(t.Context())
		for _, want := range []string{"already", "required", "nil"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not mention %q", err, want)
			}
		}
		if err := w.Run(t.Context()); err == nil {
			t.Error("a second Run")
		}
		if err := NewWorker(c).Run(t.Context()); err == nil {
			t.Error("a worker without subscriptions")
		}
	})
}

func TestIdleWorkerStopsAtOnce(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		began := time.Now()
		r.finish(t)
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWorkerStopsWhileItJoins(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		hold := make(chan struct{})
		b.consume = func() error { <-hold; return nil }
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		began := time.Now()
		r.finish(t)
		if took := time.Since(began); took > 0 {
			t.Errorf("it took %v", took)
		}
		close(hold)
	})
}

func TestOneRefusedSubscriptionEndsTheOthers(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		var streams atomic.Int32
		b.consume = func() error {
			if streams.Add(1) == 1 {
				return nil
			}
			return refusalError(connect.CodeFailedPrecondition, "QUEUE_HAS_GROUP")
		}
		w := NewWorker(c)
		Handle(w, stringSubscription, func(context.Context, *wrapperspb.StringValue) error { return nil })
		numbers := stringSubscription
		numbers.Topic, numbers.RPC = "numbers", "test.Consumer/numbers"
		Handle(w, numbers, func(context.Context, *wrapperspb.Int64Value) error { return nil })
		r := start(t, w)
		if err := <-r.done; !errors.Is(err, ErrQueueHasGroup) {
			t.Errorf("Run returned %v", err)
		}
	})
}

// No call that Run started goes on after it, not even for a session that is gone.
func TestRunWaitsForTheLastSettleCall(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		hold := make(chan struct{})
		b.settle = func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			<-hold
			return nil, nil
		}
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil })
		k := <-b.consumers
		_ = k.deliver("a")
		synctest.Wait()
		k.end <- connect.NewError(connect.CodeInternal, errors.New("lost"))
		<-b.consumers
		r.stop()
		synctest.Wait()
		if len(r.done) != 0 {
			t.Fatal("Run returned during a Settle call")
		}
		close(hold)
		r.finish(t)
		if n := r.worker.Counts(); n.Acked != 1 {
			t.Errorf("counts %+v", n)
		}
	})
}

// A handler whose lease is gone is still this worker's: Run gives it the drain timeout to return.
func TestRunWaitsForHandlersOfLostSessions(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { <-proceed; return nil })
		k := <-b.consumers
		_ = k.deliver("deaf")
		synctest.Wait()
		b.network.cut(true)
		advance(20 * time.Second)
		r.stop()
		advance(20 * time.Second)
		if len(r.done) != 0 {
			t.Fatal("Run returned before the handler")
		}
		close(proceed)
		r.finish(t)
	})
}

// prefetching starts a worker with one handler and room for three messages that wait. What it handles is in the order of started; each
// handler returns when told to proceed.
func prefetching(t *testing.T, b *fakeBroker, c *Client) (r *running, k *fakeConsumer, started chan string, proceed chan struct{}) {
	t.Helper()
	b.inFlight = 8
	started, proceed = make(chan string, 16), make(chan struct{})
	r = run(t, c, func(ctx context.Context, m *wrapperspb.StringValue) error {
		started <- m.GetValue()
		select {
		case <-proceed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, WithConcurrency(1), WithPrefetch(3))
	k = <-b.consumers
	if n := k.start.GetCredits(); n != 4 {
		t.Errorf("%d credits for a handler and three that wait", n)
	}
	return r, k, started, proceed
}

// deliverPriority delivers one string with a priority.
func (k *fakeConsumer) deliverPriority(priority uint32, values ...string) *brokerv1.Slice {
	slice := &brokerv1.Slice{Partition: 2, Priority: priority}
	for _, v := range values {
		slice.Offsets = append(slice.Offsets, k.next)
		slice.Tokens = append(slice.Tokens, token(k.next)...)
		slice.Records = append(slice.Records, 0x0a, byte(len(v)+4), 0x12, byte(len(v)+2), 0x0a, byte(len(v)))
		slice.Records = append(slice.Records, v...)
		k.next++
	}
	return slice
}

func TestWaitingMessagesStartByPriorityThenArrival(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, proceed := prefetching(t, b, c)
		_ = k.deliverSlice(k.deliverPriority(1, "low 1"))
		synctest.Wait() // it has the handler
		_ = k.deliverSlice(k.deliverPriority(1, "low 2"))
		_ = k.deliverSlice(k.deliverPriority(3, "high 1", "high 2"))
		synctest.Wait()
		if n := len(started); n != 1 {
			t.Fatalf("%d handlers run", n)
		}
		var order []string
		for range 4 {
			order = append(order, <-started)
			proceed <- struct{}{}
		}
		expect(t, "order", order, "low 1", "high 1", "high 2", "low 2")
		expect(t, "settled", b.allSettled(), "0 ack", "1 ack", "2 ack", "3 ack")
		if got := credits(k); len(got) != 0 {
			t.Errorf("the credit does not change, but %q were sent", got)
		}
		r.finish(t)
	})
}

// Of what comes at once, the highest priority gets the free handler, wherever it stands.
func TestPriorityDecidesWithinAFrame(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, proceed := prefetching(t, b, c)
		_ = k.send(&brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Deliveries_{Deliveries: &brokerv1.ConsumeResponse_Deliveries{
			Slices: []*brokerv1.Slice{k.deliverPriority(1, "low"), k.deliverPriority(10, "high")}}}})
		if first := <-started; first != "high" {
			t.Errorf("%q was started first", first)
		}
		close(proceed)
		r.finish(t)
	})
}

// What comes beyond the credit goes back, the lowest priority and the latest first.
func TestWhatHasNoRoomIsReleased(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, proceed := prefetching(t, b, c)
		_ = k.deliverSlice(k.deliverPriority(2, "running"))
		<-started
		_ = k.deliverSlice(k.deliverPriority(1, "low", "lowest"))
		_ = k.deliverSlice(k.deliverPriority(2, "a", "b"))
		expect(t, "released", b.allSettled(), "2 release")
		close(proceed)
		expect(t, "settled", b.allSettled(), "0 ack", "1 ack", "3 ack", "4 ack")
		r.finish(t)
	})
}

func TestPrefetchStaysWithinMaxInFlight(t *testing.T) {
	for _, test := range []struct {
		inFlight, credits uint32
		opts              []WorkerOption
	}{
		{4, 4, []WorkerOption{WithPrefetch(10)}},
		{4, 4, []WorkerOption{WithConcurrency(2), WithPrefetch(int(^uint(0) >> 1))}},
		{4, 2, []WorkerOption{WithConcurrency(2), WithPrefetch(-5)}},
	} {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			b.inFlight = test.inFlight
			r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil }, test.opts...)
			if k := <-b.consumers; k.start.GetCredits() != test.credits {
				t.Errorf("%d credits, want %d", k.start.GetCredits(), test.credits)
			}
			r.finish(t)
		})
	}
}

// In a topic with priorities a message that waits here could start before a higher one that is ready at the sidecar.
func TestNothingIsPrefetchedInATopicWithPriorities(t *testing.T) {
	for levels, credits := range map[uint32]uint32{0: 5, 1: 5, 2: 2, 10: 2} {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			b.inFlight, b.levels = 8, levels
			r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil }, WithConcurrency(2), WithPrefetch(3))
			if k := <-b.consumers; k.start.GetCredits() != credits {
				t.Errorf("%d levels: %d credits, want %d", levels, k.start.GetCredits(), credits)
			}
			r.finish(t)
		})
	}
}

func TestWithMaxBytesInFlight(t *testing.T) {
	for n, want := range map[int64]uint64{0: 0, -1: 0, 12345: 12345, 1 << 40: 1 << 30} {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { return nil }, WithMaxBytesInFlight(n))
			if k := <-b.consumers; k.start.GetCreditBytes() != want {
				t.Errorf("%d bytes of credit for %d", k.start.GetCreditBytes(), n)
			}
			r.finish(t)
		})
	}
}

// The processing timeout begins with the handler: messages wait for as long as heartbeats go on.
func TestWaitingMessagesDoNotAge(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, proceed := prefetching(t, b, c)
		_ = k.deliver("first", "second", "third")
		for i, want := range []string{"first", "second", "third"} {
			if got := <-started; got != want {
				t.Fatalf("%q was started, want %q", got, want)
			}
			advance(50 * time.Second) // of the minute that a handler has
			proceed <- struct{}{}
			expect(t, "settled", b.nextSettled(t), fmt.Sprintf("%d ack", i))
		}
		beats := 0
		for len(k.requests) > 0 {
			if m := <-k.requests; m.GetHeartbeat() != nil {
				beats++
			}
		}
		if beats < 14 { // 150 s, one each 10 s
			t.Errorf("%d heartbeats in 150 s", beats)
		}
		r.finish(t)
		if n := r.worker.Counts(); n.Acked != 3 || n.Retried+n.Released+n.Reconnects != 0 {
			t.Errorf("counts %+v", n)
		}
	})
}

// A handler may take its whole processing timeout, which is longer than the lease: heartbeats keep it.
func TestLongHandlerKeepsItsLease(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.timeout = 10 * time.Minute
		r := run(t, c, func(ctx context.Context, _ *wrapperspb.StringValue) error {
			select {
			case <-time.After(10*time.Minute - time.Second):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		k := <-b.consumers
		_ = k.deliver("a")
		last, beats := time.Now(), 0
		for range 59 {
			advance(10*time.Second + time.Millisecond)
			for len(k.requests) > 0 {
				if m := <-k.requests; m.GetHeartbeat() != nil {
					last = time.Now()
					beats++
				}
			}
			if silence := time.Since(last); silence > b.lease/3 {
				t.Fatalf("silent for %v of a lease of %v", silence, b.lease)
			}
		}
		advance(10 * time.Second)
		expect(t, "settled", b.allSettled(), "0 ack")
		if n := r.worker.Counts(); beats < 59 || n.Acked != 1 || n.Reconnects != 0 {
			t.Errorf("%d heartbeats, counts %+v", beats, n)
		}
		r.finish(t)
	})
}

// A worker that stops gives back what no handler has started on, at once and without an attempt.
func TestDrainReleasesWhatWaits(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, proceed := prefetching(t, b, c)
		_ = k.deliver("running", "waiting 1", "waiting 2")
		<-started
		r.stop()
		expect(t, "released", b.allSettled(), "1 release", "2 release")
		expect(t, "credit", credits(k), "0")
		close(proceed)
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		expect(t, "settled", b.allSettled(), "0 ack")
		if n := r.worker.Counts(); n.Acked != 1 || n.Released != 2 || len(started) != 0 {
			t.Errorf("counts %+v, %d more were started", n, len(started))
		}
	})
}

// When the stream breaks, what waits is dropped: its lease is gone, and nothing is said about it.
func TestLostStreamDropsWhatWaits(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		r, k, started, _ := prefetching(t, b, c)
		_ = k.deliver("running", "waiting 1", "waiting 2")
		<-started
		k.end <- connect.NewError(connect.CodeInternal, errors.New("lost"))
		k = <-b.consumers
		synctest.Wait()
		if len(started) != 0 {
			t.Errorf("%q was started after its lease was lost", <-started)
		}
		if got := b.allSettled(); len(got) != 0 {
			t.Errorf("settled %q without a lease", got)
		}
		if k.start.GetCredits() != 4 {
			t.Errorf("%d credits at the new stream", k.start.GetCredits())
		}
		r.finish(t)
	})
}

// A message that comes again while the handler of its lost lease has not returned waits for that.
func TestOneMessageHasOneHandlerAtATime(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.settle = func(r *brokerv1.SettleRequest) (*brokerv1.SettleResponse, error) {
			answer := &brokerv1.SettleResponse{}
			for acks := range slices.Chunk(r.GetAcks(), tokenBytes) {
				if acks[0] != 2 { // not of the second lease
					answer.Refusals = append(answer.Refusals, &brokerv1.SettleRefusal{Token: acks, Refusal: refusalOf(connect.CodeFailedPrecondition, "LEASE_LOST")})
				}
			}
			return answer, nil
		}
		proceed := make(chan struct{})
		var now, most, calls atomic.Int32
		r := run(t, c, func(_ context.Context, m *wrapperspb.StringValue) error {
			if m.GetValue() != "deaf" {
				return nil
			}
			calls.Add(1)
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-proceed
			return nil
		})
		k := <-b.consumers
		_ = k.deliver("deaf")
		synctest.Wait()
		k.end <- connect.NewError(connect.CodeInternal, errors.New("lost"))
		k = <-b.consumers
		again := k.deliverPriority(0, "deaf")
		again.Tokens[0] = 2
		_ = k.deliverSlice(again)
		_ = k.deliver("other")
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d handlers of one message run", calls.Load())
		}
		expect(t, "others go on", b.allSettled(), "1 ack")
		close(proceed)
		expect(t, "settled", b.allSettled(), "0 ack", "0 ack")
		if n := r.worker.Counts(); n.Acked != 1 || n.LeaseLost != 2 || most.Load() != 1 || calls.Load() != 2 {
			t.Errorf("counts %+v, %d calls, at most %d at a time", n, calls.Load(), most.Load())
		}
		r.finish(t) // a lost lease does not end Run
	})
}

// If the earlier handler does not return, the attempt ends by the processing timeout as any other.
func TestWaitingForAnEarlierHandlerTimesOut(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		proceed := make(chan struct{})
		calls := 0
		r := run(t, c, func(context.Context, *wrapperspb.StringValue) error { calls++; <-proceed; return nil })
		k := <-b.consumers
		_ = k.deliver("deaf")
		advance(time.Minute)
		expect(t, "first attempt", b.allSettled(), "0 retry mq: processing timeout after 1m0s")
		k.next = 0
		_ = k.deliver("deaf")
		advance(time.Minute)
		expect(t, "second attempt", b.allSettled(), "0 retry mq: processing timeout after 1m0s")
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		close(proceed)
		r.finish(t)
	})
}
