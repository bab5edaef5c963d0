package mq

import (
	"runtime/debug"
	"time"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// handling is one call of a handler from its start to its return, and the context that the handler gets (see context.go).
type handling struct {
	session *session
	call    Call
	all     []*delivery // whose messages the handler is called with, but for those that do not decode
	one     [1]*delivery

	result *brokerv1.Settlement // what the return of the handler means, nil for an acknowledgement
	exited bool                 // the handler has ended its goroutine

	context handlerContext

	// Guarded by consumer.mu.
	listed         bool // in session.state.handlings
	next, previous *handling
}

// handlings are in the order in which they began, which is that of their deadlines, but for handlers that settle themselves.
type handlings struct{ first, last *handling }

func (l *handlings) push(h *handling) {
	h.listed, h.previous = true, l.last
	if l.last == nil {
		l.first = h
	} else {
		l.last.next = h
	}
	l.last = h
}

// remove takes h out, if it is there.
func (l *handlings) remove(h *handling) {
	if !h.listed {
		return
	}
	if h.previous == nil {
		l.first = h.next
	} else {
		h.previous.next = h.next
	}
	if h.next == nil {
		l.last = h.previous
	} else {
		h.next.previous = h.previous
	}
	h.listed, h.next, h.previous = false, nil, nil
}

// work calls the handler for what waits, until nothing does or there is no room for another handler.
//
// Whoever begins with a message while more wait has one more goroutine come for them (see startLocked). Handlers that wait for something so
// get company at once, up to the limit; those that just compute follow each other in a few goroutines.
func (c *consumer) work() {
	now := time.Now()
	c.mu.Lock()
	c.mu.coming = false
	var h *handling
	if c.mu.current != nil {
		h = c.mu.current.nextLocked(now)
		c.mu.current.startLocked()
	}
	c.mu.Unlock()
	c.handle(h)
}

// handle carries out a handling and those that follow it.
func (c *consumer) handle(h *handling) {
	defer func() {
		if h == nil || !h.exited {
			return
		}
		if next := h.finish(); next != nil {
			go c.handle(next)
		}
	}()
	for h != nil {
		h.run()
		h = h.finish()
	}
}

// run calls the handler. A panic, in the handler or in the methods of its error, is an error like others, with the stack. A call of
// runtime.Goexit is an error too, and run does not return.
func (h *handling) run() {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			first := h.all[0]
			h.session.consumer.log.Error("a handler panicked", "partition", first.partition, "offset", first.offset, "attempt", first.attempt,
				"panic", p, "stack", string(debug.Stack()))
			h.result = panicOutcome(p)
			return
		}
		h.result, h.exited = retry(errGoexit.Error()), true
	}()
	h.result = verdict(h, h.invoke())
	returned = true
}

// invoke decodes the messages and calls the handler.
func (h *handling) invoke() error {
	c := &h.call
	if c.subscription.style == inBatches {
		return h.invokeBatch()
	}
	d := h.all[0]
	c.items = c.single[:]
	if err := h.awaitEarlier(); err != nil {
		return err
	}
	if err := d.open(&c.single[0]); err != nil {
		return err
	}
	c.failed = c.subscription.handle(h, c)
	return c.failed
}

// judge notes what becomes of each message.
func (h *handling) judge() {
	c := &h.call
	if c.subscription.style == inBatches {
		for _, d := range h.all {
			if d.result == nil {
				d.result = share(h.result) // of one that is not in the call
			}
		}
		for i := range c.items {
			c.items[i].delivery.result = c.outcome(h, i, h.result)
		}
		return
	}
	d := h.all[0]
	d.result = h.result
	if failure := c.Failure(0); failure != nil {
		c.failed = failure
		d.result = c.outcome(h, 0, h.result)
	}
	if c.subscription.style == answering {
		d.result = d.answer(h, c, d.result)
	}
}

// awaitEarlier waits for the handler of an earlier delivery, whose lease was lost, to return: one message, one handler at a time.
func (h *handling) awaitEarlier() error {
	before := h.all[0].before
	if before == nil {
		return nil
	}
	select {
	case <-before:
		return nil
	case <-h.Done():
		return h.Err()
	}
}

// beginLocked notes that a handler is called. The caller sees to it that this happens.
func (s *session) beginLocked(h *handling, now time.Time) {
	c := s.consumer
	c.mu.running++
	c.mu.held += len(h.all)
	s.state.handlers++
	s.state.active += len(h.all)
	for _, d := range h.all {
		if earlier := c.mu.handled.find(d.place); earlier != nil {
			c.mu.handled.remove(earlier)
			if earlier.returned == nil {
				earlier.returned = make(chan struct{})
			}
			d.before = earlier.returned
		}
		c.mu.handled.add(d)
	}
	h.call.deadline = now.Add(s.policy.timeout)
	if s.state.interrupted {
		h.context.ended.Store(&s.endings.interrupted)
	} else {
		s.state.handlings.push(h)
	}
	switch {
	case h.call.Manual(): // its deadline can be put off
		h.call.manual = &manual{delivery: h.all[0], timer: time.AfterFunc(s.policy.timeout, func() { s.expire(h) })}
	case s.state.deadline == nil:
		s.state.deadline, s.state.armed = time.AfterFunc(s.policy.timeout, s.expireDue), true
	case !s.state.armed:
		s.state.deadline.Reset(s.policy.timeout)
		s.state.armed = true
	}
}

// expireDue ends what takes too long. One timer serves all handlers of a session: it is set for the first that began when it fired last.
func (s *session) expireDue() {
	var due []*handling
	s.consumer.mu.Lock()
	now := time.Now()
	h := s.state.handlings.first
	for ; h != nil && !h.call.deadline.After(now); h = h.next {
		due = append(due, h)
	}
	if s.state.armed = h != nil; s.state.armed {
		s.state.deadline.Reset(h.call.deadline.Sub(now))
	}
	s.consumer.mu.Unlock()
	for _, h := range due {
		s.expire(h)
	}
}

// expire ends the context of a handler that takes too long, and settles the messages that are not settled.
func (s *session) expire(h *handling) {
	c := s.consumer
	c.mu.Lock()
	if !h.listed || s.handling.Err() != nil { // it has returned, or its context has ended otherwise
		c.mu.Unlock()
		return
	}
	s.state.handlings.remove(h)
	expired := 0
	for _, d := range h.all {
		if d.settled || s.state.lost {
			continue
		}
		d.settled = true
		s.state.active--
		s.settleLocked(d, d.timedOut(s.timedOut))
		expired++
	}
	c.mu.Unlock()
	h.end(&s.endings.timedOut)
	if expired == 0 {
		return
	}
	signal(s.adjust)
	first := h.all[0]
	c.log.Warn("a handler takes longer than the processing timeout", "partition", first.partition, "offset", first.offset,
		"attempt", first.attempt, "messages", expired, "timeout", s.policy.timeout)
}

// interrupt ends the contexts of all handlers, since that of the session has ended. Their messages are not settled by that: at shutdown the
// handlers have a little time left, and without the stream there is no lease to settle.
func (s *session) interrupt() {
	s.consumer.mu.Lock()
	s.state.interrupted = true
	if s.state.deadline != nil {
		s.state.deadline.Stop()
	}
	var all []*handling
	for h := s.state.handlings.first; h != nil; h = s.state.handlings.first {
		s.state.handlings.remove(h)
		all = append(all, h)
	}
	s.consumer.mu.Unlock()
	for _, h := range all {
		h.end(&s.endings.interrupted)
	}
}

// finish frees the handler's place and reports the outcomes of the messages that are not settled. It returns what this goroutine is to handle
// next, nil if that is nothing.
func (h *handling) finish() (next *handling) {
	h.judge()
	now := time.Now()
	s := h.session
	c := s.consumer
	c.mu.Lock()
	c.mu.running--
	c.mu.held -= len(h.all)
	s.state.handlers--
	s.state.handlings.remove(h)
	if h.call.manual != nil {
		h.call.manual.timer.Stop()
	}
	settled := 0
	for _, d := range h.all {
		if s.finishLocked(d) {
			settled++
		}
	}
	if current := c.mu.current; current != nil {
		next = current.nextLocked(now)
		current.startLocked()
	}
	if settled < len(h.all) || s != c.mu.current {
		// A place was not part of the credit and now is.
		if c.mu.current != nil {
			signal(c.mu.current.adjust)
		}
		signal(s.wake)
	}
	signal(c.returned)
	c.mu.Unlock()
	h.end(&s.endings.returned)
	return next
}

// finishLocked notes that the handler of a message has returned, and reports whether that settles it.
func (s *session) finishLocked(d *delivery) bool {
	c := s.consumer
	c.mu.handled.remove(d)
	if d.returned != nil {
		close(d.returned)
	}
	if d.early {
		s.state.early--
	}
	d.over = true
	if d.committed && !acknowledges(d.result) {
		c.log.Warn("a handler failed after its transaction was applied, which has acknowledged the message", "partition", d.partition,
			"offset", d.offset, "attempt", d.attempt, "error", errorOf(d.result))
	}
	if d.settled {
		return false
	}
	d.settled = true
	s.state.active--
	s.settleLocked(d, d.result)
	return true
}
