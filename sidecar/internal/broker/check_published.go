package broker

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// What to do about damage of what is only remembered.
const doForget = "nothing is lost but the memory of what was published: what is sent again may be stored twice"

// ledger checks that what is remembered of publishing decodes.
func (c *stateCheck) ledger(ctx context.Context) error {
	for pair, err := range c.store.Pairs(ctx, ledgerShard) {
		if err != nil {
			return err
		}
		if what := c.ledgerEntry(pair); what != "" {
			c.find("published", fmt.Sprintf("key %x", pair.Key), 0, what, doForget)
		}
	}
	return nil
}

// ledgerEntry is what is wrong with an entry of the ledger, empty if nothing is.
func (c *stateCheck) ledgerEntry(pair engine.Pair) string {
	var err error
	switch {
	case len(pair.Key) > 0 && pair.Key[0] == keySegment:
		var t engine.TopicID
		if t, _, err = segmentOf(pair.Key); err == nil {
			_, err = parseSegment(pair.Value)
		}
		if err == nil && c.sound && c.topics[t] == nil {
			return fmt.Sprintf("it is of topic number %d, which the catalogue does not have", t)
		}
	case len(pair.Key) == 1+16 && pair.Key[0] == keyProducer:
		_, err = parseProducer(pair.Value)
	case len(pair.Key) == 1+8+16 && pair.Key[0] == keySeen:
	default:
		return "the key is of no kind that this version knows"
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// remembered checks that transactions decode, and that each that is to be forgotten some day is there.
func (c *stateCheck) remembered(ctx context.Context) error {
	fault := func(key []byte, what string) { c.find("transactions", fmt.Sprintf("key %x", key), 0, what, doForget) }
	for pair, err := range c.store.Pairs(ctx, transactionsShard) {
		if err != nil {
			return err
		}
		switch {
		case len(pair.Key) == 1+TransactionIDSize && pair.Key[0] == keyApplied:
			m, err := parseApplied(transactionID(pair.Key[1:]), pair.Value)
			if err == nil {
				_, err = firstsOf(m)
			}
			if err != nil {
				fault(pair.Key, err.Error())
			}
		case len(pair.Key) > 0 && pair.Key[0] == keyAge:
			_, id, err := parseAgeKey(pair.Key)
			if err != nil {
				fault(pair.Key, err.Error())
				continue
			}
			switch has, err := c.has(ctx, transactionsShard, appliedKey(id)); {
			case err != nil && !errors.Is(err, engine.ErrNotFound):
				return err
			case !has:
				fault(pair.Key, fmt.Sprintf("transaction %x is to be forgotten and is not there", id))
			}
		case len(pair.Key) == 1 && pair.Key[0] == keyClock:
			if err := proto.Unmarshal(pair.Value, new(storagev1.ClockMark)); err != nil {
				fault(pair.Key, fmt.Sprintf("the latest time of day does not decode (%v)", err))
			}
		default:
			fault(pair.Key, "the key is of no kind that this version knows")
		}
	}
	return nil
}
