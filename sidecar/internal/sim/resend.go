package sim

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// resending says whether a publisher sends a batch again that it has no answer to, and by what it is known then.
type resending uint8

const (
	never resending = iota
	underNumber
	underIDs
)

// resends draws how a batch is published. A clock that is set forward while a sidecar is down makes it forget.
func (c *client) resends(t *Topic) resending {
	how := resending(c.rng.IntN(3))
	switch {
	case c.w.plan.Faults.Clock:
		return never
	case how == underIDs && !t.Dedupe:
		return underNumber
	}
	return how
}

// sent is what became of one try.
type sent struct {
	placed broker.Placement
	result Result
	why    string
	began  bool // the sidecar may have had it
}

// try publishes a batch once. The records are overwritten when the call has ended: they are the caller's again.
func (c *client) try(from broker.Producer, batch broker.Batch) sent {
	type answer struct {
		placed []broker.Placement
		err    error
	}
	batch.Records = bytes.Clone(batch.Records)
	p := c.sidecar(c.rng.IntN(8))
	got, r := call(c, p, func(ctx context.Context, b *broker.Broker) answer {
		placed, err := b.PublishAs(ctx, from, []broker.Batch{batch})
		for i := range batch.Records {
			batch.Records[i] = 0xa5
		}
		return answer{placed, err}
	})
	switch {
	case r != OK:
		return sent{result: r, began: r == Unknown}
	case got.err != nil:
		return sent{result: judge(got.err), why: got.err.Error(), began: true}
	case got.placed[0].Refused != nil:
		return sent{result: Fail, why: string(got.placed[0].Refused.Reason), began: true}
	}
	return sent{placed: got.placed[0], result: OK, began: true}
}

// sendAgain publishes a batch, again and again as long as it is not known what became of it, and now and then once more than that. A spoiled one is never stored.
func (c *client) sendAgain(batch broker.Batch, how resending, spoiled bool) (broker.Placement, Result, string) {
	var (
		from   broker.Producer
		last   sent
		known  *sent // the first that told where the records are
		unsure bool
	)
	if how == underNumber {
		c.numbered++
		binary.BigEndian.PutUint64(from.ID[:], hash64(c.w.plan.Seed, 0, c.name)|1)
		from.AnsweredBelow, batch.Number = c.numbered, c.numbered
	}
	for try := 0; ; try++ {
		last = c.try(from, batch)
		switch {
		case last.result == OK && known != nil:
			if !slices.Equal(last.placed.Partitions, known.placed.Partitions) || !slices.Equal(last.placed.Offsets, known.placed.Offsets) {
				c.w.record(Event{Kind: Unservable, Bound: 4, Detail: fmt.Sprintf("%s: a batch that was sent again is at %v, and was at %v", c.name, last.placed, known.placed)})
			}
		case last.result == OK:
			known = &sent{placed: last.placed, result: OK}
		case last.result == Fail && last.why != "" && known != nil, last.why == string(broker.DedupeConflict):
			c.w.record(Event{Kind: Unservable, Bound: 4, Detail: fmt.Sprintf("%s: a batch that was sent again was refused: %s", c.name, last.why)})
		}
		unsure = unsure || last.began && last.result == Unknown
		asked := unsure && known == nil || last.result == OK && try < 2 && c.rng.IntN(4) == 0
		if how == never || !asked || try == 8 || c.w.stopping {
			break
		}
		c.w.sleep(c.between(10*time.Millisecond, 3*time.Second), c.name+" sends again")
		c.w.stats.Operations++
	}
	switch {
	case known != nil:
		return known.placed, OK, ""
	case last.result == Fail && unsure && !spoiled:
		return last.placed, Unknown, last.why
	}
	return last.placed, last.result, last.why
}
