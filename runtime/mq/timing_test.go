package mq

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// The clock of a bubble starts here.
var bubble = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

const years10 = 3653 * 24 * time.Hour

// What options say reaches the record, in milliseconds, rounded so that nothing is delivered or expires early.
func TestTimingReachesTheRecord(t *testing.T) {
	at := bubble.Add(time.Hour)
	derived := func(r *Record) {
		r.SetPriority(2)
		r.SetDeliverAt(timestamppb.New(bubble.Add(time.Minute)))
	}
	for name, test := range map[string]struct {
		describe                       func(*Record)
		defaults, opts                 []PublishOption
		priority, delay, deliverAt, tt int64
	}{
		"nothing":                   {},
		"delay":                     {opts: []PublishOption{WithDelay(time.Second)}, delay: 1000},
		"delay, rounded up":         {opts: []PublishOption{WithDelay(1)}, delay: 1},
		"longest delay":             {opts: []PublishOption{WithDelay(years10)}, delay: int64(years10 / time.Millisecond)},
		"no delay":                  {opts: []PublishOption{WithDelay(0)}},
		"deliver at":                {opts: []PublishOption{WithDeliverAt(at)}, deliverAt: at.UnixMilli()},
		"deliver at, rounded up":    {opts: []PublishOption{WithDeliverAt(at.Add(1))}, deliverAt: at.UnixMilli() + 1},
		"deliver at, in the past":   {opts: []PublishOption{WithDeliverAt(bubble.Add(-time.Hour))}, deliverAt: bubble.Add(-time.Hour).UnixMilli()},
		"deliver at, farthest":      {opts: []PublishOption{WithDeliverAt(bubble.Add(years10))}, deliverAt: bubble.Add(years10).UnixMilli()},
		"ttl":                       {opts: []PublishOption{WithTTL(1500 * time.Microsecond)}, tt: 2},
		"longest ttl":               {opts: []PublishOption{WithTTL(years10)}, tt: int64(years10 / time.Millisecond)},
		"priority":                  {opts: []PublishOption{WithPriority(3)}, priority: 3},
		"derived":                   {describe: derived, priority: 2, deliverAt: bubble.Add(time.Minute).UnixMilli()},
		"derived, replaced":         {describe: derived, opts: []PublishOption{WithPriority(1), WithDelay(time.Second)}, priority: 1, delay: 1000},
		"derived, now":              {describe: derived, opts: []PublishOption{WithDelay(0)}, priority: 2},
		"derived, not set":          {describe: func(r *Record) { r.SetDeliverAt(nil); r.SetPriority(0) }},
		"defaults":                  {defaults: []PublishOption{WithDelay(time.Second), WithTTL(time.Minute)}, delay: 1000, tt: 60_000},
		"defaults, replaced":        {defaults: []PublishOption{WithDelay(time.Second), WithTTL(time.Minute)}, opts: []PublishOption{WithDelay(2 * time.Second), WithTTL(time.Hour)}, delay: 2000, tt: 3_600_000},
		"defaults, another kind":    {defaults: []PublishOption{WithDelay(time.Second)}, opts: []PublishOption{WithDeliverAt(at)}, deliverAt: at.UnixMilli()},
		"defaults and derived":      {describe: derived, defaults: []PublishOption{WithDelay(time.Second)}, priority: 2, deliverAt: bubble.Add(time.Minute).UnixMilli()},
		"defaults, derived not set": {describe: func(r *Record) { r.SetDeliverAt(nil) }, defaults: []PublishOption{WithDelay(time.Second)}, delay: 1000},
		"a fault that is replaced":  {describe: func(r *Record) { r.SetDeliverAt(&timestamppb.Timestamp{Nanos: -1}) }, opts: []PublishOption{WithDelay(time.Second)}, delay: 1000},
		"an option that is doubled": {opts: []PublishOption{WithDelay(-1), WithDelay(time.Second)}, delay: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.levels = 3
				topic := NewTopic("strings", func(_ *wrapperspb.StringValue, r *Record) {
					if test.describe != nil {
						test.describe(r)
					}
				})
				receipt, err := NewPublisher(c, topic, test.defaults...).Publish(t.Context(), wrapperspb.String("a"), test.opts...)
				if err != nil {
					t.Fatal(err)
				}
				r := records(b.frames()[0].GetBatches()[0])[0]
				got := [4]int64{int64(r.GetPriority()), int64(r.GetDelayMs()), r.GetDeliverAtMs(), int64(r.GetTtlMs())}
				if want := [4]int64{test.priority, test.delay, test.deliverAt, test.tt}; got != want {
					t.Errorf("record %v, want %v", got, want)
				}
				kept := test.delay > 0 || test.deliverAt > bubble.UnixMilli()
				if receipt.Scheduled != kept || (receipt.Offset == -1) != kept {
					t.Errorf("receipt %+v", receipt)
				}
			})
		})
	}
}

// A message that can be cancelled has an id to do it with. The other ids stay as they are.
func TestScheduledMessagesHaveIDs(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.levels = 3
		p := NewPublisher(c, stringTopic)
		var ids []string
		for i, opts := range [][]PublishOption{
			{WithDelay(time.Hour)}, {WithDelay(time.Hour)}, {WithDeliverAt(time.Now().Add(time.Hour))},
			{WithDelay(time.Hour), WithID("mine")}, {WithDelay(0)}, {WithPriority(1)}, {WithPriority(3)},
		} {
			receipt, err := p.Publish(t.Context(), wrapperspb.String("a"), opts...)
			if err != nil {
				t.Fatal(err)
			}
			if r := records(b.frames()[i].GetBatches()[0])[0]; i < 4 && (r.GetId() != receipt.ID || receipt.Topic != "strings") {
				t.Errorf("receipt %+v of a record with id %q", receipt, r.GetId())
			}
			ids = append(ids, receipt.ID)
		}
		expect(t, "ids", ids[3:], "mine", "3-0", "3-1", "3.3-2")
		if len(ids[0]) != 32 || ids[0] == ids[1] || len(ids[2]) != 32 {
			t.Errorf("random ids %q", ids[:3])
		}
	})
}

func TestTimingIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		describe func(*Record)
		opts     []PublishOption
		want     string
	}{
		"negative delay": {opts: []PublishOption{WithDelay(-1)}, want: "BAD_DELAY (delay): delay -1ns: must be 0s to 87672h0m0s"},
		"delay too long": {opts: []PublishOption{WithDelay(years10 + 1)}, want: "BAD_DELAY (delay): delay 87672h0m0.000000001s: must be 0s to 87672h0m0s"},
		"far ahead": {opts: []PublishOption{WithDeliverAt(bubble.Add(years10 + 1))}, want: "BAD_DELAY (deliver_at): instant of delivery 2010-01-01T00:00:00.000000001Z: " +
			"must not lie before 1970 nor more than 87672h0m0s ahead"},
		"zero time": {opts: []PublishOption{WithDeliverAt(time.Time{})}, want: "BAD_DELAY (deliver_at): instant of delivery 0001-01-01T00:00:00Z: " +
			"must not lie before 1970 nor more than 87672h0m0s ahead"},
		"both": {opts: []PublishOption{WithDelay(0), WithDeliverAt(bubble)}, want: "BAD_DELAY (delay): a message has either a delay or an instant of delivery, not both"},
		"no timestamp": {describe: func(r *Record) { r.SetDeliverAt(&timestamppb.Timestamp{Nanos: -1}) },
			want: "BAD_DELAY (deliver_at): proto:\u00a0timestamp (nanos:-1) has out-of-range nanos"},
		"zero ttl":               {opts: []PublishOption{WithTTL(0)}, want: "BAD_TTL (ttl): ttl 0s: must be 1ms to 87672h0m0s"},
		"negative ttl":           {opts: []PublishOption{WithTTL(-time.Hour)}, want: "BAD_TTL (ttl): ttl -1h0m0s: must be 1ms to 87672h0m0s"},
		"short ttl":              {opts: []PublishOption{WithTTL(time.Millisecond - 1)}, want: "BAD_TTL (ttl): ttl 999.999µs: must be 1ms to 87672h0m0s"},
		"long ttl":               {opts: []PublishOption{WithTTL(math.MaxInt64)}, want: "BAD_TTL (ttl): ttl 2562047h47m16.854775807s: must be 1ms to 87672h0m0s"},
		"priority 0":             {opts: []PublishOption{WithPriority(0)}, want: "BAD_PRIORITY (priority): priority 0: must be 1 to 10"},
		"priority 11":            {opts: []PublishOption{WithPriority(11)}, want: "BAD_PRIORITY (priority): priority 11: must be 1 to 10"},
		"priority of the topic":  {opts: []PublishOption{WithPriority(4)}, want: "BAD_PRIORITY (priority): priority 4: must be 1 to 3 in this topic"},
		"priority of a message":  {describe: func(r *Record) { r.SetPriority(1<<32 + 1) }, want: "BAD_PRIORITY (priority): priority 4294967297: must be 0 to 10"},
		"negative, of a message": {describe: func(r *Record) { r.SetPriority(-1) }, want: "BAD_PRIORITY (priority): priority -1: must be 0 to 10"},
	} {
		t.Run(name, func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				b.levels = 3
				topic := NewTopic("strings", func(_ *wrapperspb.StringValue, r *Record) {
					if test.describe != nil {
						test.describe(r)
					}
				})
				_, err := NewPublisher(c, topic).Publish(t.Context(), wrapperspb.String("a"), test.opts...)
				var e *Error
				if !errors.As(err, &e) || e.Code != connect.CodeInvalidArgument {
					t.Fatalf("got %v", err)
				}
				if got, want := spaces(e.Error()), spaces("mq: invalid_argument "+test.want); got != want {
					t.Errorf("got\n%s\nwant\n%s", got, want)
				}
				if len(b.frames()) != 0 {
					t.Error("it was sent")
				}
			})
		})
	}
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		b.levels = 1
		p := NewPublisher(c, stringTopic)
		if _, err := p.Publish(t.Context(), wrapperspb.String("a"), WithPriority(2)); err == nil || len(b.frames()) != 0 {
			t.Errorf("priority 2 without levels: %v", err)
		}
		if _, err := p.Publish(t.Context(), wrapperspb.String("a"), WithPriority(1)); err != nil {
			t.Error(err)
		}
	})
}

// Once the topic is declared its levels are the bound that a refusal tells.
func TestPriorityIsBoundedByTheTopic(t *testing.T) {
	for levels, want := range map[uint32]string{5: "priority 0: must be 1 to 5 in this topic", 1: "priority 0: the topic has no priorities"} {
		withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
			b.levels = levels
			p := NewPublisher(c, stringTopic)
			if _, err := p.Publish(t.Context(), wrapperspb.String("a"), WithPriority(1)); err != nil {
				t.Fatal(err)
			}
			for _, priority := range []int{0, int(levels) + 1, 11} {
				_, err := p.Publish(t.Context(), wrapperspb.String("a"), WithPriority(priority))
				var e *Error
				if want := fmt.Sprint("priority ", priority, want[len("priority 0"):]); !errors.As(err, &e) || e.Reason != "BAD_PRIORITY" ||
					e.Message != want || e.Metadata["bound"] != fmt.Sprint(levels) {
					t.Errorf("got %v, want %s", err, want)
				}
			}
			if _, err := p.Publish(t.Context(), wrapperspb.String("a")); err != nil { // 0, not chosen
				t.Error(err)
			}
		})
	}
}

// spaces makes the spaces of package proto's errors, which differ from build to build, plain ones.
func spaces(text string) string {
	return string(slices.DeleteFunc([]rune(text), func(r rune) bool { return r == ' ' || r == '\u00a0' }))
}

func TestCancel(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		var asked []*brokerv1.CancelRequest
		b.cancel = func(r *brokerv1.CancelRequest) (*brokerv1.CancelResponse, error) {
			asked = append(asked, r)
			answer := &brokerv1.CancelResponse{}
			for _, id := range r.GetIds() {
				if id == "due" {
					answer.UnknownIds = append(answer.UnknownIds, id)
				} else {
					answer.Canceled++
				}
			}
			if answer.Canceled == 0 {
				return nil, refusalError(connect.CodeNotFound, "MESSAGE_UNKNOWN")
			}
			return answer, nil
		}
		if n, err := c.Cancel(t.Context(), "strings", "a", "b"); n != 2 || err != nil || asked[0].GetTopic() != "strings" {
			t.Errorf("%d, %v, asked %v", n, err, asked)
		}
		n, err := c.Cancel(t.Context(), "strings", "a", "due")
		if want := `cancel messages of "strings": mq: not_found MESSAGE_UNKNOWN (ids): no scheduled message has the id "due"`; n != 1 || !errors.Is(err, ErrMessageUnknown) || err.Error() != want {
			t.Errorf("%d, %v, want %s", n, err, want)
		}
		if n, err := c.Cancel(t.Context(), "strings", "due"); n != 0 || !errors.Is(err, ErrMessageUnknown) {
			t.Errorf("%d, %v", n, err)
		}
		asked = nil
		if n, err := c.Cancel(t.Context(), "strings"); n != 0 || err != nil || len(asked) != 0 {
			t.Errorf("no ids: %d, %v, asked %v", n, err, asked)
		}
		// A call on the wire holds 1,000 ids. One of which all are unknown does not end the others.
		var many []string
		for range 1000 {
			many = append(many, "due")
		}
		for i := range 1500 {
			many = append(many, fmt.Sprint(i))
		}
		if n, err := c.Cancel(t.Context(), "strings", many...); n != 1500 || !errors.Is(err, ErrMessageUnknown) || len(asked) != 3 {
			t.Errorf("%d of 1500, %v in %d calls", n, err, len(asked))
		}
		b.cancel = func(*brokerv1.CancelRequest) (*brokerv1.CancelResponse, error) {
			return nil, refusalError(connect.CodeNotFound, "TOPIC_UNKNOWN")
		}
		if _, err := c.Cancel(t.Context(), "strings", "a"); !errors.Is(err, ErrTopicUnknown) || errors.Is(err, ErrMessageUnknown) {
			t.Errorf("got %v", err)
		}
		_ = c.Close()
		synctest.Wait()
		b.network.cut(true)
		if _, err := c.Cancel(t.Context(), "strings", "a"); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}
