package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"strings"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// Stored is a store that nobody uses, to be checked.
type Stored interface {
	// Shards yields the shards that have something stored, and last an error if there is one.
	Shards(ctx context.Context) iter.Seq2[engine.ShardID, error]
	// Pairs yields what a shard has stored, by key, and last an error if there is one. Slices are valid until the next step.
	Pairs(ctx context.Context, shard engine.ShardID) iter.Seq2[engine.Pair, error]
	// Get errors: engine.ErrNotFound, *engine.CorruptError.
	Get(ctx context.Context, shard engine.ShardID, key []byte) ([]byte, error)
	// Bounds errors: *engine.CorruptError when nothing of the log can be read.
	Bounds(ctx context.Context, log engine.LogID) (engine.Bounds, error)
}

// What to do about a finding.
const (
	doRestore   = "restore a backup"
	doRedeclare = "restore a backup, or declare it anew: start the application that declares it once the entry was removed"
	doGroup     = "restore a backup, or move the group with mq group seek once the sidecar runs"
	doLetter    = "restore a backup, or discard it with mq dlq discard"
	doSchedule  = "restore a backup: the schedule stops at it"
	doReport    = "it does no harm to others; keep a copy of the data directory and report it"
)

// stateCheck is a check of what the broker keeps in shards under way.
type stateCheck struct {
	store  Stored
	report func(engine.Finding)

	sets   map[hash]*schema.Set
	topics map[engine.TopicID]*topicState
	byName map[string]*topicState
	starts map[shardOwner]*subscriptionState
	sound  bool // every topic and every subscription of the catalogue could be read
}

type shardOwner struct {
	group string
	topic engine.TopicID
}

// Check verifies what the broker keeps: the catalogue and what its entries refer to, the schedule and its index, and the state of every group against the
// logs. The engine's own check has verified checksums: what fails them is passed over here. names are those of the topics that are known. The error says
// that the check ended early.
func Check(ctx context.Context, store Stored, report func(engine.Finding)) (names map[engine.TopicID]string, err error) {
	c := &stateCheck{
		store: store, report: report, sound: true, sets: make(map[hash]*schema.Set), topics: make(map[engine.TopicID]*topicState),
		byName: make(map[string]*topicState), starts: make(map[shardOwner]*subscriptionState),
	}
	if err := c.catalogue(ctx); err != nil {
		return nil, err
	}
	names = make(map[engine.TopicID]string)
	for id, t := range c.topics {
		names[id] = t.decl.Name
	}
	for shard, err := range store.Shards(ctx) {
		switch {
		case err != nil && isDamage(err):
			c.find("shards", "", 0, err.Error(), doRestore)
		case err != nil:
			return names, err
		case shard == catalogueShard:
		case shard == scheduleShard:
			err = c.schedule(ctx)
		case shard == ledgerShard:
			err = c.ledger(ctx)
		case shard == transactionsShard:
			err = c.remembered(ctx)
		default:
			err = c.group(ctx, shard)
		}
		if err != nil && !isDamage(err) {
			return names, err
		}
	}
	return names, nil
}

// isDamage tells errors that the engine's check reports from those that end this one.
func isDamage(err error) bool {
	return err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

func (c *stateCheck) find(place, at string, t engine.TopicID, what, do string) {
	c.report(engine.Finding{Place: place, At: at, What: what, Do: do, Topic: t})
}

// catalogue checks that every entry decodes and that what it refers to is there, and remembers topics and subscriptions.
func (c *stateCheck) catalogue(ctx context.Context) error {
	const place = "catalogue"
	var (
		topics        []*storagev1.Topic
		subscriptions []*storagev1.Subscription
		secret, any   bool
	)
	for pair, err := range c.store.Pairs(ctx, catalogueShard) {
		if err != nil {
			c.sound = false
			if isDamage(err) {
				break
			}
			return err
		}
		any = true
		fault := func(what string) {
			c.sound = false
			c.find(place, fmt.Sprintf("key %q", pair.Key), 0, what, doRedeclare)
		}
		key := string(pair.Key)
		switch {
		case strings.HasPrefix(key, keyDescriptors):
			var d storagev1.Descriptors
			if err := proto.Unmarshal(pair.Value, &d); err != nil {
				fault("descriptors do not decode: " + err.Error())
				continue
			}
			set, err := schema.ParseStored(d.GetFiles())
			if err != nil || len(key) != len(keyDescriptors)+len(hash{}) {
				fault(fmt.Sprintf("descriptors cannot be read: %v", err))
				continue
			}
			c.sets[hash(pair.Key[len(keyDescriptors):])] = set
		case strings.HasPrefix(key, keyTopic):
			t := new(storagev1.Topic)
			if err := proto.Unmarshal(pair.Value, t); err != nil || keyTopic+t.GetName() != key || t.GetId() == 0 {
				fault(fmt.Sprintf("topic does not decode, or is not the one of its key (%v)", err))
				continue
			}
			topics = append(topics, t)
		case strings.HasPrefix(key, keySubscription):
			s := new(storagev1.Subscription)
			if err := proto.Unmarshal(pair.Value, s); err != nil || keySubscription+s.GetGroup()+"/"+s.GetTopic() != key {
				fault(fmt.Sprintf("subscription does not decode, or is not the one of its key (%v)", err))
				continue
			}
			subscriptions = append(subscriptions, s)
		case strings.HasPrefix(key, keyPaused):
		case key == keySecret:
			secret = len(pair.Value) == 16
		default:
			fault("the key is of no kind that this version knows")
		}
	}
	if any && !secret {
		c.find(place, "", 0, "the secret of lease tokens is missing: messages that consumers hold are delivered again", "nothing: the sidecar draws another one")
	}
	c.list(ctx, topics, subscriptions)
	return nil
}

// list checks what entries refer to, once all are read.
func (c *stateCheck) list(ctx context.Context, topics []*storagev1.Topic, subscriptions []*storagev1.Subscription) {
	setOf := func(h []byte) *schema.Set {
		if len(h) != len(hash{}) {
			return nil
		}
		return c.sets[hash(h)]
	}
	fault := func(at, what string) {
		c.sound = false
		c.find("catalogue", at, 0, what, doRedeclare)
	}
	for _, entry := range topics {
		t, err := resolveTopic(entry, setOf(entry.GetDescriptorsHash()))
		switch {
		case err != nil:
			fault("topic "+entry.GetName(), err.Error())
			continue
		case c.topics[t.id] != nil:
			fault("topic "+entry.GetName(), fmt.Sprintf("it has number %d, and so has topic %q", t.id, c.topics[t.id].decl.Name))
			continue
		}
		c.topics[t.id], c.byName[entry.GetName()] = t, t
	}
	for _, entry := range subscriptions {
		at := "subscription of " + entry.GetGroup() + " to " + entry.GetTopic()
		t := c.byName[entry.GetTopic()]
		if t == nil {
			fault(at, fmt.Sprintf("the catalogue has no topic %q that can be read", entry.GetTopic()))
			continue
		}
		s, err := resolveSubscription(entry, setOf(entry.GetDescriptorsHash()))
		if err != nil {
			fault(at, err.Error())
			continue
		}
		c.starts[shardOwner{entry.GetGroup(), t.id}] = s
		for i, log := range t.logs() {
			if bounds, err := c.store.Bounds(ctx, log); err == nil && i < len(s.starts) && (s.starts[i] < 0 || s.starts[i] > int64(bounds.End)) {
				fault(at, fmt.Sprintf("it began at offset %d of log %v, which ends at %d", s.starts[i], log, bounds.End))
			}
		}
	}
}

// schedule checks that every entry decodes and belongs to a topic, and that entries and their index agree.
func (c *stateCheck) schedule(ctx context.Context) error {
	const place = "schedule"
	fault := func(key []byte, what string) { c.find(place, fmt.Sprintf("key %x", key), 0, what, doSchedule) }
	next, err := c.sequence(ctx)
	if err != nil {
		return err
	}
	for pair, err := range c.store.Pairs(ctx, scheduleShard) {
		if err != nil {
			return err
		}
		if len(pair.Key) == 0 {
			fault(pair.Key, "the key is empty")
			continue
		}
		switch pair.Key[0] {
		case keyScheduled:
			e, err := parseScheduled(pair.Key, pair.Value)
			if err != nil {
				fault(pair.Key, err.Error())
				continue
			}
			if e.at.seq >= next {
				fault(pair.Key, fmt.Sprintf("it has sequence number %d, and the next one is to get %d", e.at.seq, next))
			}
			if t := c.topics[e.log.Topic]; t == nil && c.sound {
				fault(pair.Key, fmt.Sprintf("it is due in topic number %d, which the catalogue does not have", e.log.Topic))
			} else if t != nil && (e.log.Partition >= t.decl.Partitions || int(e.log.Lane) >= t.levels()) {
				fault(pair.Key, fmt.Sprintf("it is due in log %v, and topic %s has %d partitions of %d levels", e.log, t.decl.Name, t.decl.Partitions, t.levels()))
			}
			if len(e.record.ID) == 0 {
				continue
			}
			if has, err := c.has(ctx, scheduleShard, e.at.appendTo(idPrefix(e.log.Topic, string(e.record.ID)))); err != nil {
				return err
			} else if !has {
				fault(pair.Key, fmt.Sprintf("id %q is not in the index: it is delivered, and cannot be cancelled", e.record.ID))
			}
		case keyByID:
			if err := c.indexEntry(ctx, pair.Key, fault); err != nil {
				return err
			}
		case keyClock:
			if err := proto.Unmarshal(pair.Value, new(storagev1.ClockMark)); err != nil || len(pair.Key) != 1 {
				fault(pair.Key, fmt.Sprintf("the latest time of day does not decode (%v)", err))
			}
		case keySequence:
		default:
			fault(pair.Key, "the key is of no kind that this version knows")
		}
	}
	return nil
}

// sequence is the number that the next entry of the schedule gets.
func (c *stateCheck) sequence(ctx context.Context) (uint64, error) {
	v, err := c.store.Get(ctx, scheduleShard, []byte{keySequence})
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return 0, nil
	case isDamage(err):
		return 1<<64 - 1, nil // which the engine's check has reported
	case err != nil:
		return 0, err
	case len(v) != 8:
		c.find("schedule", "key 6e", 0, "the next sequence number is malformed", doSchedule)
		return 1<<64 - 1, nil
	}
	return binary.BigEndian.Uint64(v), nil
}

// indexEntry checks that the entry of a key of the index exists and has its id.
func (c *stateCheck) indexEntry(ctx context.Context, key []byte, fault func(key []byte, what string)) error {
	end := len(key) - placeSize - 1 // of the id
	if end < 5 || key[end] != 0 {
		fault(key, "the key of the index is malformed")
		return nil
	}
	t, id := engine.TopicID(binary.BigEndian.Uint32(key[1:])), string(key[5:end])
	at, err := placeOf(key, end+1)
	if err != nil {
		fault(key, err.Error())
		return nil
	}
	value, err := c.store.Get(ctx, scheduleShard, at.key())
	if errors.Is(err, engine.ErrNotFound) {
		fault(key, fmt.Sprintf("the index has id %q, the schedule does not", id))
		return nil
	}
	if err != nil {
		return err
	}
	if e, err := parseScheduled(at.key(), value); err == nil && (e.log.Topic != t || string(e.record.ID) != id) {
		fault(key, fmt.Sprintf("the index has id %q of topic number %d, the schedule has id %q of topic number %d there", id, t, e.record.ID, e.log.Topic))
	}
	return nil
}

func (c *stateCheck) has(ctx context.Context, shard engine.ShardID, key []byte) (bool, error) {
	_, err := c.store.Get(ctx, shard, key)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return false, nil
	case errors.Is(err, context.Canceled):
		return false, err
	}
	return true, nil // also if it is damaged, which was reported
}

// groupCheck is the check of the state of a group in a partition.
type groupCheck struct {
	*stateCheck
	id    engine.ShardID
	lanes []laneCheck
}

type laneCheck struct {
	floor   dispatch.Offset
	end     dispatch.Offset
	unknown bool // the end: the log cannot be read
}

func (g *groupCheck) fault(key []byte, what, do string) {
	g.find("shard "+g.id.String(), fmt.Sprintf("key %x", key), g.id.Topic, what, do)
}

// group checks the state of a group in a partition against the topic and its logs.
func (c *stateCheck) group(ctx context.Context, id engine.ShardID) error {
	place := "shard " + id.String()
	t := c.topics[id.Topic]
	switch {
	case t == nil && c.sound:
		c.find(place, "", id.Topic, fmt.Sprintf("state of topic number %d, which the catalogue does not have", id.Topic), doReport)
		return nil
	case t == nil:
		return nil
	case id.Partition >= t.decl.Partitions:
		c.find(place, "", id.Topic, fmt.Sprintf("state of partition %d, and topic %s has %d", id.Partition, t.decl.Name, t.decl.Partitions), doReport)
		return nil
	}
	subscription := c.starts[shardOwner{id.Group, id.Topic}]
	if subscription == nil && c.sound {
		c.find(place, "", id.Topic, fmt.Sprintf("state of group %s, which has no subscription to topic %s", id.Group, t.decl.Name), doReport)
		return nil
	}
	g := &groupCheck{stateCheck: c, id: id, lanes: make([]laneCheck, t.levels())}
	for i := range g.lanes {
		if err := g.lane(ctx, i, t, subscription); err != nil {
			return err
		}
	}
	for pair, err := range c.store.Pairs(ctx, id) {
		if err != nil {
			return err
		}
		if err := g.pair(ctx, pair); err != nil {
			return err
		}
	}
	return nil
}

// lane reads where the group stands in a lane.
func (g *groupCheck) lane(ctx context.Context, i int, t *topicState, s *subscriptionState) error {
	l := &g.lanes[i]
	bounds, err := g.store.Bounds(ctx, engine.LogID{Topic: g.id.Topic, Partition: g.id.Partition, Lane: uint8(i)})
	l.end, l.unknown = dispatch.Offset(bounds.End), err != nil
	if at := i*int(t.decl.Partitions) + int(g.id.Partition); s != nil && at < len(s.starts) {
		l.floor = dispatch.Offset(s.starts[at])
	}
	value, err := g.store.Get(ctx, g.id, headKey(uint8(i)))
	switch {
	case err != nil && isDamage(err): // there is none, or it was reported
		return nil
	case err != nil:
		return err
	}
	var h storagev1.Head
	if err := proto.Unmarshal(value, &h); err != nil {
		g.fault(headKey(uint8(i)), "the position does not decode: "+err.Error(), doRestore)
		return nil
	}
	l.floor = dispatch.Offset(h.GetFloor())
	if l.floor < 0 || !l.unknown && l.floor > l.end {
		g.fault(headKey(uint8(i)), fmt.Sprintf("the position is %d, and the log ends at %d", l.floor, l.end), doGroup)
	}
	return nil
}

func (g *groupCheck) pair(ctx context.Context, pair engine.Pair) error {
	kind, lane, offset, err := parseShardKey(pair.Key)
	if err != nil || int(lane) >= len(g.lanes) {
		g.fault(pair.Key, fmt.Sprintf("the key is malformed, or of a priority level that the topic does not have (%v)", err), doRestore)
		return nil
	}
	l := &g.lanes[lane]
	if kind != keyHead && kind != keyBlock && (offset < 0 || !l.unknown && offset >= l.end) {
		g.fault(pair.Key, fmt.Sprintf("it is of offset %d, and the log ends at %d", offset, l.end), doGroup)
	}
	switch kind {
	case keyBlock:
		g.block(pair, l, int64(offset))
	case keyFailure:
		if err := proto.Unmarshal(pair.Value, new(storagev1.Failure)); err != nil {
			g.fault(pair.Key, "failure does not decode: "+err.Error(), doRestore)
			return nil
		}
		return g.failure(ctx, pair.Key, l, lane, offset)
	case keyDeadLetter:
		var d storagev1.DeadLetter
		err := proto.Unmarshal(pair.Value, &d)
		if err == nil {
			_, err = ParseRecord(d.GetRecord())
		}
		if err != nil {
			g.fault(pair.Key, fmt.Sprintf("dead letter of offset %d does not decode: %v", offset, err), doLetter)
		}
	case keyRedriven:
		var r storagev1.Redriven
		err := proto.Unmarshal(pair.Value, &r)
		if err == nil {
			_, err = ParseRecord(r.GetRecord())
		}
		if err != nil {
			g.fault(pair.Key, fmt.Sprintf("redriven message of offset %d does not decode: %v", offset, err), doRestore)
		}
	}
	return nil
}

// block checks a bitmap of what is settled above the position.
func (g *groupCheck) block(pair engine.Pair, l *laneCheck, index int64) {
	var b storagev1.SettledBlock
	if err := proto.Unmarshal(pair.Value, &b); err != nil || len(b.GetBitmap()) != dispatch.BlockSize/8 {
		g.fault(pair.Key, fmt.Sprintf("block of settled messages does not decode (%v)", err), doRestore)
		return
	}
	last := dispatch.Offset(-1)
	for i := dispatch.BlockSize/64 - 1; i >= 0 && last < 0; i-- {
		if word := binary.LittleEndian.Uint64(b.GetBitmap()[8*i:]); word != 0 {
			last = dispatch.Offset(index*dispatch.BlockSize + int64(64*i+bits.Len64(word)-1))
		}
	}
	switch {
	case last >= 0 && !l.unknown && last >= l.end:
		g.fault(pair.Key, fmt.Sprintf("offset %d is settled, and the log ends at %d", last, l.end), doGroup)
	case dispatch.Offset((index+1)*dispatch.BlockSize) <= l.floor:
		g.fault(pair.Key, fmt.Sprintf("block of settled messages from %d on is below the position, %d", index*dispatch.BlockSize, l.floor), doReport)
	}
}

// failure checks that a message of which failures are remembered is not settled, or was given back.
func (g *groupCheck) failure(ctx context.Context, key []byte, l *laneCheck, lane uint8, offset dispatch.Offset) error {
	settled := offset < l.floor
	if !settled {
		value, err := g.store.Get(ctx, g.id, shardKey(keyBlock, laneNumber(lane, offset/dispatch.BlockSize)))
		var b storagev1.SettledBlock
		if err == nil && proto.Unmarshal(value, &b) == nil && len(b.GetBitmap()) == dispatch.BlockSize/8 {
			bit := offset % dispatch.BlockSize
			settled = b.GetBitmap()[bit/8]>>(bit%8)&1 == 1
		}
	}
	if !settled {
		return nil
	}
	again, err := g.has(ctx, g.id, shardKey(keyRedriven, laneNumber(lane, offset)))
	if err == nil && !again {
		g.fault(key, fmt.Sprintf("failures are remembered of offset %d, which is settled", offset), doReport)
	}
	return err
}
