package sim

import (
	"maps"
	"slices"
)

// transacted is what the history tells of a transaction.
type transacted struct {
	uids    []uint64 // published
	acks    []Event  // Settle
	cancels []uint64
	result  Result
}

// takePart takes in a part of a transaction before the history is gone through.
func (c *checker) takePart(e *Event) {
	t := c.txs[e.Tx]
	if t == nil {
		t = &transacted{result: Unknown}
		c.txs[e.Tx] = t
	}
	switch e.Kind {
	case Publish:
		t.uids = append(t.uids, e.UID)
	case Settle:
		t.acks = append(t.acks, *e)
	case Cancel:
		t.cancels = append(t.cancels, e.UID)
	case Published, Settled: // an id that was unknown is no failure of the transaction
		t.result = e.Result
	}
}

// transactions judges each transaction by what is there in the end: all of it or nothing.
func (c *checker) transactions() {
	for _, n := range slices.Sorted(maps.Keys(c.txs)) {
		t := c.txs[n]
		applied, known := c.applied(n, t)
		switch {
		case !known:
		case applied:
			c.allOf(n, t)
		case t.result == Unknown: // what it was to acknowledge and to cancel cannot be gone on its account
			for i := range t.acks {
				e := &t.acks[i]
				c.models[groupName{e.Group, e.Topic}].fate(place{e.Partition, e.Offset}).acks--
			}
			for _, uid := range t.cancels {
				c.published[uid].cancels--
			}
		}
	}
}

// applied tells whether a transaction was applied, and whether that is known. That some of its records are there and others are not is a violation.
func (c *checker) applied(n int, t *transacted) (applied, known bool) {
	var there, missing uint64
	for _, uid := range t.uids {
		p := c.published[uid]
		switch {
		case c.seen[uid]:
			there = uid
		case c.plan.topic(p.Topic).Queue, p.cancels > 0, p.canceled: // it may have been there
		default:
			missing = uid
		}
	}
	switch {
	case there != 0 && missing != 0:
		c.violate(13, "of transaction %d uid %d is there and uid %d is not", n, there, missing)
	case there != 0 && t.result == Fail:
		c.violate(13, "transaction %d was refused and uid %d is there", n, there)
	case missing != 0 && t.result == OK:
		c.violate(13, "transaction %d was confirmed and uid %d is not there", n, missing)
	}
	return there != 0 || t.result == OK, there != 0 || missing != 0 || t.result != Unknown
}

// allOf judges what a transaction that was applied has acknowledged: nobody gets it any more. A token that was good when the transaction was applied is of the last
// lease that there ever was.
func (c *checker) allOf(n int, t *transacted) {
	for i := range t.acks {
		e := &t.acks[i]
		f := c.models[groupName{e.Group, e.Topic}].fate(place{e.Partition, e.Offset})
		for _, l := range f.leases {
			if l.epoch > e.Epoch || l.epoch == e.Epoch && l.lease > e.Lease {
				c.violate(13, "transaction %d was applied and uid %d, which it acknowledged under lease %d of epoch %d, was delivered under lease %d of epoch %d",
					n, e.UID, e.Lease, e.Epoch, l.lease, l.epoch)
			}
		}
		f.acked = true
	}
}
