package mq

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// What a client under load keeps for its next frames, it gives back when it has been idle.
func TestIdleClientGivesMemoryBack(t *testing.T) {
	withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
		kept := func() int {
			c.pipeline.mu.Lock()
			defer c.pipeline.mu.Unlock()
			total := 0
			for _, one := range c.pipeline.mu.spare {
				total += one.memory()
			}
			if total != c.pipeline.mu.kept {
				t.Errorf("%d bytes are kept, counted are %d", total, c.pipeline.mu.kept)
			}
			return total
		}
		load := func() {
			p := NewPublisher(c, NewTopic[wrapperspb.BytesValue]("blobs", nil))
			for range 40 {
				p.PublishAsync(t.Context(), wrapperspb.Bytes(make([]byte, 1<<20-64)))
			}
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		load()
		synctest.Wait()
		if n := kept(); n < maxIdleBytes || n > maxSpareBytes {
			t.Errorf("after load %d bytes are kept", n)
		}
		advance(keepMemory - time.Second)
		load() // which counts anew
		advance(keepMemory - time.Second)
		if n := kept(); n < maxIdleBytes {
			t.Errorf("between loads %d bytes are kept", n)
		}
		advance(2 * time.Second)
		if n := kept(); n > maxIdleBytes {
			t.Errorf("when idle %d bytes are kept", n)
		}
		load()
	})
}

// unreliable is a broker that loses connections and answers, has no room at times and does not take records with "bad" in them. It stores a batch once.
type unreliable struct {
	*fakeBroker
	mu      sync.Mutex
	random  *rand.Rand
	calm    bool
	stored  []string
	answers map[string]*brokerv1.BatchResult // by producer and number
}

func newUnreliable(b *fakeBroker, seed uint64) *unreliable {
	return &unreliable{fakeBroker: b, random: rand.New(rand.NewPCG(seed, 1)), answers: make(map[string]*brokerv1.BatchResult)}
}

func (u *unreliable) frame(r *brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error) {
	answer, pause := u.store(r)
	if answer == nil {
		u.network.cut(false)
		return nil, errors.New("unheard")
	}
	time.Sleep(pause)
	return answer, nil
}

// store returns the answer and how long it takes, or none if the connection breaks.
func (u *unreliable) store(r *brokerv1.PublishStreamRequest) (answer *brokerv1.PublishStreamResponse, pause time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	answer = &brokerv1.PublishStreamResponse{Sequence: r.GetSequence()}
	lose := func() bool { return !u.calm && u.random.IntN(6) == 0 }
	if lose() {
		return nil, 0
	}
	for _, batch := range r.GetBatches() {
		values := payloads(&brokerv1.PublishStreamRequest{Batches: []*brokerv1.TopicRecords{batch}})
		name := fmt.Sprintf("%x %d", r.GetProducerId(), batch.GetNumber())
		result := u.answers[name]
		switch {
		case result != nil:
		case lose():
			result = &brokerv1.BatchResult{Refusal: refusalOf(connect.CodeUnavailable, "COORDINATOR_UNAVAILABLE")}
		case strings.Contains(strings.Join(values, ""), "bad"):
			result = &brokerv1.BatchResult{Refusal: refusalOf(connect.CodeInvalidArgument, "SCHEMA_MISMATCH")}
		default:
			result = &brokerv1.BatchResult{}
			for _, value := range values {
				result.Partitions = append(result.Partitions, 0)
				result.Offsets = append(result.Offsets, int64(len(u.stored)))
				u.stored = append(u.stored, value)
			}
			u.answers[name] = result
		}
		answer.Results = append(answer.Results, result)
	}
	if lose() {
		return nil, 0
	}
	return answer, time.Duration(u.random.IntN(20)) * time.Millisecond
}

// Whatever is given up, refused, split and sent again, each call has the answer to its own record, and what is stored is what was published: memory
// that serves the next frame is not that of one that is still needed.
func TestEachCallHasItsOwnAnswer(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			withBroker(t, func(t *testing.T, b *fakeBroker, c *Client) {
				u := newUnreliable(b, seed)
				b.frame = u.frame
				p := NewPublisher(c, stringTopic)
				var calls sync.WaitGroup
				var mu sync.Mutex
				given, confirmed := map[string]error{}, map[string]int64{}
				for caller := range 16 {
					random := rand.New(rand.NewPCG(seed, uint64(caller+2)))
					calls.Go(func() {
						for i := range 20 {
							value := fmt.Sprintf("%d of %d %s", i, caller, strings.Repeat("x", random.IntN(500)))
							if random.IntN(40) == 0 {
								value = "bad " + value
							}
							ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
							if random.IntN(3) == 0 {
								cancel()
								ctx, cancel = context.WithTimeout(t.Context(), time.Duration(random.IntN(40))*time.Millisecond)
							}
							var receipt Receipt
							var err error
							if random.IntN(2) == 0 {
								receipt, err = p.Publish(ctx, wrapperspb.String(value), WithKey(nil))
							} else {
								results := p.PublishBatch(ctx, []*wrapperspb.StringValue{wrapperspb.String(value)}, WithKey(nil))
								receipt, err = results[0].Receipt, results[0].Err
							}
							cancel()
							mu.Lock()
							if bad := strings.HasPrefix(value, "bad"); bad && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrSchemaMismatch) ||
								!bad && err != nil && !errors.Is(err, context.DeadlineExceeded) {
								t.Errorf("%.20q: %v", value, err)
							}
							if err == nil {
								confirmed[value] = receipt.Offset
							} else {
								given[value] = err
							}
							mu.Unlock()
						}
					})
				}
				calls.Wait()
				u.mu.Lock()
				u.calm = true
				u.mu.Unlock()
				if _, err := p.Publish(t.Context(), wrapperspb.String("last")); err != nil {
					t.Fatal(err)
				}
				for value, offset := range confirmed {
					if offset >= int64(len(u.stored)) || u.stored[offset] != value {
						t.Errorf("%.20q is said to be at %d", value, offset)
					}
				}
				times := map[string]int{}
				for _, value := range u.stored[:len(u.stored)-1] {
					err, known := given[value]
					if _, ok := confirmed[value]; !ok && (!known || !errors.Is(err, ErrUnknownOutcome)) {
						t.Errorf("%.20q is stored; of the call: %v", value, err)
					}
					if times[value]++; times[value] > 1 {
						t.Errorf("%.20q is stored twice", value)
					}
				}
				if len(confirmed) < 50 || len(given) < 10 {
					t.Errorf("%d confirmed, %d given up: it says little", len(confirmed), len(given))
				}
			})
		})
	}
}
