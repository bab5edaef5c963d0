package broker

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

const (
	// MaxCancel bounds the ids of one Cancel.
	MaxCancel = 1000
	// lookedThrough bounds the messages, of other topics too, that one call of Scheduled reads.
	lookedThrough = 20_000
)

// ScheduledMessage is a message that is not due yet.
type ScheduledMessage struct {
	ID        string // empty for a message that was published without
	Due       time.Time
	Partition uint32
	Priority  uint32 // 1 is the lowest; 0 where the publisher gave none
	Record    Record // without its payload if the topic has sensitive fields
	// JSON is nil if the payload does not decode.
	JSON *structpb.Struct
}

// Cancel takes scheduled messages of a topic back: all of each id, 1 to 1,000 ids. It returns how many, and the ids that no scheduled message has, because
// they entered the topic already or never were there. When it returns, none of those that it counts can be delivered any more.
// After an error some may be cancelled and others not; calling again does the rest.
// Errors: MessageUnknown if none of the ids is known, TopicUnknown, BadRequest, and those of a partition that is not served.
func (b *Broker) Cancel(ctx context.Context, topicName string, ids []string) (n int, unknown []string, err error) {
	t, refused := b.topic(topicName)
	if refused != nil {
		return 0, nil, refused
	}
	if len(ids) < 1 || len(ids) > MaxCancel {
		return 0, nil, fail(BadRequest, "ids", "%d ids: must be 1 to %d", len(ids), MaxCancel).with("bound", MaxCancel)
	}
	var distinct []string
	counts := make(map[string]int, len(ids))
	for _, id := range ids {
		if _, seen := counts[id]; !seen {
			counts[id] = 0
			distinct = append(distinct, id)
		}
	}
	for more := true; more; {
		answer := b.schedule.do(ctx, &scheduleCall{topic: t.id, cancel: distinct})
		if answer.err != nil {
			return 0, nil, Refusal(answer.err)
		}
		for i, found := range answer.canceled {
			counts[distinct[i]] += found
			n += found
		}
		more = answer.more
	}
	for _, id := range distinct {
		if counts[id] == 0 {
			unknown = append(unknown, id)
		}
	}
	if n == 0 {
		return 0, nil, fail(MessageUnknown, "ids", "no scheduled message of topic %q has such an id", t.decl.Name)
	}
	return n, unknown, nil
}

// Scheduled lists messages of a topic that are not due yet, by when they are due. id, if not empty, asks for those of one id. The next page
// begins at the token returned, which is empty at the end. A page that ends early, even without a message, is not the last while it has a token: a call
// reads a bounded number of messages, also of other topics.
func (b *Broker) Scheduled(ctx context.Context, topicName, id string, limit int, page string) ([]ScheduledMessage, string, error) {
	t, refused := b.topic(topicName)
	if refused != nil {
		return nil, "", refused
	}
	pages := b.scheduledPages(t)
	from, err := pages.parse(page)
	if err != nil {
		return nil, "", err
	}
	s := b.schedule
	s.mu.Lock()
	store, front, fault := s.mu.store, s.mu.front, s.mu.fault
	s.mu.Unlock()
	if store == nil {
		return nil, "", Refusal(fault)
	}
	if from.before(front) {
		from = front
	}
	l := listing{topic: t, limit: limit}
	if id != "" {
		err = l.ofID(ctx, store, id, from)
	} else {
		err = l.all(ctx, store, from)
	}
	if err != nil {
		return nil, "", Refusal(err)
	}
	if l.next == nil {
		return l.out, "", nil
	}
	return l.out, pages.token(*l.next), nil
}

// listing gathers a page.
type listing struct {
	topic *topicState
	limit int
	out   []ScheduledMessage
	size  int
	next  *scheduledPlace // where the next page begins
}

// all looks through the schedule. It reads the store past the schedule's goroutine.
func (l *listing) all(ctx context.Context, store engine.Shard, from scheduledPlace) error {
	looked := 0
	for pair, err := range store.Scan(ctx, []byte{keyScheduled}, from.key()) {
		if err != nil {
			return err
		}
		e, err := parseScheduled(pair.Key, pair.Value)
		if err != nil {
			return err
		}
		if looked++; looked > lookedThrough {
			l.next = &e.at
			return nil
		}
		if e.log.Topic == l.topic.id && !l.add(e) {
			return nil
		}
	}
	return nil
}

// ofID looks up the messages of an id.
func (l *listing) ofID(ctx context.Context, store engine.Shard, id string, from scheduledPlace) error {
	places, err := byID(ctx, store, l.topic.id, id, from, l.limit+1)
	if err != nil {
		return err
	}
	for _, at := range places {
		key := at.key()
		value, err := store.Get(ctx, key)
		if errors.Is(err, engine.ErrNotFound) { // it fell due meanwhile
			continue
		}
		if err != nil {
			return err
		}
		e, err := parseScheduled(key, value)
		if err != nil {
			return err
		}
		if !l.add(e) {
			return nil
		}
	}
	return nil
}

// add takes a message into the page. It returns false if the page is full without it.
func (l *listing) add(e scheduledEntry) bool {
	if l.size += len(e.record.raw); len(l.out) == l.limit || len(l.out) > 0 && l.size > pageBytes {
		l.next = &e.at
		return false
	}
	m := ScheduledMessage{
		ID: string(e.record.ID), Due: time.UnixMilli(e.at.due), Partition: e.log.Partition, Priority: uint32(e.record.Priority), Record: e.record,
	}
	m.JSON, _ = l.topic.codec.ToJSON(e.record.Payload) // absent if the payload does not decode
	if l.topic.codec.Sensitive() {
		m.Record.Payload = nil // it would show what JSON leaves out
	}
	l.out = append(l.out, m)
	return true
}

// scheduledPages makes and reads the page tokens of a topic's list: place and tag, so that an invented one is known.
type scheduledPages struct{ tokens }

func (b *Broker) scheduledPages(t *topicState) scheduledPages {
	b.catalogue.mu.Lock()
	defer b.catalogue.mu.Unlock()
	return scheduledPages{newTokens(b.catalogue.mu.secret, scheduleShard.Group, t.decl.Name)}
}

func (p scheduledPages) tagOf(at scheduledPlace) uint64 {
	return p.tag(Token{Token: dispatch.Token{Epoch: at.seq, Offset: dispatch.Offset(at.due)}})
}

func (p scheduledPages) token(at scheduledPlace) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64(at.appendTo(nil), p.tagOf(at)))
}

func (p scheduledPages) parse(page string) (scheduledPlace, error) {
	if page == "" {
		return scheduledPlace{}, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(page)
	if err == nil && len(b) == placeSize+8 {
		at, err := placeOf(b[:placeSize], 0)
		if err == nil && binary.BigEndian.Uint64(b[placeSize:]) == p.tagOf(at) {
			return at, nil
		}
	}
	return scheduledPlace{}, fail(BadPageToken, "page_token", "page token %q was not made by this call", clip(page))
}
