package sim

import (
	"context"
	"slices"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// operate is a person with a command line: dead letters are looked at, given back and thrown away.
func (w *World) operate() {
	c := w.client("operator")
	for w.rest(c.between(3*time.Second, 9*time.Second), c.name) {
		g := &w.plan.Groups[c.rng.IntN(len(w.plan.Groups))]
		dead, ok := c.deadLetters(g, 1+c.rng.IntN(6))
		if !ok || len(dead) == 0 {
			continue
		}
		dead = dead[:1+c.rng.IntN(len(dead))]
		if c.rng.IntN(3) == 0 {
			c.dispose(g, dead, Discard)
		} else {
			c.dispose(g, dead, Redrive)
		}
	}
}

// deadLetters lists up to n dead letters of a group, asking every sidecar: each knows its own partitions. It returns false if not all could be asked.
func (c *client) deadLetters(g *Group, n int) ([]broker.DeadLetter, bool) {
	var all []broker.DeadLetter
	served := 0
	for _, p := range c.w.live {
		type answer struct {
			dead []broker.DeadLetter
			err  error
		}
		got, r := call(c, p, func(ctx context.Context, b *broker.Broker) (a answer) {
			for page := ""; ; {
				var some []broker.DeadLetter
				some, page, a.err = b.DeadLetters(ctx, g.Name, g.Topic, "", 7, page)
				a.dead = append(a.dead, some...)
				if a.err != nil || page == "" || len(a.dead) >= n {
					return a
				}
			}
		})
		if r == OK && got.err == nil {
			served++
			all = append(all, got.dead...)
		}
	}
	return all[:min(n, len(all))], served > 0
}

// dispose redrives or discards dead letters by id.
func (c *client) dispose(g *Group, dead []broker.DeadLetter, what Kind) {
	w := c.w
	op := w.op()
	var ids []string
	var told []Event
	for _, d := range dead {
		uid, key, _ := uidOfRecord(d.Record)
		e := Event{Kind: what, Op: op, Client: c.name, Group: g.Name, Topic: g.Topic, Partition: d.Partition, Offset: d.Offset, UID: uid, Key: key}
		w.record(e)
		told = append(told, e)
		ids = append(ids, d.ID)
	}
	type answer struct {
		n       int
		unknown []string
		err     error
	}
	got, r := call(c, c.sidecar(int(dead[0].Partition)), func(ctx context.Context, b *broker.Broker) (a answer) {
		if what == Redrive {
			a.n, a.unknown, _, a.err = b.Redrive(ctx, g.Name, g.Topic, broker.Selection{IDs: ids})
		} else {
			a.n, a.unknown, _, a.err = b.Discard(ctx, g.Name, g.Topic, broker.Selection{IDs: ids})
		}
		return a
	})
	if r == OK && got.err != nil {
		r = judge(got.err)
	}
	for i, e := range told {
		e.Kind, e.Result = what+1, r // its completion
		if r == OK && slices.Contains(got.unknown, ids[i]) {
			e.Result = Fail
		}
		w.record(e)
	}
}

func uidOfRecord(r broker.Record) (uid uint64, key string, ok bool) {
	uid, ok = uidOf(r.Payload)
	return uid, string(r.Key), ok
}

// observe looks at positions and sizes every now and then.
func (w *World) observe() {
	c := w.client("observer")
	for w.rest(c.between(time.Second, 4*time.Second), c.name) {
		c.look()
	}
}

// look samples what every sidecar says of its groups. It returns how many messages are not settled, and how many partitions are served.
func (c *client) look() (lag int64, served int) {
	w := c.w
	for _, p := range w.live {
		type answer struct {
			groups  []broker.GroupStatus
			weights []broker.Weight
			err     error
		}
		got, r := call(c, p, func(ctx context.Context, b *broker.Broker) (a answer) {
			if a.groups, a.err = b.Groups(ctx, "", ""); a.err == nil {
				a.weights = b.Weigh(ctx)
			}
			return a
		})
		if r != OK || got.err != nil {
			continue
		}
		for _, g := range got.groups {
			for _, s := range g.Partitions {
				if s.Fault != nil {
					continue
				}
				served++
				lag += s.Lag
				w.record(Event{Kind: Position, Client: c.name, Group: g.Group, Topic: g.Topic, Partition: s.Partition, Offset: s.Position, Epoch: s.Epoch, Count: s.Lag})
				known := int64(s.Stats.Ready + s.Stats.Leased + s.Stats.Waiting + s.Stats.Parked)
				w.record(Event{
					Kind: Weight, Group: g.Group, Topic: g.Topic, Partition: s.Partition, Offset: noOffset, Count: known, Bound: maxUnsettled + s.DeadLetters + s.Counters.Redriven, Detail: "messages known",
				})
			}
		}
		for _, x := range got.weights {
			w.record(Event{Kind: Weight, Group: x.Group, Topic: x.Topic, Partition: x.Partition, Offset: noOffset, Count: int64(x.Timers), Bound: int64(x.Waiting), Detail: "timers"})
		}
	}
	return lag, served
}
