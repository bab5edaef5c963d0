package broker

import (
	"cmp"
	"container/list"
	"slices"
	"time"
)

const (
	// ProducerIdle is how long a producer that is not heard of is remembered at least: what it sends again later may be stored twice.
	ProducerIdle = time.Hour
	// MaxUnanswered bounds the numbered batches of a producer from the first one that it has no answer to, and maxUnansweredRecords their records.
	MaxUnanswered        = 1024
	maxUnansweredRecords = 200_000

	// seenEvery is how often it is noted that a producer is there.
	seenEvery = 10 * time.Minute
	// heldProducers and heldRecords bound what is in memory of producers, and of the records of their answers: 12 bytes each. Others are on disk.
	heldProducers = 4096
	heldRecords   = 1 << 20
)

// producer is what is known of who numbers batches. It is not changed, but replaced when a commit succeeded.
type producer struct {
	below   uint64   // batches below are not sent again
	answers []answer // those that may be asked for, by number
	seenMS  int64    // the last note in the store that it was there
}

// answer is the first answer to a numbered batch.
type answer struct {
	number, sum uint64
	Placement
}

func compareNumbers(a, b uint64) int { return cmp.Compare(a, b) }

func (p *producer) find(number uint64) (answer, bool) {
	i, ok := slices.BinarySearchFunc(p.answers, number, func(a answer, n uint64) int { return compareNumbers(a.number, n) })
	if !ok {
		return answer{}, false
	}
	return p.answers[i], true
}

func (p *producer) records() (n int) {
	for _, a := range p.answers {
		n += len(a.Partitions)
	}
	return n
}

// since is the producer without what it has the answers to.
func (p *producer) since(below uint64) *producer {
	if below <= p.below {
		return p
	}
	q := *p
	q.below = below
	i, _ := slices.BinarySearchFunc(p.answers, below, func(a answer, n uint64) int { return compareNumbers(a.number, n) })
	q.answers = p.answers[i:]
	return &q
}

// with is the producer with the answers to more batches, which have their places.
func (p *producer) with(added []*routed) *producer {
	q := *p
	q.answers = slices.Clip(q.answers)
	for _, r := range added {
		q.answers = append(q.answers, answer{r.number, r.sum, *r.out})
	}
	slices.SortFunc(q.answers, func(a, b answer) int { return compareNumbers(a.number, b.number) })
	return &q
}

// producers are those that were heard of last.
type producers struct {
	held    map[[16]byte]*list.Element
	order   *list.List // of *heldProducer, the last one heard of in front
	records int
}

type heldProducer struct {
	id [16]byte
	*producer
	records int
}

func newProducers() *producers {
	return &producers{held: make(map[[16]byte]*list.Element), order: list.New()}
}

// get returns what is in memory of a producer, or nil.
func (ps *producers) get(id [16]byte) *producer {
	e, ok := ps.held[id]
	if !ok {
		return nil
	}
	ps.order.MoveToFront(e)
	return e.Value.(*heldProducer).producer
}

func (ps *producers) set(id [16]byte, p *producer) {
	e, ok := ps.held[id]
	if !ok {
		e = ps.order.PushFront(&heldProducer{id: id})
		ps.held[id] = e
	}
	ps.order.MoveToFront(e)
	held := e.Value.(*heldProducer)
	ps.records -= held.records
	held.producer, held.records = p, p.records()
	ps.records += held.records
	for ps.order.Len() > 1 && (ps.order.Len() > heldProducers || ps.records > heldRecords) {
		ps.drop(ps.order.Back().Value.(*heldProducer).id)
	}
}

func (ps *producers) drop(id [16]byte) {
	if e, ok := ps.held[id]; ok {
		ps.records -= e.Value.(*heldProducer).records
		ps.order.Remove(e)
		delete(ps.held, id)
	}
}
