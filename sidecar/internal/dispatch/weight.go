package dispatch

// Weight is what the machine keeps beside its messages.
type Weight struct {
	// Timers are instants to come. There is one for each message that waits and for each extension of a lease that was granted, also when the message
	// is settled before.
	Timers int
	// Waiting are the messages that wait.
	Waiting int
	// Failures are the messages that were attempted and are not settled.
	Failures int
	// Gates are keys that are held.
	Gates int
}

// Weight tells what the machine keeps.
func (p *Partition) Weight() Weight {
	return Weight{Timers: len(p.timers.heap), Waiting: p.count.Waiting, Failures: len(p.failures), Gates: p.gates.count}
}

// Add takes the weight of another machine in.
func (w *Weight) Add(o Weight) {
	w.Timers += o.Timers
	w.Waiting += o.Waiting
	w.Failures += o.Failures
	w.Gates += o.Gates
}
