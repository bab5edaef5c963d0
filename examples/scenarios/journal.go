package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
)

// handling is one call of a handler.
type handling struct {
	id         string // of what the message is about
	meta       mq.Meta
	begin, end time.Time
	err        error // what the handler returned
}

// journal notes what handlers do, for the check at the end. It is part of this example, not of what typedmq asks of a service. It is safe for
// concurrent use.
type journal struct {
	mu struct {
		sync.Mutex
		begun   int
		entries []handling // in the order of their end
	}
}

// handle does the work of a handler and notes it.
func (j *journal) handle(ctx context.Context, id string, work func() error) error {
	h := handling{id: id, meta: mq.MetaFrom(ctx), begin: time.Now()}
	j.mu.Lock()
	j.mu.begun++
	j.mu.Unlock()
	h.err = work()
	h.end = time.Now()
	j.mu.Lock()
	j.mu.entries = append(j.mu.entries, h)
	j.mu.Unlock()
	return h.err
}

// begun is how many calls began.
func (j *journal) begun() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mu.begun
}

// all returns the calls that ended, in the order in which they began.
func (j *journal) all() []handling {
	j.mu.Lock()
	entries := slices.Clone(j.mu.entries)
	j.mu.Unlock()
	slices.SortStableFunc(entries, func(a, b handling) int { return a.begin.Compare(b.begin) })
	return entries
}

// done counts the calls that returned nil, by id.
func (j *journal) done() map[string]int {
	j.mu.Lock()
	defer j.mu.Unlock()
	count := map[string]int{}
	for _, h := range j.mu.entries {
		if h.err == nil {
			count[h.id]++
		}
	}
	return count
}

// by puts calls together that agree in what of returns, each list in its order.
func by[K comparable](entries []handling, of func(handling) K) map[K][]handling {
	lists := map[K][]handling{}
	for _, h := range entries {
		lists[of(h)] = append(lists[of(h)], h)
	}
	return lists
}

func byID(entries []handling) map[string][]handling {
	return by(entries, func(h handling) string { return h.id })
}
