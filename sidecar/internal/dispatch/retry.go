package dispatch

import (
	"strings"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/mutant"
)

// failure is what is remembered of a message that was attempted or put off.
type failure struct {
	attempts    uint32
	losses      uint32 // sessions that vanished with it
	first, last string
	due         Instant
	wait        time.Duration
}

func (p *Partition) nack(now Instant, ev Nack) error {
	e, err := p.holder(ev.Token)
	if err != nil {
		return err
	}
	p.survived(ev.Token.Offset, e)
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
	p.survived(ev.Token.Offset, e)
	p.putOff(now, ev.Token.Offset, e, p.failureOf(ev.Token.Offset, e), ev.Delay)
	return nil
}

// fail counts an attempt.
func (p *Partition) fail(o Offset, e *entry, text string) *failure {
	f := p.failureOf(o, e)
	f.attempts++
	p.texts -= len(f.last)
	f.last = p.text(text)
	if f.attempts == 1 {
		p.texts -= len(f.first)
		f.first = p.text(text)
	}
	return f
}

const (
	// maxTexts is how many bytes of errors the messages of a partition keep in memory before the texts of further ones are cut.
	maxTexts = 16 << 20
	// cutText is what is kept of those.
	cutText = 128
)

// text takes an error's text into account.
func (p *Partition) text(s string) string {
	if p.texts > maxTexts && len(s) > cutText {
		s = strings.ToValidUTF8(s[:cutText], "")
	}
	p.texts += len(s)
	return s
}

// lose notes that a session vanished with a leased message. No attempt is counted, but a message that takes its sessions along is
// leased on its own after some, and becomes a dead letter in the end.
func (p *Partition) lose(o Offset, e *entry) {
	p.tally.Losses++
	f := p.failureOf(o, e)
	f.losses++
	if p.cfg.MaxLosses > 0 && f.losses >= p.cfg.MaxLosses {
		if f.attempts == 0 {
			f.first, f.last = p.text(vanished), p.text(vanished)
		}
		p.bury(o, e, f, ConsumersLost)
		return
	}
	p.saveFailure(o, f)
	p.requeue(o, e)
	p.changed(true)
}

// survived notes that a session had the message and is still there.
func (p *Partition) survived(o Offset, e *entry) {
	if e.failed {
		p.failures[o].losses = 0
	}
}

// vanished is the error of a message that never was attempted to the end.
const vanished = "consumer vanished"

// known is what is remembered of a message's attempts, nothing if there were none.
func (p *Partition) known(o Offset) *failure {
	if f := p.failures[o]; f != nil {
		return f
	}
	return new(failure)
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

// putOff lets a leased message wait. e is not valid any longer afterwards.
func (p *Partition) putOff(now Instant, o Offset, e *entry, f *failure, wait time.Duration) {
	f.due, f.wait = now.Add(wait), wait
	p.saveFailure(o, f)
	p.leaveState(o, e)
	p.count.Ready++
	e.state = ready
	if mutant.On(mutant.RequeueAtTail) {
		p.openGate(e)
	}
	p.wait(o, e, f.due)
	if !e.redriven {
		p.thin(p.pages.at(int64(o) / BlockSize))
	}
	p.changed(true)
}

// wait makes a ready message wait.
func (p *Partition) wait(o Offset, e *entry, due Instant) {
	p.count.Ready--
	p.count.Waiting++
	e.state = waiting
	p.setTimer(timer{at: due, offset: o, lease: e.lease, kind: waitEnds})
}

// saveFailure puts a failure into the pending save. A later one of the same offset wins.
func (p *Partition) saveFailure(o Offset, f *failure) {
	p.pending.Save.Failures = append(p.pending.Save.Failures,
		Failure{Offset: o, Attempts: f.attempts, Losses: f.losses, FirstError: f.first, LastError: f.last, Due: f.due, Wait: f.wait})
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

// redrive makes a dead letter a message of the group again. If the log will bring the message anyway, after a seek, that is enough.
func (p *Partition) redrive(m Message) {
	key, held := p.letGo(m.Offset)
	if _, ok := p.redriven[m.Offset]; ok {
		return
	}
	if p.awaits(m.Offset) {
		p.pending.Save.DropRedriven = append(p.pending.Save.DropRedriven, m.Offset)
		p.changed(true)
		if held {
			p.passHeld(key)
		}
		return
	}
	e := &entry{key: p.gateKey(m.Key), size: m.Size, expires: m.Expires, next: none, state: ready, redriven: true}
	_, e.failed = p.failures[m.Offset]
	p.redriven[m.Offset] = e
	p.count.Ready++
	p.changed(true)
	if p.admit(m.Offset, e) { // so that it goes before what waits for it
		p.queueOf(m.Offset, e).push(m.Offset)
	}
}

// awaits tells whether a message of the log is not settled, fetched or not.
func (p *Partition) awaits(o Offset) bool {
	if o >= p.cursor {
		return o >= p.begin && !p.wasSettled(o)
	}
	e := p.pages.entry(o)
	return o >= p.floor && e != nil && e.state != settled
}
