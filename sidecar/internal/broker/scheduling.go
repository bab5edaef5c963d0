package broker

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// markEvery is how old the durable mark of the time of day may be while messages wait.
	markEvery = time.Minute
	// damagedEvery is how often messages are tried again that are due in a damaged log.
	damagedEvery = 5 * time.Minute
	// passedOver bounds the messages of damaged logs that one release passes over.
	passedOver = 20_000
	// never is when the earliest message is due if there is none.
	never = math.MaxInt64
)

// scheduling is the schedule while it owns its shard. It belongs to the schedule's goroutine. After a commit whose outcome is not known it is thrown away,
// and another one begins at a new epoch with what is durable.
type scheduling struct {
	*schedule
	claim    claimed
	store    engine.Shard
	sequence uint64         // of the next entry
	front    scheduledPlace // no entry is before it but of damaged logs: scans begin here, not in front of all that was released
	earliest int64          // no entry is due before; at first 0, so that the store is looked at
	mark     int64          // the time of day that was saved last, in milliseconds since 1970

	// What is due in a damaged log stays where it is. The front moves on past it, and returns there when it is tried again.
	damaged  map[engine.LogID]bool
	returnTo scheduledPlace // the first that was passed over
	returnAt time.Time      // by the time of day, zero if there is none

	again     time.Time // when a release that found the disk full is tried again, by the time of day
	wait      time.Duration
	stopTimer func() bool
}

// serve works until ctx is done or the shard cannot be owned any longer.
func (sv *scheduling) serve(ctx context.Context) error {
	defer sv.setTimer(false)
	sv.signal()
	work := context.WithoutCancel(ctx) // what was begun is finished, so that callers know what became of it
	for {
		select { // of several that are there any may be taken: what is done is chosen below
		case <-ctx.Done():
		case <-sv.claim.lost:
		case <-sv.wake:
		}
		sv.broker.turn(sv.schedule)
		if ctx.Err() != nil {
			return sv.finish(work)
		}
		if over(sv.claim.lost) {
			return errLeaseOver
		}
		select {
		case <-sv.wake: // what it tells of is done in this turn
		default:
		}
		asked := sv.work.asked.Load()
		if err := sv.turn(work); err != nil {
			return err
		}
		sv.work.ended.Store(asked)
		sv.broker.stir()
	}
}

// turn does one commit of each kind that there is work for. When more is left it signals, so that the end of ownership is seen in between.
func (sv *scheduling) turn(ctx context.Context) error {
	if !sv.broker.clock.Now().Before(sv.broker.cluster.Deadline()) {
		return errLeaseOver
	}
	calls, moreCalls := sv.take()
	if len(calls) > 0 && calls[0].loan != nil {
		if err := sv.lend(ctx, calls[0].loan); err != nil {
			return err
		}
	} else if err := sv.commit(ctx, calls); err != nil {
		return err
	}
	moreDue, err := sv.release(ctx)
	if err != nil {
		return err
	}
	if err := sv.saveClock(ctx); err != nil {
		return err
	}
	if moreCalls || moreDue {
		sv.signal()
	}
	sv.setTimer(true)
	return nil
}

// finish does the calls that are waiting and saves the time.
func (sv *scheduling) finish(ctx context.Context) error {
	for more := true; more; {
		var calls []*scheduleCall
		calls, more = sv.take()
		if len(calls) > 0 && calls[0].loan != nil {
			calls[0].refuse(errNotServing)
			continue
		}
		if err := sv.commit(ctx, calls); err != nil {
			return err
		}
	}
	_, err := sv.write(ctx, engine.Batch{})
	return err
}

// write commits a batch with the time of day, and parts of other shards.
func (sv *scheduling) write(ctx context.Context, batch engine.Batch, parts ...engine.Part) ([]engine.Offset, error) {
	now := sv.broker.wall().UnixMilli()
	batch.Writes = append(batch.Writes, clockWrite(now))
	firsts, err := sv.broker.engine.Commit(ctx, append([]engine.Part{{Shard: sv.store, Writes: batch.Writes}}, parts...), batch.Appends)
	if err == nil {
		sv.mark = now
	}
	return firsts, err
}

// refused tells whether an error of a commit says that nothing was written and that another batch may succeed.
func refused(err error) bool {
	var corrupt *engine.CorruptError
	return errors.Is(err, engine.ErrFull) || errors.As(err, &corrupt)
}

// commit does calls in one commit, or, if that is refused, each in its own, so that one does not stand for another. It answers them all, and returns an
// error if what is durable is not known any longer.
func (sv *scheduling) commit(ctx context.Context, calls []*scheduleCall) error {
	if len(calls) == 0 {
		return nil
	}
	answers, err := sv.commitOnce(ctx, calls)
	if refused(err) && len(calls) > 1 {
		for i, c := range calls {
			if err := sv.commit(ctx, []*scheduleCall{c}); err != nil {
				for _, c := range calls[i+1:] { // which were not tried
					c.answer <- scheduleAnswer{err: errNotServing}
				}
				return err
			}
		}
		return nil
	}
	for i, c := range calls {
		if err != nil {
			c.answer <- scheduleAnswer{err: err}
			continue
		}
		c.answer <- answers[i]
	}
	if refused(err) {
		return nil
	}
	return err
}

func (sv *scheduling) commitOnce(ctx context.Context, calls []*scheduleCall) ([]scheduleAnswer, error) {
	var (
		batch engine.Batch
		parts []engine.Part
	)
	answers := make([]scheduleAnswer, len(calls))
	gone := make(map[scheduledPlace]bool) // canceled by an earlier call of this commit
	for i, c := range calls {
		batch.Writes = sv.addAll(batch.Writes, c.add)
		batch.Appends = append(batch.Appends, c.appends...)
		parts = append(parts, c.parts...) // of the first call alone, see take
		if len(c.cancel) > 0 {
			var err error
			if batch.Writes, err = sv.cancelIDs(ctx, batch.Writes, c, &answers[i], gone, scheduleRecords); err != nil {
				return nil, err
			}
		}
	}
	if len(batch.Writes)+len(batch.Appends) == 0 { // nothing was found to cancel
		return answers, nil
	}
	firsts, err := sv.write(ctx, batch, parts...)
	if err != nil {
		return nil, err
	}
	for i, c := range calls {
		n := len(c.appends)
		answers[i].firsts, firsts = firsts[:n:n], firsts[n:]
	}
	return answers, nil
}

// addAll gives entries their places.
func (sv *scheduling) addAll(writes []engine.Write, records []scheduledRecord) []engine.Write {
	if len(records) == 0 {
		return writes
	}
	for _, r := range records {
		at := scheduledPlace{r.due, sv.sequence}
		sv.sequence++
		writes = r.writes(writes, at)
		sv.lower(at)
	}
	return append(writes, sequenceWrite(sv.sequence))
}

// cancelIDs deletes entries of a call's ids, up to left of them.
func (sv *scheduling) cancelIDs(
	ctx context.Context, writes []engine.Write, c *scheduleCall, a *scheduleAnswer, gone map[scheduledPlace]bool, left int,
) ([]engine.Write, error) {
	a.canceled = make([]int, len(c.cancel))
	for i, id := range c.cancel {
		if left == 0 {
			a.more = true
			break
		}
		places, err := byID(ctx, sv.store, c.topic, id, scheduledPlace{}, left)
		if err != nil {
			return nil, err
		}
		for _, at := range places {
			if !gone[at] {
				gone[at] = true
				writes = deleteScheduled(writes, at, c.topic, id)
				a.canceled[i]++
			}
		}
		left -= len(places)
		a.more = a.more || left == 0
	}
	return writes, nil
}

// lower moves the front back for an entry that goes before it.
func (sv *scheduling) lower(at scheduledPlace) {
	sv.earliest = min(sv.earliest, at.due)
	if at.before(sv.front) {
		sv.setFront(at)
	}
}

func (sv *scheduling) setFront(at scheduledPlace) {
	sv.front = at
	if len(sv.damaged) > 0 && sv.returnTo.before(at) {
		at = sv.returnTo
	}
	sv.mu.Lock()
	sv.mu.front = at
	sv.mu.Unlock()
}

// passOver notes an entry of a damaged log.
func (sv *scheduling) passOver(at scheduledPlace) {
	if sv.returnAt.IsZero() {
		sv.returnAt = sv.broker.wall().Add(damagedEvery)
		sv.returnTo = at
	}
	if at.before(sv.returnTo) {
		sv.returnTo = at
	}
}

// retryDamaged goes back to what was passed over, when it is time.
func (sv *scheduling) retryDamaged(wall time.Time) {
	if sv.returnAt.IsZero() || wall.Before(sv.returnAt) {
		return
	}
	clear(sv.damaged)
	sv.returnAt = time.Time{}
	sv.lower(sv.returnTo)
}

// duePage is messages that are due and enter their topics together.
type duePage struct {
	appends []engine.Append
	entries []scheduledEntry // in the order of the schedule
	// Where the schedule begins and when its first message is due once these are released.
	front    scheduledPlace
	earliest int64
}

// release lets messages that are due enter their topics, in one commit. It tells whether there may be more.
func (sv *scheduling) release(ctx context.Context) (more bool, err error) {
	wall := sv.broker.wall()
	sv.retryDamaged(wall)
	if sv.earliest > wall.UnixMilli() || wall.Before(sv.again) {
		return false, nil
	}
	page, err := sv.duePage(ctx, wall.UnixMilli())
	if err != nil {
		return false, err
	}
	if len(page.entries) > 0 {
		err = sv.releasePage(ctx, page)
		var corrupt *engine.CorruptError
		switch {
		case errors.As(err, &corrupt) && page.isIn(corrupt.Log):
			sv.broker.log.Warn("scheduled messages are due in a damaged log and wait", "log", corrupt.Log, "retry_in", damagedEvery, "error", corrupt)
			sv.damaged[corrupt.Log] = true
			return true, nil
		case errors.Is(err, engine.ErrFull):
			sv.holdOn(wall)
			return false, nil
		case err != nil:
			return false, err
		}
	}
	sv.again, sv.wait = time.Time{}, 0
	sv.setFront(page.front)
	sv.earliest = page.earliest
	return sv.earliest <= wall.UnixMilli(), nil
}

// holdOn waits for room on the disk.
func (sv *scheduling) holdOn(wall time.Time) {
	if sv.wait == 0 {
		sv.broker.log.Warn("the disk is full: scheduled messages that are due wait for room")
	}
	sv.wait = min(max(retryFirst, 2*sv.wait), retryMost)
	sv.again = wall.Add(sv.wait)
}

// duePage reads what is due, as much as one commit may release.
func (sv *scheduling) duePage(ctx context.Context, now int64) (duePage, error) {
	page := duePage{front: sv.front, earliest: never}
	logs := make(map[engine.LogID]int) // place of each log's append
	size, passed := 0, 0
	for pair, err := range sv.store.Scan(ctx, []byte{keyScheduled}, sv.front.key()) {
		if err != nil {
			return page, err
		}
		at, err := placeOf(pair.Key, 1)
		if err != nil {
			return page, err
		}
		if at.due > now || len(page.entries) == scheduleRecords || size > scheduleBytes || passed == passedOver {
			page.front, page.earliest = at, at.due
			return page, nil
		}
		e, err := parseScheduled(pair.Key, pair.Value)
		if err != nil {
			return page, err
		}
		page.front = at.next()
		if sv.damaged[e.log] {
			sv.passOver(at)
			passed++
			continue
		}
		i, ok := logs[e.log]
		if !ok {
			i = len(page.appends)
			logs[e.log] = i
			page.appends = append(page.appends, engine.Append{Log: e.log, TimeMS: now})
		}
		a := &page.appends[i]
		a.Records = engine.AppendRecord(a.Records, e.record.raw)
		a.Count++
		size += len(e.record.raw)
		page.entries = append(page.entries, e)
	}
	return page, nil
}

func (p duePage) isIn(log engine.LogID) bool {
	return slices.ContainsFunc(p.appends, func(a engine.Append) bool { return a.Log == log })
}

func (sv *scheduling) releasePage(ctx context.Context, page duePage) error {
	batch := engine.Batch{Appends: page.appends}
	for _, e := range page.entries {
		batch.Writes = deleteScheduled(batch.Writes, e.at, e.log.Topic, string(e.record.ID))
	}
	_, err := sv.write(ctx, batch)
	return err
}

// saveClock keeps the mark of the time of day fresh while messages wait.
func (sv *scheduling) saveClock(ctx context.Context) error {
	now := sv.broker.wall().UnixMilli()
	if !sv.waiting() || now-sv.mark < markEvery.Milliseconds() {
		return nil
	}
	if _, err := sv.write(ctx, engine.Batch{}); !errors.Is(err, engine.ErrFull) {
		return err
	}
	sv.mark = now // not saved: tried again in a minute
	return nil
}

// waiting tells whether there are messages on the schedule.
func (sv *scheduling) waiting() bool { return sv.earliest != never || !sv.returnAt.IsZero() }

// setTimer arranges for the next thing to do by itself, or for none.
func (sv *scheduling) setTimer(on bool) {
	if sv.stopTimer != nil {
		sv.stopTimer()
		sv.stopTimer = nil
	}
	if !on || !sv.waiting() {
		return
	}
	wall := sv.broker.wall()
	at := time.UnixMilli(sv.mark).Add(markEvery)
	if sv.earliest != never {
		at = earlier(at, later(time.UnixMilli(sv.earliest), sv.again))
	}
	if !sv.returnAt.IsZero() {
		at = earlier(at, sv.returnAt)
	}
	sv.stopTimer = sv.broker.clock.AfterFunc(max(0, at.Sub(wall)), sv.signal)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
