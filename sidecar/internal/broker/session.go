package broker

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// Session is a consumer's presence in a group. It lives from Join to Close, or until nothing was heard of it for the group's lease.
type Session struct {
	ID     dispatch.SessionID
	Client string
	Lease  time.Duration
	group  *group
	// passing says that it takes messages once and goes: no partition belongs to it.
	passing bool

	budget budget
	until  atomic.Int64 // end of its leases as heartbeats put it; a shard looks at it before it does anything else

	mu struct {
		sync.Mutex
		queue    []Run
		unsent   int // bytes of records in queue
		err      *Error
		draining bool
		alive    bool // a heartbeat was taken and not confirmed yet
	}
	wake chan struct{} // holds a token when there is something to take
	gone chan struct{} // closed with the session
	once sync.Once
}

// Join adds a consumer to a group, at which up to credits messages, and about creditBytes bytes of records, may be unsettled at a time:
// a message is leased if it fits, or if the consumer has no other. creditBytes of 0 is DefaultCreditBytes.
func (b *Broker) Join(groupName, topicName, client string, credits int, creditBytes int64) (*Session, error) {
	g, refused := b.group(groupName, topicName)
	if refused != nil {
		return nil, refused
	}
	if err := checkCredits(credits, creditBytes); err != nil {
		return nil, err
	}
	if creditBytes == 0 {
		creditBytes = DefaultCreditBytes
	}
	if b.draining.Load() {
		return nil, fail(Draining, "", "the sidecar is shutting down")
	}
	s := g.newSession(client, credits, creditBytes, g.lease(), false)
	g.wakeUp() // after it is in the group, whose shards look for those that are there
	s.group.eachShard(task{do: func(sv *serving) { sv.join(s) }})
	if b.draining.Load() { // since the look above: Drain may have missed the session
		s.drain()
	}
	return s, nil
}

func (g *group) newSession(client string, credits int, creditBytes int64, lease time.Duration, passing bool) *Session {
	s := &Session{
		ID: dispatch.SessionID(g.broker.lastID.Add(1)), Client: client, Lease: lease, group: g, passing: passing,
		wake: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	s.budget.messages, s.budget.bytes = int64(credits), creditBytes
	g.arrive(s)
	return s
}

// ProcessingTimeout is how long the group gives a handler.
func (s *Session) ProcessingTimeout() time.Duration {
	return s.group.policy.Load().decl.ProcessingTimeout
}

// Heartbeat keeps the session's leases.
func (s *Session) Heartbeat() {
	s.until.Store(int64(s.group.broker.now().Add(s.Lease)))
	s.mu.Lock()
	s.mu.alive = true
	s.mu.Unlock()
	s.signal()
}

// News is what a session has to tell its consumer.
type News struct {
	Slices []Slice
	Signals
}

// Signals are what a session has to tell its consumer beside deliveries.
type Signals struct {
	// Drain says, once, that nothing more will be leased.
	Drain bool
	// Alive says that a heartbeat was taken.
	Alive bool
}

// Next returns what came up since the last call, waiting for it, with up to about maxBytes of records.
// Errors: *Error when the session is over, and that of ctx.
func (s *Session) Next(ctx context.Context, maxBytes int) (News, error) {
	runs, signals, err := s.Take(ctx, nil, maxBytes)
	if err != nil {
		return News{}, err
	}
	news := News{Signals: signals, Slices: make([]Slice, len(runs))}
	for i := range runs {
		news.Slices[i] = runs[i].Slice()
	}
	return news, nil
}

// Take is Next for those who encode deliveries themselves: it adds them to runs.
func (s *Session) Take(ctx context.Context, runs []Run, maxBytes int) ([]Run, Signals, error) {
	for {
		s.group.broker.turn(s)
		select {
		case <-s.wake: // what it tells of is looked at now
		default:
		}
		if taken, signals, ok := s.news(runs, maxBytes); ok {
			return taken, signals, nil
		}
		select {
		case <-s.gone:
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.mu.err != nil {
				return runs, Signals{}, s.mu.err
			}
			return runs, Signals{}, fail(SessionLost, "", "the session is closed")
		default:
		}
		select {
		case <-s.wake:
		case <-s.gone:
		case <-ctx.Done():
			return runs, Signals{}, ctx.Err()
		}
	}
}

// String names the goroutine that takes the session's news.
func (s *Session) String() string { return fmt.Sprintf("session %d", s.ID) }

func (s *Session) news(runs []Run, maxBytes int) ([]Run, Signals, bool) {
	s.mu.Lock()
	size, n := 0, 0
	for n < len(s.mu.queue) && (n == 0 || size < maxBytes) {
		size += s.mu.queue[n].size
		n++
	}
	runs = append(runs, s.mu.queue[:n]...)
	clear(s.mu.queue[:n]) // what was taken is not kept alive by what follows it
	if n == len(s.mu.queue) && cap(s.mu.queue) <= keptQueue {
		s.mu.queue = s.mu.queue[:0]
	} else if s.mu.queue = s.mu.queue[n:]; len(s.mu.queue) == 0 {
		s.mu.queue = nil
	}
	signals := Signals{Drain: s.mu.draining, Alive: s.mu.alive}
	s.mu.draining, s.mu.alive = false, false
	wasFull := s.full()
	s.mu.unsent -= size
	room := wasFull && !s.full()
	s.mu.Unlock()
	if room {
		s.gotRoom()
	}
	return runs, signals, n > 0 || signals.Drain || signals.Alive
}

// keptQueue is how long a queue is whose memory an empty session keeps.
const keptQueue = 64

// MaxUnsentBytes is how many bytes of records may wait at a session to be sent. While there are as many, it is leased no more, whatever its credits are: what a
// consumer does not read yet stays on disk. Each partition may go beyond it by what it leases at a time.
const MaxUnsentBytes = 2 << 20

// full tells whether no more may wait. Its caller holds the lock. What is pulled is taken at once when all is there, and bounded by that call.
func (s *Session) full() bool { return !s.passing && s.mu.unsent >= MaxUnsentBytes }

// unread is full for those who do not hold the lock.
func (s *Session) unread() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.full()
}

// gotRoom lets shards lease to the session again.
func (s *Session) gotRoom() {
	s.budget.Lock()
	s.budget.freed++
	s.budget.Unlock()
	s.group.creditsFree(s.room())
}

// unsent takes the runs of a partition that were never sent.
func (s *Session) unsent(partition uint32) (taken []Run) {
	s.mu.Lock()
	wasFull := s.full()
	kept := s.mu.queue[:0]
	for _, run := range s.mu.queue {
		if run.Partition == partition {
			taken = append(taken, run)
			s.mu.unsent -= run.size
		} else {
			kept = append(kept, run)
		}
	}
	clear(s.mu.queue[len(kept):])
	s.mu.queue = kept
	room := wasFull && !s.full()
	s.mu.Unlock()
	if room {
		s.gotRoom()
	}
	return taken
}

// Close ends the session. What it has leased goes to others; with crashed a loss is counted for what was sent to it.
func (s *Session) Close(crashed bool) {
	s.end(nil)
	s.group.eachShard(task{do: func(sv *serving) { sv.leave(s, crashed) }})
}

// end takes the session out of its group. err is what Next returns from then on.
func (s *Session) end(err *Error) {
	s.once.Do(func() {
		s.mu.Lock()
		s.mu.err = err
		s.mu.Unlock()
		close(s.gone)
		s.group.depart(s)
	})
}

// drain tells the consumer that nothing more will come.
func (s *Session) drain() {
	s.mu.Lock()
	s.mu.draining = true
	s.mu.Unlock()
	s.signal()
}

func (s *Session) push(run Run) {
	s.mu.Lock()
	s.mu.queue = append(s.mu.queue, run)
	s.mu.unsent += run.size
	s.mu.Unlock()
	s.signal()
}

func (s *Session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// eachShard makes a call to every shard. A shard without a machine passes it over.
func (g *group) eachShard(t task) {
	for _, sh := range g.shards {
		sh.call(t)
	}
}
