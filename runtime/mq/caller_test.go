package mq

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// result is what a call returned.
type result struct {
	reply *wrapperspb.Int64Value
	err   error
}

func call1(ctx context.Context, c *Client, opts ...PublishOption) <-chan result {
	done := make(chan result, 1)
	go func() {
		reply, err := NewCaller[wrapperspb.Int64Value](c, stringTopic).Call(ctx, wrapperspb.String("a"), opts...)
		done <- result{reply, err}
	}()
	synctest.Wait()
	return done
}

// lastRecord is the record that was published last.
func (b *fakeBroker) lastRecord(t *testing.T) *brokerv1.Record {
	t.Helper()
	frames := b.frames()
	if len(frames) == 0 {
		t.Fatal("nothing was published")
	}
	all := records(frames[len(frames)-1].GetBatches()[0])
	return all[len(all)-1]
}

func reply(number uint64, value int64) *brokerv1.Reply {
	payload, _ := proto.Marshal(wrapperspb.Int64(value))
	return &brokerv1.Reply{Call: number, Type: "google.protobuf.Int64Value", Payload: payload}
}

func (in *fakeInbox) reply(next int64, replies ...*brokerv1.Reply) {
	in.send <- &brokerv1.RepliesResponse{Replies: replies, Next: next}
	synctest.Wait()
}

func TestCall(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		first, second := call1(ctx, c), call1(ctx, c)
		in := <-b.inboxes
		r := b.lastRecord(t)
		if string(r.GetReplyTo()) != string(in.request.GetInbox()) || r.GetCall() != 2 || r.GetTtlMs() != 5000 || len(in.request.GetInbox()) != 16 || in.request.From != nil {
			t.Errorf("the record is %v, the inbox %v", r, in.request)
		}
		in.reply(101, reply(2, 22))
		in.reply(102, reply(1, 11))
		if got := <-first; got.err != nil || got.reply.GetValue() != 11 {
			t.Errorf("the first call returned %v", got)
		}
		if got := <-second; got.err != nil || got.reply.GetValue() != 22 {
			t.Errorf("the second call returned %v", got)
		}
		if n := c.LateReplies(); n != 0 {
			t.Errorf("%d late replies", n)
		}
		in.reply(103, reply(1, 11))
		if n := c.LateReplies(); n != 1 {
			t.Errorf("%d late replies after a second answer", n)
		}
	})
}

func TestCallWithoutDeadlineHasOne(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		done := call1(t.Context(), c)
		if ttl := b.lastRecord(t).GetTtlMs(); ttl != 30_000 {
			t.Errorf("ttl %d ms", ttl)
		}
		advance(DefaultCallTimeout)
		if got := <-done; !errors.Is(got.err, context.DeadlineExceeded) || !strings.Contains(got.err.Error(), `call "strings"`) {
			t.Errorf("the call returned %v", got.err)
		}
		in := <-b.inboxes
		in.reply(101, reply(1, 1))
		if n := c.LateReplies(); n != 1 {
			t.Errorf("%d late replies", n)
		}
	})
}

func TestCallErrors(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		var in *fakeInbox
		for _, test := range []struct {
			reply *brokerv1.Reply
			want  string
		}{
			{&brokerv1.Reply{Error: refusalOf(connect.CodeNotFound, "NO_SEAT")}, `call "strings": mq: not_found NO_SEAT: refused for the test`},
			{&brokerv1.Reply{Type: "google.protobuf.BytesValue"}, "SCHEMA_MISMATCH (payload): the answer is a google.protobuf.BytesValue, the caller's file says google.protobuf.Int64Value"},
			{&brokerv1.Reply{Type: "google.protobuf.Int64Value", Payload: []byte{0xff}}, "SCHEMA_MISMATCH (payload): the answer does not decode"},
		} {
			done := call1(t.Context(), c)
			if in == nil {
				in = <-b.inboxes
			}
			test.reply.Call = b.lastRecord(t).GetCall()
			in.reply(101, test.reply)
			if got := <-done; got.err == nil || !strings.Contains(got.err.Error(), test.want) || got.reply != nil {
				t.Errorf("the call returned %v, %v; want %s", got.reply, got.err, test.want)
			}
		}
	})
}

// TestCallsGoOnAfterAReconnect: the inbox is opened again where it broke off, or, if its place is gone, at the end.
func TestCallsGoOnAfterAReconnect(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		first := call1(t.Context(), c)
		in := <-b.inboxes
		in.reply(105)
		in.end <- refusalError(connect.CodeUnavailable, "DRAINING")
		advance(time.Second)
		in = <-b.inboxes
		if from := in.request.GetFrom(); from != 105 {
			t.Errorf("the inbox went on at %d", from)
		}
		in.reply(106, reply(1, 1))
		if got := <-first; got.err != nil {
			t.Errorf("the call returned %v", got.err)
		}
		var asked []string
		b.inbox = func(r *brokerv1.RepliesRequest) error {
			if r.From != nil {
				asked = append(asked, "from")
				return refusalError(connect.CodeOutOfRange, "BAD_OFFSET")
			}
			asked = append(asked, "now")
			return nil
		}
		in.end <- refusalError(connect.CodeUnavailable, "DRAINING")
		advance(5 * time.Second)
		in = <-b.inboxes
		expect(t, "asked", asked, "from", "now")
		second := call1(t.Context(), c)
		in.reply(101, reply(2, 2))
		if got := <-second; got.err != nil {
			t.Errorf("the call returned %v", got.err)
		}
	})
}

func TestCallRefusals(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		for _, test := range []struct {
			done <-chan result
			want error
		}{
			{call1(t.Context(), c, WithDelay(time.Second)), ErrBadDelay},
			{call1(t.Context(), c, WithDeliverAt(time.Now())), ErrBadDelay},
			{call1(t.Context(), c, WithTTL(time.Second)), ErrBadTTL},
			{call1(t.Context(), c, WithKey(make([]byte, 2000))), ErrTooLarge},
		} {
			if got := <-test.done; !errors.Is(got.err, test.want) {
				t.Errorf("the call returned %v, want %v", got.err, test.want)
			}
		}
		if len(b.frames()) > 0 {
			t.Error("something was published")
		}
		_, err := NewCaller[wrapperspb.Int64Value](noSender{}, stringTopic).Call(t.Context(), wrapperspb.String("a"))
		var refused *Error
		if !errors.As(err, &refused) || refused.Reason != "CALL_NEEDS_CLIENT" {
			t.Errorf("a call without a client returned %v", err)
		}
		waiting := call1(t.Context(), c)
		_ = c.Close()
		if got := <-waiting; !errors.Is(got.err, ErrClosed) {
			t.Errorf("a call of a client that is closed returned %v", got.err)
		}
		if got := <-call1(t.Context(), c); !errors.Is(got.err, ErrClosed) {
			t.Errorf("a call of a closed client returned %v", got.err)
		}
	})
}

// TestCallUnderAKnownIDFails: nobody would answer it.
func TestCallUnderAKnownIDFails(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
			return &brokerv1.PublishStreamResponse{Sequence: r.GetSequence(), Results: []*brokerv1.BatchResult{
				{Partitions: []uint32{1}, Offsets: []int64{7}, Duplicates: []uint32{0}},
			}}, nil
		}
		done := call1(t.Context(), c, WithID("known"))
		select {
		case got := <-done:
			var refused *Error
			if !errors.As(got.err, &refused) || refused.Reason != "CALL_DUPLICATE" || refused.Code != connect.CodeAlreadyExists {
				t.Errorf("the call returned %v", got)
			}
		default:
			t.Error("the call waits")
		}
	})
}

type noSender struct{}

func (noSender) Send(context.Context, *Publication) (Receipt, error) { return Receipt{}, nil }

// TestCallSaysWhyNoInboxOpens: an old sidecar, or none.
func TestCallSaysWhyNoInboxOpens(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.inbox = func(*brokerv1.RepliesRequest) error { return refusalError(connect.CodeUnimplemented, "OLD") }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := call1(ctx, c)
		advance(time.Second)
		if got := <-done; !errors.Is(got.err, context.DeadlineExceeded) || !strings.Contains(got.err.Error(), "OLD") {
			t.Errorf("the call returned %v", got.err)
		}
	})
}
