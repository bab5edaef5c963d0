package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// pageBytes is about how much the records of one page of dead letters may have.
const pageBytes = 2 << 20

// DeadLetter is a message that a group gave up on.
type DeadLetter struct {
	ID                    string
	Partition             uint32
	Lane                  uint8 // the priority level, from 0
	Offset                int64
	Reason                string
	Attempts              uint32
	FirstError, LastError string
	Published, Died       time.Time
	Record                Record
	// JSON is nil if the payload does not decode.
	JSON *structpb.Struct
}

// MessageID is the id that a record is known by: its own, or its place.
func MessageID(r Record, partition uint32, lane uint8, offset int64) string {
	if len(r.ID) > 0 {
		return string(r.ID)
	}
	if lane > 0 {
		return fmt.Sprintf("%d.%d-%d", partition, lane+1, offset)
	}
	return fmt.Sprintf("%d-%d", partition, offset)
}

// DeadLetters lists dead letters of a group in a topic, by partition and offset. id, if not empty, asks for one. The next page
// begins at the token returned, which is empty at the end.
func (b *Broker) DeadLetters(ctx context.Context, groupName, topicName, id string, limit int, page string) ([]DeadLetter, string, error) {
	g, refused := b.group(groupName, topicName)
	if refused != nil {
		return nil, "", refused
	}
	partition, offset, err := parsePage(page, len(g.shards))
	if err != nil {
		return nil, "", err
	}
	var out []DeadLetter
	size := 0
	for ; partition < len(g.shards); partition, offset = partition+1, 0 {
		for d, err := range g.shards[partition].deadLetters(ctx, offset) {
			if err != nil {
				return nil, "", Refusal(err)
			}
			if id != "" && d.ID != id {
				continue
			}
			if size += len(d.Record.raw); len(out) == limit || len(out) > 0 && size > pageBytes {
				return out, fmt.Sprintf("%d.%d", partition, d.number()), nil
			}
			codec := g.policy.Load().codec
			d.JSON, _ = codec.ToJSON(d.Record.Payload) // absent if the payload does not decode
			if codec.Sensitive() {
				d.Record.Payload = nil // it would show what JSON leaves out
			}
			out = append(out, d)
		}
	}
	return out, "", nil
}

func parsePage(page string, partitions int) (partition int, offset int64, err error) {
	if page == "" {
		return 0, 0, nil
	}
	p, o, ok := strings.Cut(page, ".")
	partition, perr := strconv.Atoi(p)
	offset, oerr := strconv.ParseInt(o, 10, 64)
	if !ok || perr != nil || oerr != nil || partition < 0 || partition >= partitions || offset < 0 {
		return 0, 0, fail(BadPageToken, "page_token", "page token %q was not made by this call", clip(page))
	}
	return partition, offset, nil
}

// number is what the letter's key has.
func (d DeadLetter) number() int64 { return laneNumber(d.Lane, dispatch.Offset(d.Offset)) }

// deadLetters yields a shard's dead letters from a number (laneNumber) on. It reads the store past the shard's goroutine.
func (s *shard) deadLetters(ctx context.Context, from int64) func(func(DeadLetter, error) bool) {
	return func(yield func(DeadLetter, error) bool) {
		s.mu.Lock()
		store, fault := s.mu.store, s.mu.fault
		s.mu.Unlock()
		if store == nil {
			yield(DeadLetter{}, errors.Join(errNotServing, fault))
			return
		}
		for pair, err := range store.Scan(ctx, []byte{keyDeadLetter}, shardKey(keyDeadLetter, from)) {
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			number, err := keyNumber(pair.Key)
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			lane, offset := laneOf(number)
			var d storagev1.DeadLetter
			if err := proto.Unmarshal(pair.Value, &d); err != nil {
				yield(DeadLetter{}, fmt.Errorf("dead letter %d: %w", offset, err))
				return
			}
			r, err := ParseRecord(d.GetRecord())
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("dead letter %d: %w", offset, err))
				return
			}
			if !yield(DeadLetter{
				ID: MessageID(r, s.partition, lane, int64(offset)), Partition: s.partition, Lane: lane, Offset: int64(offset), Reason: d.GetReason(), Attempts: d.GetAttempts(),
				FirstError: d.GetFirstError(), LastError: d.GetLastError(),
				Published: time.UnixMilli(d.GetAppendTimeMs()), Died: time.UnixMilli(d.GetDiedMs()), Record: r,
			}, nil) {
				return
			}
		}
	}
}

// Redrive gives dead letters back to their group: those of ids, or all that are there now. It returns how many, and the ids that no dead letter has.
func (b *Broker) Redrive(ctx context.Context, groupName, topicName string, ids []string, all bool) (n int, unknown []string, err error) {
	return b.forDeadLetters(ctx, groupName, topicName, ids, all, func(sv *serving, d DeadLetter) {
		value, err := proto.Marshal(&storagev1.Redriven{Record: d.Record.raw, AppendTimeMs: d.Published.UnixMilli()})
		if err != nil {
			return // of bytes and a number: cannot fail
		}
		sv.extra = append(sv.extra,
			engine.Write{Key: shardKey(keyDeadLetter, d.number()), Delete: true},
			engine.Write{Key: shardKey(keyRedriven, d.number()), Value: value})
		sv.dead--
		sv.counted.Redriven++
		_ = sv.lanes[d.Lane].machine.Step(sv.broker.now(), dispatch.Redrive{Messages: []dispatch.Message{
			{Offset: dispatch.Offset(d.Offset), Key: sv.keyHash(d.Record.Key), Size: framedSize(d.Record.raw)},
		}})
	})
}

// Discard deletes dead letters: those of ids, or all that are there now. It returns how many, and the ids that no dead letter has.
func (b *Broker) Discard(ctx context.Context, groupName, topicName string, ids []string, all bool) (n int, unknown []string, err error) {
	return b.forDeadLetters(ctx, groupName, topicName, ids, all, func(sv *serving, d DeadLetter) {
		sv.extra = append(sv.extra, engine.Write{Key: shardKey(keyDeadLetter, d.number()), Delete: true})
		sv.dead--
		sv.counted.Discarded++
	})
}

// forDeadLetters does something with each dead letter that was chosen, in its shard, durably.
func (b *Broker) forDeadLetters(ctx context.Context, groupName, topicName string, ids []string, all bool, do func(*serving, DeadLetter)) (n int, unknown []string, err error) {
	g, refused := b.group(groupName, topicName)
	if refused != nil {
		return 0, nil, refused
	}
	if all == (len(ids) > 0) {
		return 0, nil, fail(BadRequest, "ids", "name ids or set all, not both")
	}
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	counts := make([]int, len(g.shards))
	found := make([][]string, len(g.shards))
	errs := make([]error, len(g.shards))
	_, err = g.onAll(ctx, func(sv *serving) {
		for d, err := range sv.deadLetters(ctx, 0) {
			if err != nil {
				errs[sv.partition] = err
				return
			}
			if (all || wanted[d.ID]) && !sv.moved[d.number()] {
				sv.moved[d.number()] = true
				do(sv, d)
				counts[sv.partition]++
				found[sv.partition] = append(found[sv.partition], d.ID)
			}
		}
	})
	if ctx.Err() != nil { // shards may still be at it
		return 0, nil, Refusal(ctx.Err())
	}
	if err := errors.Join(append(errs, err)...); err != nil {
		return 0, nil, Refusal(err)
	}
	total := 0
	for p, n := range counts {
		total += n
		for _, id := range found[p] {
			delete(wanted, id)
		}
	}
	if len(wanted) > 0 && total == 0 {
		return 0, nil, fail(MessageUnknown, "ids", "no dead letter of group %q in topic %q has such an id", groupName, topicName)
	}
	return total, slices.Sorted(maps.Keys(wanted)), nil
}
