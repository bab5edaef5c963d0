package mq

import (
	"errors"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// A transaction that acknowledges a delivery holds it from before it is sent until its fate is known: the processing timeout and the handler's return
// do not settle it meanwhile, but leave their outcome for the case that the transaction fails.

// fate is what became of a transaction.
type fate uint8

const (
	applied  fate = iota
	refused       // nothing was applied
	doubtful      // it is not known
)

// hold holds all of the deliveries, or none and returns why.
func hold(all []*delivery) error {
	for i, d := range all {
		if err := d.hold(); err != nil {
			conclude(all[:i], refused)
			return err
		}
	}
	return nil
}

func (d *delivery) hold() error {
	c := d.session.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := d.openLocked(); err != nil {
		return err
	}
	d.held = true
	return nil
}

// conclude ends what hold began.
func conclude(all []*delivery, f fate) {
	for _, d := range all {
		d.conclude(f)
	}
}

func (d *delivery) conclude(f fate) {
	s := d.session
	s.consumer.mu.Lock()
	defer s.consumer.mu.Unlock()
	d.held = false
	judged, outcome := d.judged, d.outcome
	d.judged, d.outcome = false, nil
	switch f {
	case applied:
		d.committed = true
		if !d.settled {
			d.settled = true
			s.state.active--
			d.early = true
			s.state.early++
			signal(s.adjust)
		}
		s.consumer.worker.counts.acked.Add(1)
		s.state.open--
		s.checkDrainedLocked()
	case doubtful:
		d.doubtful = true
		if judged {
			s.settleLocked(d, outcome)
		}
	case refused:
		if judged {
			s.settleLocked(d, outcome)
		}
	}
}

// isCommitted reports whether a transaction has acknowledged the delivery, which may be nil.
func (d *delivery) isCommitted() bool {
	if d == nil {
		return false
	}
	c := d.session.consumer
	c.mu.Lock()
	defer c.mu.Unlock()
	return d.committed
}

// settleLocked reports the outcome of a delivery for which nobody else will, or leaves it to the transaction that holds it.
func (s *session) settleLocked(d *delivery, outcome *brokerv1.Settlement) {
	if d.held {
		d.judged, d.outcome = true, outcome
		return
	}
	if d.doubtful && acknowledges(outcome) {
		outcome = retry(errDoubtful.Error())
	}
	if !s.state.lost || worthReporting(outcome) {
		s.reportLocked(d, outcome)
	}
}

// errDoubtful is why a message that its handler acknowledges is tried again: if its transaction was applied, that comes too late and changes
// nothing, and if not, the message is not done.
var errDoubtful = errors.New("it is not known whether the transaction of the message was applied")

// errorOf is the text of the error that an outcome carries.
func errorOf(outcome *brokerv1.Settlement) string {
	switch o := outcome.GetOutcome().(type) {
	case *brokerv1.Settlement_Retry_:
		return o.Retry.GetError()
	case *brokerv1.Settlement_Reject_:
		return o.Reject.GetError()
	default:
		return ""
	}
}

func acknowledges(outcome *brokerv1.Settlement) bool {
	if outcome == nil {
		return true
	}
	_, ok := outcome.GetOutcome().(*brokerv1.Settlement_Ack_)
	return ok
}
