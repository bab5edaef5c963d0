package broker

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
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
	ID        string
	Partition uint32
	Offset    int64
	// Priority is its level in a topic with priorities, else 0.
	Priority              uint32
	Reason                string
	Attempts              uint32
	FirstError, LastError string
	Published, Died       time.Time
	// HoldsKey says that later messages of its key wait until it is redriven or discarded.
	HoldsKey bool
	Record   Record
	// JSON is nil if the payload does not decode.
	JSON *structpb.Struct

	number int64 // lane and offset, as in its key
}

// MessageID is the id that a record is known by: its own, or its place.
func MessageID(r Record, partition uint32, lane uint8, offset int64) string {
	if len(r.ID) > 0 {
		return string(r.ID)
	}
	return placeID(partition, lane, offset)
}

// placeID is the id of a message that was published without one: "<partition>-<offset>" in the lowest lane, "<partition>.<priority>-<offset>" above.
func placeID(partition uint32, lane uint8, offset int64) string {
	if lane == 0 {
		return fmt.Sprintf("%d-%d", partition, offset)
	}
	return fmt.Sprintf("%d.%d-%d", partition, int(lane)+1, offset)
}

// parsePlace takes an id made by placeID apart.
func parsePlace(id string) (partition uint32, number int64, ok bool) {
	place, offset, found := strings.Cut(id, "-")
	p, priority, above := strings.Cut(place, ".")
	n, perr := strconv.ParseUint(p, 10, 32)
	o, oerr := strconv.ParseInt(offset, 10, 64)
	lane := uint64(0)
	var lerr error
	if above {
		lane, lerr = strconv.ParseUint(priority, 10, 8)
		lane--
	}
	if !found || perr != nil || oerr != nil || lerr != nil || o < 0 || o >= 1<<laneBits || lane >= 1<<(63-laneBits) || placeID(uint32(n), uint8(lane), o) != id {
		return 0, 0, false
	}
	return uint32(n), laneNumber(uint8(lane), dispatch.Offset(o)), true
}

// DeadLetters lists dead letters of a group in a topic, by partition, priority and offset. id, if not empty, asks for those of one id. The next page
// begins at the token returned, which is empty at the end. Partitions that another sidecar owns are left out, as Groups tells.
// Errors: *Error of reason PartitionAway if no partition is served here, if nothing of the id was found and some are not, or while one changes its owner;
// BadPageToken, TopicUnknown, GroupUnknown, or that of a read or of damage.
func (b *Broker) DeadLetters(ctx context.Context, groupName, topicName, id string, limit int, pageToken string) ([]DeadLetter, string, error) {
	g, refused := b.awake(ctx, groupName, topicName)
	if refused != nil {
		return nil, "", refused
	}
	pages := g.letterPages(listLetters)
	partition, number, err := pages.parse(pageToken)
	if err != nil {
		return nil, "", err
	}
	if p, n, ok := parsePlace(id); ok { // a message with an id of its own cannot have such a one
		return g.deadLetterAt(ctx, p, n, id)
	}
	var out []DeadLetter
	size := 0
	var away error
	for ; partition < len(g.shards); partition, number = partition+1, 0 {
		for d, err := range g.shards[partition].deadLetters(ctx, number) {
			if errors.Is(err, errOwned) {
				away = err
				break
			}
			if err != nil {
				return nil, "", Refusal(err)
			}
			if id != "" && d.ID != id {
				continue
			}
			if size += len(d.Record.raw); len(out) == limit || len(out) > 0 && size > pageBytes {
				return out, pages.token(uint32(partition), d.number), nil
			}
			g.show(&d)
			out = append(out, d)
		}
	}
	if away != nil && len(out) == 0 && (id != "" || !g.servesAny()) {
		return nil, "", Refusal(away)
	}
	return out, "", nil
}

// servesAny tells whether any partition of the group is served here.
func (g *group) servesAny() bool {
	return slices.ContainsFunc(g.shards, func(s *shard) bool {
		_, err := s.storeNow()
		return err == nil
	})
}

// deadLetterAt is the list of the one dead letter at a place, or of none.
func (g *group) deadLetterAt(ctx context.Context, partition uint32, number int64, id string) ([]DeadLetter, string, error) {
	if int(partition) >= len(g.shards) {
		return nil, "", nil
	}
	s := g.shards[partition]
	store, err := s.storeNow()
	if err != nil {
		return nil, "", Refusal(err)
	}
	d, err := s.deadLetterIn(ctx, store, number)
	switch {
	case errors.Is(err, engine.ErrNotFound), err == nil && d.ID != id:
		return nil, "", nil
	case err != nil:
		return nil, "", Refusal(err)
	}
	g.show(&d)
	return []DeadLetter{d}, "", nil
}

// show adds the payload's JSON, and takes the payload away if it would show what JSON leaves out.
func (g *group) show(d *DeadLetter) {
	codec := g.policy.Load().codec
	d.JSON, _ = codec.ToJSON(d.Record.Payload) // absent if the payload does not decode
	if codec.Sensitive() {
		d.Record.Payload = nil
	}
}

// letterPages makes and reads the page tokens of one kind of call on the dead letters of a group in a topic: place and tag, so that one that was
// invented, or made for another group, topic or kind of call, is known.
type letterPages struct {
	tokens
	partitions int
}

// letterCall is a kind of call on dead letters that goes page by page.
type letterCall uint64

const (
	listLetters letterCall = iota + 1
	redriveLetters
	discardLetters
)

func (g *group) letterPages(c letterCall) letterPages {
	return letterPages{tokens{scramble(g.tokens.secret + uint64(c))}, len(g.shards)}
}

// token is that of the page that begins at a dead letter.
func (p letterPages) token(partition uint32, number int64) string {
	b := binary.BigEndian.AppendUint32(nil, partition)
	b = binary.BigEndian.AppendUint64(b, uint64(number))
	b = binary.BigEndian.AppendUint64(b, p.tag(Token{Token: dispatch.Token{Offset: dispatch.Offset(number)}, Partition: partition}))
	return base64.RawURLEncoding.EncodeToString(b)
}

// parse is where a page begins: for the empty token at the first dead letter.
func (p letterPages) parse(token string) (partition int, number int64, err error) {
	if token == "" {
		return 0, 0, nil
	}
	if b, err := base64.RawURLEncoding.DecodeString(token); err == nil && len(b) == 4+8+8 {
		at, number := binary.BigEndian.Uint32(b), int64(binary.BigEndian.Uint64(b[4:]))
		if int64(at) < int64(p.partitions) && number >= 0 && p.token(at, number) == token {
			return int(at), number, nil
		}
	}
	return 0, 0, fail(BadPageToken, "page_token", "page token %q was not made by this call", clip(token))
}

// storeNow is the shard's map, to be read past its goroutine.
func (s *shard) storeNow() (engine.Shard, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.store == nil {
		return nil, errors.Join(errNotServing, s.mu.fault)
	}
	return s.mu.store, nil
}

// deadLetters yields a shard's dead letters from a number on, with an error at last if there is one. It reads the store past the shard's goroutine.
func (s *shard) deadLetters(ctx context.Context, from int64) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		store, err := s.storeNow()
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		for pair, err := range store.Scan(ctx, []byte{keyDeadLetter}, shardKey(keyDeadLetter, from)) {
			if err != nil {
				yield(DeadLetter{}, err)
				return
			}
			number, err := keyNumber(pair.Key)
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("shard %v: %w", s.id, err))
				return
			}
			if d, err := s.parseDeadLetter(number, pair.Value); !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// deadLetterIn reads one dead letter. Error: engine.ErrNotFound if there is none.
func (s *shard) deadLetterIn(ctx context.Context, store engine.Shard, number int64) (DeadLetter, error) {
	value, err := store.Get(ctx, shardKey(keyDeadLetter, number))
	if err != nil {
		return DeadLetter{}, err
	}
	return s.parseDeadLetter(number, value)
}

// parseDeadLetter reads a value. It keeps no reference to it.
func (s *shard) parseDeadLetter(number int64, value []byte) (DeadLetter, error) {
	var stored storagev1.DeadLetter
	if err := proto.Unmarshal(value, &stored); err != nil {
		return DeadLetter{}, fmt.Errorf("shard %v, dead letter %x: %w", s.id, number, err)
	}
	r, err := ParseRecord(stored.GetRecord())
	if err != nil {
		return DeadLetter{}, fmt.Errorf("shard %v, dead letter %x: %w", s.id, number, err)
	}
	lane, offset := laneOf(number)
	d := DeadLetter{
		ID: MessageID(r, s.partition, lane, int64(offset)), Partition: s.partition, Offset: int64(offset), Reason: stored.GetReason(), Attempts: stored.GetAttempts(),
		FirstError: stored.GetFirstError(), LastError: stored.GetLastError(), HoldsKey: stored.GetHoldsKey(),
		Published: time.UnixMilli(stored.GetAppendTimeMs()), Died: time.UnixMilli(stored.GetDiedMs()), Record: r, number: number,
	}
	if s.group.levels() > 1 {
		d.Priority = uint32(lane) + 1
	}
	return d, nil
}
