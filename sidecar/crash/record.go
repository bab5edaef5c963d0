package main

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// The topics and groups of proto/crash/v1/crash.proto, as the checker knows them.
const (
	words = "words"
	tasks = "tasks"
)

func plan(seed uint64) sim.Plan {
	p := sim.Plan{
		Seed: seed,
		Topics: []sim.Topic{
			{Name: words, Ordering: sim.PerKey, Partitions: 3},
			{Name: tasks, Ordering: sim.None, Partitions: 2, Queue: true},
		},
	}
	for _, g := range []struct{ group, topic string }{{"listener", words}, {"reader", words}, {"doer", tasks}} {
		p.Groups = append(p.Groups, sim.Group{Name: g.group, Topic: g.topic, MaxAttempts: 3, Initial: 50 * time.Millisecond, Max: 200 * time.Millisecond})
	}
	return p
}

// recorder is the history of a store. The order of its events is the order in which clients told of them. It is safe for concurrent use.
//
// Clients of the SDK do not see lease tokens. So the recorder makes up epochs: a new one before and after every fault, and one for each delivery while a
// fault may move ownership at any time. Within an epoch leases are exclusive, and the checker holds the broker to that.
type recorder struct {
	begin time.Time
	plan  sim.Plan
	mu    struct {
		sync.Mutex
		events  []sim.Event
		ops     int
		epoch   uint64
		vague   bool // ownership may change at any time
		leases  map[leased]uint32
		trouble []span // when a call may have been sent again
		acked   int    // publishes that were acknowledged
	}
}

type leased struct {
	group, topic string
	partition    uint32
	offset       int64
}

type span struct{ from, to time.Duration } // to is 0 while it lasts

func newRecorder(p sim.Plan) *recorder {
	r := &recorder{begin: time.Now(), plan: p}
	r.mu.leases = map[leased]uint32{}
	r.changed()
	return r
}

func (r *recorder) addLocked(e sim.Event) {
	e.At = time.Since(r.begin)
	e.Step = len(r.mu.events)
	r.mu.events = append(r.mu.events, e)
}

func (r *recorder) add(e sim.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addLocked(e)
}

// changed begins a new epoch: ownership may have changed.
func (r *recorder) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changedLocked()
}

func (r *recorder) changedLocked() {
	r.mu.epoch++
	for _, g := range r.plan.Groups {
		for p := range r.partitions(g.Topic) {
			r.addLocked(sim.Event{Kind: sim.Fence, Group: g.Name, Topic: g.Topic, Partition: p, Epoch: r.mu.epoch})
		}
	}
}

func (r *recorder) partitions(topic string) uint32 {
	for _, t := range r.plan.Topics {
		if t.Name == topic {
			return t.Partitions
		}
	}
	return 0
}

// trouble notes that a fault begins. Vague is for those that may move ownership at any time until they are over.
func (r *recorder) trouble(vague bool) {
	r.changed()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.vague = vague
	r.mu.trouble = append(r.mu.trouble, span{from: time.Since(r.begin)})
}

// over notes that all is well again.
func (r *recorder) over() {
	r.changed()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.vague = false
	r.mu.trouble[len(r.mu.trouble)-1].to = time.Since(r.begin)
}

func (r *recorder) publish(topic, key string, uid uint64, delay time.Duration) (op int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.ops++
	r.addLocked(sim.Event{Kind: sim.Publish, Op: r.mu.ops, Topic: topic, Key: key, UID: uid, After: delay})
	return r.mu.ops
}

func (r *recorder) published(op int, topic, key string, uid uint64, delay time.Duration, result sim.Result, partition uint32, offset int64, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if result == sim.OK {
		r.mu.acked++
	}
	r.addLocked(sim.Event{
		Kind: sim.Published, Op: op, Topic: topic, Key: key, UID: uid, After: delay, Result: result, Partition: partition, Offset: offset, Detail: why,
	})
}

func (r *recorder) acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.acked
}

// receive notes a delivery and returns its event with the lease that was made up for it.
func (r *recorder) receive(e sim.Event) sim.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.vague {
		r.changedLocked()
	}
	at := leased{e.Group, e.Topic, e.Partition, e.Offset}
	r.mu.leases[at]++
	e.Kind, e.Epoch, e.Lease = sim.Receive, r.mu.epoch, r.mu.leases[at]
	r.addLocked(e)
	return e
}

// settle notes that a delivery is about to be settled. After below 0 is what the policy says.
func (r *recorder) settle(e sim.Event, outcome sim.Outcome) sim.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.ops++
	e.Kind, e.Op, e.Outcome, e.Result, e.After = sim.Settle, r.mu.ops, outcome, sim.OK, -1
	r.addLocked(e)
	return e
}

// settled notes the answer. A refusal is unknown as well: the SDK may have sent the outcome twice.
func (r *recorder) settled(e sim.Event, err error) {
	e.Kind = sim.Settled
	if err != nil {
		e.Result, e.Detail = sim.Unknown, err.Error()
	}
	r.add(e)
}

// history is what was recorded, for the checker: a message that the SDK published twice, since its first answer was lost, becomes two.
func (r *recorder) history() (h *sim.History, again int, uncaused []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	type message struct {
		topic string
		uid   uint64
	}
	type spot struct {
		partition uint32
		offset    int64
	}
	places := map[message][]spot{} // the one of the receipt first
	calls := map[message]span{}
	receipt := map[message]bool{}
	for _, e := range r.mu.events {
		m, at := message{e.Topic, e.UID}, spot{e.Partition, e.Offset}
		switch {
		case e.Kind == sim.Publish:
			calls[m] = span{e.At, time.Hour}
		case e.Kind == sim.Published:
			calls[m] = span{calls[m].from, e.At}
			if e.Result == sim.OK && e.Offset >= 0 {
				receipt[m] = true
				places[m] = slices.Insert(slices.DeleteFunc(places[m], func(s spot) bool { return s == at }), 0, at)
			}
		case e.Kind == sim.Receive && e.Result == sim.OK, e.Kind == sim.InLog && e.Result == sim.OK:
			if !slices.Contains(places[m], at) {
				places[m] = append(places[m], at)
			}
		}
	}
	nth := map[message]map[spot]uint64{}
	for m, all := range places {
		if len(all) < 2 {
			continue
		}
		if !receipt[m] { // which one was meant nobody knows
			slices.SortFunc(all, func(a, b spot) int { return int(a.offset - b.offset) })
		}
		nth[m] = map[spot]uint64{}
		for i, at := range all[1:] {
			nth[m][at] = m.uid | uint64(i+1)<<56
		}
		again += len(all) - 1
		if !r.troubledLocked(calls[m]) {
			uncaused = append(uncaused, m.uid)
		}
	}
	slices.Sort(uncaused)
	h = &sim.History{Plan: r.plan}
	for _, e := range r.mu.events {
		m := message{e.Topic, e.UID}
		switch e.Kind {
		case sim.Receive, sim.Settle, sim.Settled, sim.InLog, sim.InDead:
			if uid, ok := nth[m][spot{e.Partition, e.Offset}]; ok {
				e.UID = uid
			}
		}
		h.Events = append(h.Events, e)
		if e.Kind == sim.Publish {
			for _, uid := range slices.Sorted(maps.Values(nth[m])) {
				e.UID = uid
				h.Events = append(h.Events, e)
			}
		}
	}
	return h, again, uncaused
}

// troubledLocked tells whether there was a fault during a call.
func (r *recorder) troubledLocked(call span) bool {
	return slices.ContainsFunc(r.mu.trouble, func(s span) bool {
		return s.from <= call.to && (s.to == 0 || call.from <= s.to+noticed)
	})
}

// noticed is how late a client may notice that its connection is lost.
const noticed = time.Second
