package mq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/typedmq/typedmq/internal/partition"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// keyed publishes values under keys, and nothing else.
func keyed(t *testing.T, p *Publisher[*wrapperspb.StringValue], key, value string) *Pending {
	return p.PublishAsync(t.Context(), wrapperspb.String(value), WithKey([]byte(key)))
}

// Many records at once are spread over streams, few go together again. Whatever breaks meanwhile, records of a partition are stored in the order in which
// they were queued, and records without a key too.
func TestSpreadRecordsKeepTheirOrder(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				u := newUnreliable(b, seed)
				b.frame = u.frame
				p := NewPublisher(c, stringTopic)
				random := rand.New(rand.NewPCG(seed, 3))
				var all []*Pending
				var keys []string
				publish := func(n int) {
					for range n {
						key := ""
						if n := random.IntN(20); n > 0 {
							key = fmt.Sprint("key ", n)
						}
						all = append(all, keyed(t, p, key, fmt.Sprint(len(all))))
						keys = append(keys, key)
					}
				}
				for range 6 {
					for range 3 {
						publish(random.IntN(2000))
						time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
					}
					for range random.IntN(100) {
						publish(random.IntN(30))
						time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
					}
				}
				if err := c.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				offsets := map[string]int64{}
				for i, pending := range all {
					receipt, err := pending.Wait(t.Context())
					if err != nil || u.stored[receipt.Offset] != fmt.Sprint(i) {
						t.Fatalf("message %d: %+v, %v", i, receipt, err)
					}
					place := "no key"
					if keys[i] != "" {
						place = fmt.Sprint("partition ", partition.Of([]byte(keys[i]), 4))
					}
					if before, ok := offsets[place]; ok && before > receipt.Offset {
						t.Fatalf("%s: message %d is stored at %d, the one before it at %d", place, i, receipt.Offset, before)
					}
					offsets[place] = receipt.Offset
				}
				producers := map[string]bool{}
				for _, f := range b.frames() {
					producers[string(f.GetProducerId())] = true
				}
				c.pipeline.mu.Lock()
				defer c.pipeline.mu.Unlock()
				if len(producers) != lanesPerClient || c.pipeline.mu.era < 3 {
					t.Errorf("%d streams, %d changes: it says little", len(producers), c.pipeline.mu.era)
				}
			})
		})
	}
}

// spread publishes until all lanes have a frame on its way, and returns what is pending and the frames.
func spread(t *testing.T, b *fakeBroker, c *Client) (all []*Pending, frames []*brokerv1.PublishStreamRequest, release func(int)) {
	arrived := make(chan *brokerv1.PublishStreamRequest, 64)
	released := make(map[string]chan struct{})
	first := make(chan struct{})
	b.frame = func(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
		arrived <- r
		b.mu.Lock()
		gate := released[string(r.GetProducerId())]
		b.mu.Unlock()
		if gate == nil {
			gate = first
		}
		<-gate
		return nil, nil
	}
	p := NewPublisher(c, stringTopic)
	all = append(all, keyed(t, p, "first", "x"))
	synctest.Wait()
	for i := range 2*spreadRecords + 1000 {
		all = append(all, keyed(t, p, fmt.Sprint(i), "x"))
	}
	synctest.Wait()
	if len(arrived) != 1 {
		t.Fatalf("%d frames are on their way before the first is answered", len(arrived))
	}
	<-arrived
	b.mu.Lock()
	for _, l := range c.pipeline.lanes {
		released[string(l.producer)] = make(chan struct{})
	}
	b.mu.Unlock()
	close(first)
	// What was queued together is sent before the rest.
	synctest.Wait()
	if len(arrived) != 1 {
		t.Fatalf("%d frames are on their way beside the second", len(arrived))
	}
	frames = append(frames, <-arrived)
	b.mu.Lock()
	gate := released[string(frames[0].GetProducerId())]
	released[string(frames[0].GetProducerId())] = make(chan struct{})
	b.mu.Unlock()
	close(gate)
	synctest.Wait()
	frames = nil
	for range len(arrived) {
		frames = append(frames, <-arrived)
	}
	slices.SortFunc(frames, func(a, b *brokerv1.PublishStreamRequest) int {
		lane := func(r *brokerv1.PublishStreamRequest) int {
			return slices.IndexFunc(c.pipeline.lanes, func(l *lane) bool { return slices.Equal(l.producer, r.GetProducerId()) })
		}
		return cmp.Compare(lane(a), lane(b))
	})
	if len(frames) != len(c.pipeline.lanes) {
		t.Fatalf("%d frames are on their way in %d lanes", len(frames), len(c.pipeline.lanes))
	}
	return all, frames, func(lane int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		close(released[string(c.pipeline.lanes[lane].producer)])
	}
}

func TestEachLaneHasAFrameOnItsWay(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		all, frames, release := spread(t, b, c)
		for i, f := range frames {
			for _, r := range records(f.GetBatches()[0]) {
				if got := int(partition.Of(r.GetKey(), 4)) % lanesPerClient; got != i {
					t.Errorf("lane %d has a record of lane %d", i, got)
				}
			}
		}
		flushed := make(chan error, 1)
		go func() { flushed <- c.Flush(t.Context()) }()
		for i := range frames {
			synctest.Wait()
			select {
			case err := <-flushed:
				t.Fatalf("flushed before lane %d has its answer: %v", i, err)
			default:
			}
			release(i)
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for i, pending := range all {
			if _, err := pending.Wait(ended); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
		}
	})
}

func TestFewRecordsGoTogetherAgain(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		_, _, release := spread(t, b, c)
		for i := range c.pipeline.lanes {
			release(i)
		}
		p := NewPublisher(c, stringTopic)
		for i := range 2 * smallFrames {
			if _, err := keyed(t, p, fmt.Sprint(i), "few").Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		before := len(b.frames())
		for i := range 8 {
			keyed(t, p, fmt.Sprint(i), "together")
		}
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.frames()[before:] {
			if !slices.Equal(f.GetProducerId(), c.pipeline.lanes[0].producer) {
				t.Errorf("%q did not go with the others", payloads(f))
			}
		}
	})
}

func TestCloseEndsAllLanes(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		all, frames, release := spread(t, b, c)
		p := NewPublisher(c, stringTopic)
		var later []*Pending
		for i := range 100 {
			later = append(later, keyed(t, p, fmt.Sprint(i), "queued"))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		unknown, want := 0, 0
		for _, f := range frames {
			want += len(payloads(f))
		}
		for _, pending := range all {
			if _, err := pending.Wait(t.Context()); errors.Is(err, ErrUnknownOutcome) && errors.Is(err, ErrClosed) {
				unknown++
			} else if err != nil && !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		}
		if unknown != want {
			t.Errorf("of %d messages the outcome is unknown, %d were on their way", unknown, want)
		}
		for _, pending := range later {
			if _, err := pending.Wait(t.Context()); !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("what was queued: %v", err)
			}
		}
		for i := range c.pipeline.lanes {
			release(i)
		}
	})
}
