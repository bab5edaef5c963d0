package broker

import (
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// roomEvery is how often a shard that has messages, and no room on the disk to lease them, looks again.
const roomEvery = time.Second

// room tells how much room the store has, and why if it is not enough.
func (b *Broker) room() (engine.Space, error) {
	if b.gauge == nil {
		return engine.Roomy, nil
	}
	return b.gauge.Space()
}

// roomToPublish is the refusal of what would make the store grow, nil if there is room. The engine refuses appends by itself; what a publish puts on the
// schedule is state, like an acknowledgement, to it.
func (b *Broker) roomToPublish() error {
	_, err := b.room()
	return err
}

// roomToLease tells whether work on more messages may begin: when the disk is nearly full, the rest of it is for ending what was begun.
func (b *Broker) roomToLease() bool {
	level, _ := b.room()
	return level < engine.NoLease
}
