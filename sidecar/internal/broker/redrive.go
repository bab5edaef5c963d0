package broker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// What one commit redrives or discards at most, so that a million dead letters neither stop their partition's deliveries nor make one huge batch.
const (
	moveLetters = 1000
	moveBytes   = 4 << 20
)

// MaxSelectedIDs bounds the ids of one Selection.
const MaxSelectedIDs = 10_000

// Selection chooses dead letters of a group in a topic. Exactly one of IDs, All and Failure is set.
type Selection struct {
	// IDs may name several dead letters each: nothing keeps a publisher from using one twice. At most MaxSelectedIDs.
	IDs []string
	All bool
	// Failure is the key of a Failure.
	Failure string
	// Limit bounds how many are taken, the oldest of the first partition first. 0 is no bound.
	Limit int
	// Page goes on where an earlier call of the same kind with the same choice reached its limit. Empty: at the beginning.
	Page string
}

// Redrive gives dead letters back to their group, as never attempted, in the order of partition, priority and offset. It returns how many, the
// ids that no dead letter has, and, if there are more than s.Limit, the page that the next call goes on with. It works in many small commits: if it
// fails, what was done before stays done, and n, which the error tells too, counts it. Letters that die during the call may be included or not, but
// none is redriven twice in one call, nor in a sequence of calls by pages.
func (b *Broker) Redrive(ctx context.Context, groupName, topicName string, s Selection) (n int, unknown []string, next string, err error) {
	return b.moveDeadLetters(ctx, groupName, topicName, s, redriveLetters, (*serving).redrive)
}

// Discard deletes dead letters, in all else like Redrive.
func (b *Broker) Discard(ctx context.Context, groupName, topicName string, s Selection) (n int, unknown []string, next string, err error) {
	return b.moveDeadLetters(ctx, groupName, topicName, s, discardLetters, (*serving).discard)
}

// redrive lets the next commit give a dead letter back.
func (sv *serving) redrive(d DeadLetter) error {
	value, err := proto.Marshal(&storagev1.Redriven{Record: d.Record.raw, AppendTimeMs: d.Published.UnixMilli()})
	if err != nil {
		return err
	}
	sv.extra = append(sv.extra,
		engine.Write{Key: shardKey(keyDeadLetter, d.number), Delete: true},
		engine.Write{Key: shardKey(keyRedriven, d.number), Value: value})
	if !mutant.On(mutant.CounterDrift) {
		sv.dead--
	}
	sv.counted.Redriven++
	lane, offset := laneOf(d.number)
	sv.stepLane(lane, dispatch.Redrive{Messages: []dispatch.Message{{
		Offset: dispatch.Offset(offset), Key: sv.keyHash(d.Record.Key), Size: framedSize(d.Record.raw),
	}}})
	return nil
}

// discard lets the next commit delete a dead letter.
func (sv *serving) discard(d DeadLetter) error {
	sv.drop(d)
	sv.counted.Discarded++
	return nil
}

// drop lets the next commit delete a dead letter. What waits behind it goes on.
func (sv *serving) drop(d DeadLetter) {
	sv.extra = append(sv.extra, engine.Write{Key: shardKey(keyDeadLetter, d.number), Delete: true})
	sv.dead--
	if d.HoldsKey {
		lane, offset := laneOf(d.number)
		sv.stepLane(lane, dispatch.Discard{Offsets: []dispatch.Offset{dispatch.Offset(offset)}})
	}
}

// stepLane steps the machine of one lane.
func (sv *serving) stepLane(lane uint8, ev dispatch.Event) {
	_ = sv.lanes[lane].machine.Step(sv.broker.now(), ev)
}

// moveDeadLetters does something with each dead letter that was chosen, in its shard, durably.
func (b *Broker) moveDeadLetters(ctx context.Context, groupName, topicName string, s Selection, call letterCall, do func(*serving, DeadLetter) error) (
	n int, unknown []string, next string, err error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return 0, nil, "", refused
	}
	if refused := s.check(); refused != nil {
		return 0, nil, "", refused
	}
	pages := g.letterPages(call)
	partition, from, err := pages.parse(s.Page)
	if err != nil {
		return 0, nil, "", err
	}
	m := &move{group: g, pages: pages, selection: s, do: do, wanted: make(map[string]bool, len(s.IDs)), unseen: make(map[string]bool, len(s.IDs))}
	m.chosen = m.matches
	m.readIDs()
	var errs []error
	for ; partition < len(g.shards) && m.next == "" && ctx.Err() == nil; partition, from = partition+1, 0 {
		errs = append(errs, m.shard(ctx, g.shards[partition], from)) // a partition that does not serve keeps no other from it
	}
	switch err := errors.Join(append(errs, ctx.Err())...); {
	case err != nil:
		return m.n, nil, "", Refusal(err).with("done", m.n)
	case m.next != "":
		return m.n, nil, m.next, nil
	case m.n == 0 && s.Page == "" && len(m.unseen) > 0:
		return 0, nil, "", fail(MessageUnknown, "ids", "no dead letter of group %q in topic %q has such an id", g.name, g.topicName())
	case m.n == 0 && s.Page == "" && s.Failure != "":
		return 0, nil, "", fail(MessageUnknown, "failure", "no dead letter of group %q in topic %q died of failure %q", g.name, g.topicName(), s.Failure)
	}
	return m.n, slices.Sorted(maps.Keys(m.unseen)), "", nil
}

func (s Selection) check() *Error {
	chosen := 0
	for _, set := range []bool{len(s.IDs) > 0, s.All, s.Failure != ""} {
		if set {
			chosen++
		}
	}
	switch {
	case chosen != 1:
		return fail(BadRequest, "ids", "name ids, set all, or name a failure: exactly one of them")
	case len(s.IDs) > MaxSelectedIDs:
		return fail(BatchTooLarge, "ids", "%d ids in one call: at most %d are allowed", len(s.IDs), MaxSelectedIDs).with("bound", MaxSelectedIDs)
	case s.Failure != "" && !isFailureKey(s.Failure):
		return fail(BadRequest, "failure", "failure %q: must be %d hexadecimal digits, in lower case", clip(s.Failure), failureKeyLen)
	case s.Limit < 0:
		return fail(BadRequest, "limit", "limit %d: must be 0 or more", s.Limit)
	}
	return nil
}

// move is one Redrive or Discard.
type move struct {
	group     *group
	pages     letterPages
	selection Selection
	chosen    func(DeadLetter) bool // called in several goroutines
	do        func(*serving, DeadLetter) error

	wanted map[string]bool    // the ids
	unseen map[string]bool    // ids that no dead letter was found for
	places map[uint32][]int64 // by partition, ascending, if all ids tell where their message is: then nothing is searched

	n          int
	next       string    // page, once the limit was reached and there are more
	oldestLeft time.Time // the earliest death among what was not chosen, if it is earlier than what was set
}

func (m *move) readIDs() {
	for _, id := range m.selection.IDs {
		m.wanted[id], m.unseen[id] = true, true
	}
	if len(m.wanted) > 0 {
		m.places = make(map[uint32][]int64)
	}
	for id := range m.wanted {
		partition, number, ok := parsePlace(id)
		if !ok {
			m.places = nil
			return
		}
		m.places[partition] = append(m.places[partition], number)
	}
	for _, numbers := range m.places {
		slices.Sort(numbers)
	}
}

func (m *move) matches(d DeadLetter) bool {
	switch {
	case m.selection.All:
		return true
	case m.selection.Failure != "":
		return FailureKey(d.Reason, d.LastError) == m.selection.Failure
	}
	return m.wanted[d.ID]
}

// shard moves what is chosen of one partition, round by round: the letters of a round are found past the shard's goroutine, and moved in it by one
// commit.
func (m *move) shard(ctx context.Context, s *shard, from int64) error {
	for {
		most := moveLetters
		if m.selection.Limit > 0 {
			most = min(most, m.selection.Limit-m.n)
		}
		numbers, next, err := m.find(ctx, s, from, max(most, 1)) // at the limit, one more tells that there are more
		if err != nil || len(numbers) == 0 {
			return err
		}
		if most == 0 {
			m.next = m.pages.token(s.partition, numbers[0])
			return nil
		}
		done, err := m.round(ctx, s, numbers)
		if err != nil {
			return err
		}
		switch {
		case done < len(numbers):
			from = numbers[done]
		case next == 0:
			return nil
		default:
			from = next
		}
	}
}

// find returns the numbers of up to most dead letters that are chosen, from a number on, and where to go on, 0 if there are no more.
func (m *move) find(ctx context.Context, s *shard, from int64, most int) (numbers []int64, next int64, err error) {
	if m.places != nil {
		return m.findPlaces(ctx, s, from, most)
	}
	for d, err := range s.deadLetters(ctx, from) {
		if err != nil {
			return nil, 0, err
		}
		if !m.chosen(d) {
			if d.Died.Before(m.oldestLeft) {
				m.oldestLeft = d.Died
			}
			continue
		}
		if len(numbers) == most {
			return numbers, d.number, nil
		}
		numbers = append(numbers, d.number)
	}
	return numbers, 0, nil
}

func (m *move) findPlaces(ctx context.Context, s *shard, from int64, most int) (numbers []int64, next int64, err error) {
	store, err := s.storeNow()
	if err != nil {
		return nil, 0, err
	}
	for _, n := range m.places[s.partition] {
		if n < from {
			continue
		}
		d, err := s.deadLetterIn(ctx, store, n)
		switch {
		case errors.Is(err, engine.ErrNotFound), err == nil && !m.chosen(d):
			continue
		case err != nil:
			return nil, 0, err
		case len(numbers) == most:
			return numbers, n, nil
		}
		numbers = append(numbers, n)
	}
	return numbers, 0, nil
}

// round moves dead letters in the shard's goroutine, as far as they are still there. It returns how many of the numbers it went through: fewer than
// all if their records are too many bytes for one commit.
func (m *move) round(ctx context.Context, s *shard, numbers []int64) (done int, err error) {
	r := &round{}
	if err := s.ask(ctx, func(sv *serving) { r.run(sv, m, numbers) }); err != nil {
		return 0, err
	}
	m.n += len(r.moved)
	for _, id := range r.moved {
		delete(m.unseen, id)
	}
	return r.done, r.err
}

// round is what became of a round. It belongs to the shard's goroutine until its effects are durable.
type round struct {
	done  int // numbers
	bytes int
	moved []string // ids
	err   error
}

func (r *round) run(sv *serving, m *move, numbers []int64) {
	for r.done < len(numbers) && r.bytes < moveBytes {
		number := numbers[r.done]
		if lane, o := laneOf(number); int(lane) < len(sv.lanes) && sv.lanes[lane].machine.Dying(o) {
			return // its message dies again in this turn: once that is durable, in the next round
		}
		d, err := sv.takeLetter(number)
		if err == nil && d != nil && !m.chosen(*d) {
			d = nil // it is another death by now
		}
		if err == nil && d != nil {
			err = m.do(sv, *d)
		}
		if err != nil {
			r.err = err
			return
		}
		r.done++
		if d == nil {
			continue
		}
		sv.moved[number] = true
		r.bytes += len(d.Record.raw)
		r.moved = append(r.moved, d.ID)
	}
}

// takeLetter reads a dead letter that may have gone since it was found, then it is nil.
func (sv *serving) takeLetter(number int64) (*DeadLetter, error) {
	if sv.moved[number] {
		return nil, nil
	}
	d, err := sv.deadLetterIn(sv.broker.running, sv.store, number)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, nil
	}
	return &d, err
}

// ask runs something in the shard's goroutine and returns when its effects are durable. After ctx is done it may still be running.
func (s *shard) ask(ctx context.Context, do func(*serving)) error {
	s.group.touch()
	defer s.group.touch()
	done := make(chan error, 1)
	s.call(task{do: do, done: func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
