package broker

import (
	"context"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TailOptions say what Tail reads.
type TailOptions struct {
	Topic    string
	Earliest bool // from the oldest message that is kept; otherwise from now on
	// StopAtEnd ends where the log ended at the call.
	StopAtEnd bool
}

// Tailed is a message as Tail finds it.
type Tailed struct {
	Partition uint32
	// Lane is the priority level, from 0.
	Lane uint8
	// Priority is its level in a topic with priorities, else 0.
	Priority uint32
	Offset   int64
	AppendMS int64
	Record   Record
}

// Tail reads a topic without a group: nothing is leased, no position moves. It calls yield with messages in order within each partition, until
// that returns false, the end is reached or ctx is done.
func (b *Broker) Tail(ctx context.Context, o TailOptions, yield func([]Tailed) bool) error {
	t, refused := b.topic(o.Topic)
	if refused != nil {
		return refused
	}
	grown := make(chan struct{}, 1)
	logs := t.logs()
	next := make([]engine.Offset, len(logs))
	stop := make([]engine.Offset, len(logs))
	for p, log := range logs {
		cancel := b.engine.Watch(log, func(engine.Offset) {
			select {
			case grown <- struct{}{}:
			default:
			}
		})
		defer cancel()
		bounds, err := b.engine.Bounds(ctx, log)
		if err != nil {
			return Refusal(err)
		}
		next[p], stop[p] = bounds.End, bounds.End
		if o.Earliest {
			next[p] = bounds.Begin
		}
	}
	for {
		for p := range next {
			if o.StopAtEnd && next[p] >= stop[p] {
				continue
			}
			priority := uint32(0)
			if t.decl.PriorityLevels > 1 {
				priority = uint32(logs[p].Lane) + 1
			}
			more, err := b.tailLog(ctx, logs[p], priority, &next[p], yield)
			if err != nil || !more {
				return err
			}
			if o.StopAtEnd {
				next[p] = max(next[p], stop[p]) // the rest was trimmed
			}
		}
		if o.StopAtEnd && reached(next, stop) {
			return nil
		}
		if o.StopAtEnd {
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Refusal(ctx.Err())
		case <-b.running.Done():
			return fail(Draining, "", "the sidecar is shutting down")
		}
	}
}

func reached(next, stop []engine.Offset) bool {
	for p := range next {
		if next[p] < stop[p] {
			return false
		}
	}
	return true
}

// tailLog reads one log to its present end.
func (b *Broker) tailLog(ctx context.Context, log engine.LogID, priority uint32, next *engine.Offset, yield func([]Tailed) bool) (more bool, err error) {
	for {
		chunks, err := b.engine.Read(ctx, log, *next, fetchBytes)
		if err != nil {
			return false, Refusal(err)
		}
		if len(chunks) == 0 {
			return true, nil
		}
		var batch []Tailed
		for _, c := range chunks {
			for offset, raw := range c.All() {
				if offset < *next {
					continue
				}
				r, err := ParseRecord(raw)
				if err != nil {
					return false, Refusal(err)
				}
				batch = append(batch, Tailed{Partition: log.Partition, Lane: log.Lane, Priority: priority, Offset: int64(offset), AppendMS: c.TimeMS, Record: r})
				*next = offset + 1
			}
		}
		if !yield(batch) {
			return false, nil
		}
	}
}
