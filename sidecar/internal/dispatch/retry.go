package dispatch

import "time"

// failure is what is remembered of a message that was attempted or put off.
type failure struct {
	attempts    uint32
	first, last string
	due         Instant
	wait        time.Duration
}

func (p *Partition) nack(now Instant, ev Nack) error {
	e, err := p.holder(ev.Token)
	if err != nil {
		return err
	}
	p.attempted(now, ev.Token.Offset, e, ev.Error, ev.After)
	return nil
}

// attempted counts an attempt that came to nothing. A negative wait means the policy's.
func (p *Partition) attempted(now Instant, o Offset, e *entry, text string, wait time.Duration) {
	f := p.fail(o, e, text)
	if f.attempts >= p.cfg.Retry.MaxAttempts {
		p.bury(o, e, f, AttemptsSpent)
		return
	}
	if wait < 0 {
		wait = p.backoff(o, f.attempts)
	}
	p.putOff(now, o, e, f, wait)
}

func (p *Partition) snooze(now Instant, ev Snooze) error {
	e, err := p.holder(ev.Token)
	if err != nil {
		return err
	}
	p.putOff(now, ev.Token.Offset, e, p.failureOf(ev.Token.Offset, e), ev.Delay)
	return nil
}

// fail counts an attempt.
func (p *Partition) fail(o Offset, e *entry, text string) *failure {
	f := p.failureOf(o, e)
	f.attempts++
	if f.attempts == 1 {
		f.first = text
	}
	f.last = text
	return f
}

func (p *Partition) failureOf(o Offset, e *entry) *failure {
	f := p.failures[o]
	if f == nil {
		f = new(failure)
		p.failures[o] = f
		e.failed = true
	}
	return f
}

// putOff lets a leased message wait.
func (p *Partition) putOff(now Instant, o Offset, e *entry, f *failure, wait time.Duration) {
	f.due, f.wait = now.Add(wait), wait
	p.saveFailure(o, f)
	p.leaveState(o, e)
	p.count.Ready++
	e.state = ready
	p.wait(o, e, f.due)
	p.changed(true)
}

// wait makes a ready message wait.
func (p *Partition) wait(o Offset, e *entry, due Instant) {
	p.count.Ready--
	p.count.Waiting++
	e.state = waiting
	p.timers.push(timer{at: due, offset: o, lease: e.lease, kind: waitEnds})
}

// saveFailure puts a failure into the pending save. A later one of the same offset wins.
func (p *Partition) saveFailure(o Offset, f *failure) {
	p.pending.Save.Failures = append(p.pending.Save.Failures,
		Failure{Offset: o, Attempts: f.attempts, FirstError: f.first, LastError: f.last, Due: f.due, Wait: f.wait})
}

// backoff is the wait after so many attempts: exponential, capped, and up to the share of Jitter longer.
func (p *Partition) backoff(o Offset, attempts uint32) time.Duration {
	r := p.cfg.Retry
	wait := float64(r.Initial)
	for i := uint32(1); i < attempts && wait < float64(r.Max); i++ {
		wait *= r.Coefficient
	}
	wait = min(wait, float64(r.Max))
	share := float64(mix(p.cfg.JitterSeed^uint64(o)<<16^uint64(attempts))>>11) / (1 << 53)
	return time.Duration(wait + wait*r.Jitter*share)
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// redrive makes a dead letter a message of the group again.
func (p *Partition) redrive(now Instant, m Message) {
	if _, ok := p.redriven[m.Offset]; ok {
		return
	}
	e := &entry{key: m.Key, next: none, state: ready, redriven: true}
	switch p.cfg.Ordering {
	case PerPartition:
		e.key = 1
	case Unordered:
		e.key = NoKey
	}
	_, e.failed = p.failures[m.Offset]
	p.redriven[m.Offset] = e
	p.count.Ready++
	p.again.push(m.Offset)
	p.changed(true)
}
