package mq

// handled holds deliveries whose handlers have not returned, the last of each message. It is a hash table of fixed size, chained by the next of the
// deliveries: two operations on a map for each message cost more than the rest of what is done under the consumer's lock.
type handled struct{ buckets []*delivery }

// newHandled returns one that is fast for n deliveries.
func newHandled(n int) handled {
	size := 16
	for size < min(n, 4096) {
		size *= 2
	}
	return handled{make([]*delivery, size)}
}

// bucket is where a place is looked for. Messages that are handled at a time have offsets that are near to each other.
func (t *handled) bucket(p place) **delivery {
	i := uint64(p.offset) + uint64(p.partition)*31 + uint64(p.priority)*17
	return &t.buckets[i&uint64(len(t.buckets)-1)]
}

// find returns the delivery of a message, nil if there is none.
func (t *handled) find(p place) *delivery {
	d := *t.bucket(p)
	for d != nil && d.place != p {
		d = d.next
	}
	return d
}

// add adds a delivery of a message that is not there.
func (t *handled) add(d *delivery) {
	at := t.bucket(d.place)
	d.next, *at = *at, d
}

// remove takes a delivery out, if it is there.
func (t *handled) remove(d *delivery) {
	for at := t.bucket(d.place); *at != nil; at = &(*at).next {
		if *at == d {
			*at, d.next = d.next, nil
			return
		}
	}
}
