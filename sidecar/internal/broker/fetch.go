package broker

import (
	"context"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/typedmq/typedmq/internal/filter"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// fetchBytes is how much is read from the log at a time.
const fetchBytes = 256 << 10

// fetch reads what the machines want from their logs. It returns false if that is nothing.
func (sv *serving) fetch(ctx context.Context) (fetched bool, err error) {
	for _, l := range sv.lanes {
		some, err := sv.fetchLane(ctx, l)
		if err != nil {
			return false, err
		}
		fetched = fetched || some
	}
	return fetched, nil
}

func (sv *serving) fetchLane(ctx context.Context, l *lane) (bool, error) {
	from, n := l.machine.Want()
	if n == 0 {
		return false, nil
	}
	end := dispatch.Offset(l.end.Load())              // before reading: what is published meanwhile is no gap
	ev := sv.broker.fetches.Get().(*dispatch.Fetched) // for its memory: a machine keeps nothing of it
	defer sv.broker.fetches.Put(ev)
	ev.Messages, ev.Next = ev.Messages[:0], from
	f := fetching{serving: sv, lane: l, Fetched: ev, most: n, policy: sv.group.policy.Load(), expiry: sv.expiry()}
	for len(ev.Messages) < n {
		c := sv.broker.chunks.find(l.log, engine.Offset(ev.Next))
		if c == nil {
			break
		}
		f.take(c)
	}
	begin := from
	if ev.Next == from {
		chunks, err := sv.broker.engine.Read(ctx, l.log, engine.Offset(from), fetchBytes)
		if err != nil {
			return false, err
		}
		for i := range chunks {
			c, err := sv.broker.chunks.add(l.log, chunks[i])
			if err != nil && i == 0 {
				return false, err
			}
			if err != nil {
				break // what was read before it is served first, as after any damage
			}
			f.take(c)
		}
		begin = end // the log was trimmed up to its end
		if len(chunks) > 0 {
			begin = dispatch.Offset(chunks[0].First)
		} else {
			ev.Next = max(from, end)
		}
	}
	if begin > from {
		sv.lost(l, from, l.unsettled(from, begin))
	}
	l.fetched.Store(int64(ev.Next))
	l.fetchedTo(ev.Next)
	_ = l.machine.Step(sv.broker.now(), ev)
	return true, nil
}

// fetching is a look at a log for a machine.
type fetching struct {
	*serving
	lane *lane
	*dispatch.Fetched
	most   int // messages at all
	policy *subscriptionState
	expiry expiry
}

// take adds what a chunk has from Next on, as much as there is room for.
func (f *fetching) take(c *chunk) {
	for o := max(f.Next, dispatch.Offset(c.First)); o <= dispatch.Offset(c.Last()) && len(f.Messages) < f.most; o++ {
		i := int(engine.Offset(o) - c.First)
		start, end := c.place(o)
		m := dispatch.Message{Offset: o, Size: end - start, Key: c.keys[i]}
		switch {
		case c.ttls == nil:
			m.Expires = f.expiry.of(c.TimeMS, 0)
		case c.ttls[i] != unreadable:
			m.Expires = f.expiry.of(c.TimeMS, c.ttls[i])
		}
		if f.policy.filter != nil && (c.ttls == nil || c.ttls[i] != unreadable) {
			f.filter(f.policy, &m, c.record(o))
		}
		if mutant.On(mutant.PositionPastFiltered) && m.Filtered {
			f.lane.filteredTo = m.Offset + 1
		}
		f.Messages, f.Next = append(f.Messages, m), o+1
	}
}

// filter marks a message that the group does not want.
func (sv *serving) filter(policy *subscriptionState, m *dispatch.Message, raw []byte) {
	r, err := ParseRecord(raw)
	if err != nil {
		return // delivered as it is: the consumer rejects what it cannot read
	}
	match, err := policy.filter.Match(filter.Input{
		Key: r.Key, Headers: r,
		Message: func() (protoreflect.Message, error) { return policy.codec.Decode(r.Payload) },
	})
	if err != nil {
		sv.filterFailed(m.Offset, err)
	}
	if !match {
		m.Filtered = true
		sv.counted.Filtered++
	}
}

// framedSize is the length of a record in a RecordSet: what it weighs against the credits of a session.
func framedSize(record []byte) uint32 { return uint32(1 + protowire.SizeBytes(len(record))) }

// chunkOf returns the chunk of an offset, from memory or the engine. Error: errTrimmed, and those of the engine.
func (sv *serving) chunkOf(ctx context.Context, l *lane, o dispatch.Offset) (*chunk, error) {
	if c := sv.broker.chunks.find(l.log, engine.Offset(o)); c != nil {
		return c, nil
	}
	chunks, err := sv.broker.engine.Read(ctx, l.log, engine.Offset(o), 1)
	if err != nil {
		return nil, err
	}
	if len(chunks) == 0 || chunks[0].First > engine.Offset(o) {
		return nil, errTrimmed
	}
	return sv.broker.chunks.add(l.log, chunks[0])
}
