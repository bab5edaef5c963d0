package broker

import (
	"context"

	"github.com/typedmq/typedmq/sidecar/internal/dispatch"
)

// Weight is what a partition of a group keeps in memory beside its messages, for those who watch that nothing grows without bound.
type Weight struct {
	Group, Topic string
	Partition    uint32
	dispatch.Weight
}

// Weigh tells what every partition that is served here keeps in memory.
func (b *Broker) Weigh(ctx context.Context) (all []Weight) {
	for _, g := range b.allGroups() {
		weights := make([]*Weight, len(g.shards))
		if _, err := g.onAll(ctx, func(sv *serving) {
			w := &Weight{Group: g.name, Topic: g.topic.decl.Name, Partition: sv.partition}
			for _, l := range sv.lanes {
				w.Add(l.machine.Weight())
			}
			weights[sv.partition] = w
		}); ctx.Err() != nil || err != nil && len(weights) == 0 {
			return all
		}
		for _, w := range weights {
			if w != nil {
				all = append(all, *w)
			}
		}
	}
	return all
}

// Outstanding is how many messages are unsettled at the session, or about to be leased to it.
func (s *Session) Outstanding() int {
	s.budget.Lock()
	defer s.budget.Unlock()
	return int(s.budget.outMessages)
}
