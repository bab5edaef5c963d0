package broker

// Counters count what happened in a partition since the sidecar started.
type Counters struct {
	Delivered, Acknowledged, Skipped, Filtered, Retried, DeadLettered, ExpiredLeases, Redriven, Discarded int64
	FilterErrors                                                                                          int64
	// Expired counts messages that were not worth a delivery any more, whether they became dead letters or not.
	Expired int64
	// Lost counts leases whose consumer vanished.
	Lost int64
	// RetentionLost counts messages that retention deleted before the group settled them.
	RetentionLost int64
	// DeadLettersExpired counts dead letters that were deleted after their retention.
	DeadLettersExpired int64
}

// add adds what others count.
func (c *Counters) add(o Counters) {
	c.Delivered += o.Delivered
	c.Acknowledged += o.Acknowledged
	c.Skipped += o.Skipped
	c.Filtered += o.Filtered
	c.Retried += o.Retried
	c.DeadLettered += o.DeadLettered
	c.ExpiredLeases += o.ExpiredLeases
	c.Redriven += o.Redriven
	c.Discarded += o.Discarded
	c.FilterErrors += o.FilterErrors
	c.Expired += o.Expired
	c.Lost += o.Lost
	c.RetentionLost += o.RetentionLost
	c.DeadLettersExpired += o.DeadLettersExpired
}

// counters counts what happened since the partition was claimed.
func (sv *serving) counters() Counters {
	c := sv.counted
	for _, l := range sv.lanes {
		tally := l.machine.Tally()
		c.ExpiredLeases += tally.LeasesExpired
		c.Expired += tally.Expired
		c.Lost += tally.Losses
	}
	return c
}

// past counts what happened before the partition was claimed last.
func (s *shard) past() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.past
}

// keep adds what a claim that is over has counted to the past.
func (s *shard) keep(c Counters) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.past.add(c)
}
