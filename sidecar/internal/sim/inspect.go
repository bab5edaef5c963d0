package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// recovery is how long a world that is well again may take until every partition is served and every backlog is gone.
const recovery = 5 * time.Minute

// heal ends all faults. What is down comes up again by itself: nobody lends a hand.
func (w *World) heal() {
	w.calm = true
	w.record(Event{Kind: Heal})
	if w.store.disk != nil {
		w.store.disk.full, w.store.disk.failing = false, false
	}
	for _, p := range w.live {
		if p != nil {
			p.pausedUntil = time.Time{}
		}
	}
	w.relieve()
}

// inspect drains every group, restarts what there is, and looks at everything that is kept.
func (w *World) inspect() {
	c := w.client("inspector")
	if w.plan.Seed%3 == 1 { // long enough for what is done once a minute, with nobody there
		w.sleep(65*time.Second, "idle")
	}
	if !w.drain(c, "before") {
		return
	}
	w.retired = true                               // a sidecar lists the dead letters of the partitions that it owns
	if w.plan.Seed%2 == 0 || w.plan.Sidecars > 1 { // what is kept must not need what is in memory
		for _, p := range w.live {
			if p != nil {
				w.stop(p)
			}
		}
	} else if w.plan.Seed%3 == 0 && w.plan.Sidecars == 1 && w.store.disk != nil {
		w.power(c)
	}
	if !w.await(c) {
		return
	}
	if w.plan.Seed%4 < 2 {
		for i := range w.plan.Groups {
			if dead, ok := w.census(c, &w.plan.Groups[i]); ok {
				for _, p := range w.live { // each gives back what it has
					if len(dead) > 0 && p != nil {
						w.redriveAll(c, p, &w.plan.Groups[i], dead)
					}
				}
			}
		}
	}
	if !w.drain(c, "after") {
		return
	}
	for i := range w.plan.Groups {
		g := &w.plan.Groups[i]
		dead, ok := w.census(c, g)
		if !ok {
			w.record(Event{Kind: Unservable, Detail: "dead letters of " + g.Name + " on " + g.Topic + " cannot be listed"})
		}
		for _, d := range dead {
			uid, key, _ := uidOfRecord(d.Record)
			w.record(Event{
				Kind: InDead, Group: g.Name, Topic: g.Topic, Partition: d.Partition, Offset: d.Offset, UID: uid, Key: key, Attempt: d.Attempts, Detail: d.Reason,
			})
		}
	}
	w.readLogs(c)
	w.shards(c)
}

// drain lets well-behaved consumers at every sidecar acknowledge all there is. It returns false if the backlog does not go away.
func (w *World) drain(c *client, when string) bool {
	type stay struct {
		*session
		done chan struct{}
	}
	var stays []stay
	until := time.Now().Add(recovery)
	joined := map[string]bool{}
	idle := 0
	credits, unwatched := 1000, w.plan.Focus == "calm"
	if w.plan.Seed%3 == 0 {
		credits = 2
	}
	for time.Now().Before(until) && w.detected == "" {
		w.relieve()
		for id, p := range w.live {
			for i := range w.plan.Groups {
				g := &w.plan.Groups[i]
				if p == nil || joined[fmt.Sprint(p.number, i)] {
					continue
				}
				d := w.client("drain-%s-%s-%s-%d", when, g.Topic, g.Name, id)
				if s := d.open(g, p, credits); s != nil {
					joined[fmt.Sprint(p.number, i)] = true
					s.drain, s.ends = true, until.Add(time.Hour)
					done := make(chan struct{})
					w.background.Go(func() { defer close(done); s.run() })
					stays = append(stays, stay{s, done})
				}
			}
		}
		w.sleep(2*time.Second, "drain")
		if unwatched && len(stays) == len(w.plan.Groups) { // looking wakes what sleeps
			unwatched = false
			w.sleep(25*time.Second, "drain")
			if lag, _ := c.look(); lag > 0 {
				w.record(Event{Kind: Unservable, Detail: fmt.Sprintf("%d messages are left where nothing fails and consumers want them", lag)})
			}
		}
		if lag, served := c.look(); lag == 0 && served == w.shardCount() && c.scheduled() == 0 {
			if idle++; idle == 2 {
				break
			}
		} else {
			idle = 0
		}
	}
	if idle < 2 && w.detected == "" {
		lag, served := c.look()
		w.record(Event{Kind: Unservable, Detail: fmt.Sprintf("%v after the last fault %d messages are left and %d of %d partitions are served", recovery, lag, served, w.shardCount())})
	}
	for _, s := range stays {
		if !s.p.isDead() {
			if out := s.s.Outstanding(); out != 0 {
				w.record(Event{Kind: Weight, Group: s.g.Name, Topic: s.g.Topic, Offset: noOffset, Session: s.number, Count: int64(out), Detail: "credits taken by a session that holds nothing"})
			}
		}
		s.leave("close")
		<-s.done
		w.pass("drained")
	}
	return idle >= 2
}

func (w *World) shardCount() (n int) {
	for _, g := range w.plan.Groups {
		n += int(w.plan.topic(g.Topic).Partitions)
	}
	return n
}

// await returns when every partition is served, within twice the lease of the coordinator and the time that a restart takes.
func (w *World) await(c *client) bool {
	until := time.Now().Add(2*leaseTTL + 10*time.Second)
	for time.Now().Before(until) && w.detected == "" {
		if _, served := c.look(); served == w.shardCount() {
			return true
		}
		w.sleep(time.Second, "await")
	}
	if w.detected == "" {
		w.record(Event{Kind: Unservable, Detail: "not every partition has an owner, twice the lease after the last fault"})
	}
	return false
}

// census lists all dead letters of a group, asking every sidecar: each lists those of its own partitions.
func (w *World) census(c *client, g *Group) (all []broker.DeadLetter, ok bool) {
	seen := map[string]bool{}
	for _, at := range w.live {
		type answer struct {
			dead []broker.DeadLetter
			err  error
		}
		got, r := call(c, at, func(ctx context.Context, b *broker.Broker) (a answer) {
			for page := ""; ; {
				var some []broker.DeadLetter
				some, page, a.err = b.DeadLetters(ctx, g.Name, g.Topic, "", 50, page)
				a.dead = append(a.dead, some...)
				if a.err != nil || page == "" {
					return a
				}
			}
		})
		// One that owns no partition of the group refuses.
		if r != OK || got.err != nil && (w.plan.Sidecars == 1 || broker.Refusal(got.err).Reason != broker.PartitionAway) {
			continue
		}
		ok = true
		for _, d := range got.dead {
			if id := fmt.Sprint(d.Partition, "@", d.Offset); !seen[id] {
				seen[id] = true
				all = append(all, d)
			}
		}
	}
	return all, ok
}

// redriveAll gives all dead letters of a group back.
func (w *World) redriveAll(c *client, p *process, g *Group, dead []broker.DeadLetter) {
	op := w.op()
	var told []Event
	for _, d := range dead {
		uid, key, _ := uidOfRecord(d.Record)
		e := Event{Kind: Redrive, Op: op, Client: c.name, Group: g.Name, Topic: g.Topic, Partition: d.Partition, Offset: d.Offset, UID: uid, Key: key}
		w.record(e)
		told = append(told, e)
	}
	_, _ = call(c, p, func(ctx context.Context, b *broker.Broker) error {
		_, _, _, err := b.Redrive(ctx, g.Name, g.Topic, broker.Selection{All: true})
		return err
	})
	for _, e := range told {
		e.Kind, e.Result = Redriven, Unknown // each sidecar has a part of them
		w.record(e)
	}
}

// scheduled tells whether messages are left on the schedule, as the sidecar that owns it says: 0 if none are.
func (c *client) scheduled() (n int) {
	for i := range c.w.plan.Topics {
		answered := false
		for _, p := range c.w.live {
			type answer struct {
				left []broker.ScheduledMessage
				err  error
			}
			got, r := call(c, p, func(ctx context.Context, b *broker.Broker) (a answer) {
				a.left, _, a.err = b.Scheduled(ctx, c.w.plan.Topics[i].Name, "", 1, "")
				return a
			})
			if r == OK && got.err == nil {
				answered = true
				n += len(got.left)
			}
		}
		if !answered {
			n++
		}
	}
	return n
}

// anyone is a sidecar that is up, or nil.
func (w *World) anyone() *process {
	for _, p := range w.live {
		if p != nil {
			return p
		}
	}
	return nil
}

// readLogs reads every topic from its beginning.
func (w *World) readLogs(c *client) {
	for i := range w.plan.Topics {
		t := &w.plan.Topics[i]
		type answer struct {
			all []broker.Tailed
			err error
		}
		got, r := call(c, w.anyone(), func(ctx context.Context, b *broker.Broker) (a answer) {
			a.err = b.Tail(ctx, broker.TailOptions{Topic: t.Name, Earliest: true, StopAtEnd: true}, func(some []broker.Tailed) bool {
				a.all = append(a.all, some...)
				return true
			})
			return a
		})
		if r != OK || got.err != nil {
			w.record(Event{Kind: Unservable, Detail: fmt.Sprintf("topic %s cannot be read: %v %v", t.Name, r, got.err)})
		}
		for _, m := range got.all {
			e := Event{Kind: InLog, Topic: t.Name, Partition: m.Partition, Offset: m.Offset}
			e.UID, e.Key, _ = uidOfRecord(m.Record)
			if !isRecord(m.Record, e.UID) {
				e.Result = Fail
			}
			w.record(e)
		}
	}
}

// shards notes where every partition of every group stands.
func (w *World) shards(c *client) {
	for _, p := range w.live {
		if p == nil {
			continue
		}
		type answer struct {
			groups []broker.GroupStatus
			err    error
		}
		got, _ := call(c, p, func(ctx context.Context, b *broker.Broker) (a answer) {
			a.groups, a.err = b.Groups(ctx, "", "")
			return a
		})
		for _, g := range got.groups {
			for _, s := range g.Partitions {
				if s.Fault == nil {
					w.record(Event{
						Kind: InShard, Group: g.Group, Topic: g.Topic, Partition: s.Partition, Offset: s.Position, Epoch: uint64(s.End), Count: s.Lag + int64(s.Stats.SettledAbove), Dead: s.DeadLetters,
					})
				}
			}
		}
	}
}
