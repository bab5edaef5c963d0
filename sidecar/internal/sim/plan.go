package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Plan is what a seed makes of a world: topics, groups, clients and how much goes wrong.
type Plan struct {
	Seed     uint64
	Focus    string
	Asked    string // the focus that was asked for; empty lets the seed choose
	Pebble   bool   // the engine: Pebble on a disk that loses power, or memory
	Sidecars int    // one or two on one engine
	Topics   []Topic
	Groups   []Group

	Publishers, Consumers int           // consumers are of each group
	Chaos                 time.Duration // how long clients and faults are at it
	Faults                Faults
	Large                 bool // messages fill blocks of the disk

	Transactions float64 // share of what is published, and of what is acknowledged, that goes in transactions

	Log io.Writer // of the sidecars, nil for none
}

// Topic is a topic of the world.
type Topic struct {
	Name, Message string
	Ordering      Ordering
	Queue         bool
	Dedupe        bool // ids are stored once
	Partitions    uint32
}

// Ordering says which messages wait for one another.
type Ordering uint8

// The orderings.
const (
	PerKey Ordering = iota
	PerPartition
	None
)

// Group is a subscription of the world.
type Group struct {
	Name, Topic, RPC string
	Filter           Filter
	MaxAttempts      uint32
	Initial, Max     time.Duration
	Jitter           float64
	DropDead         bool
	Lease            time.Duration
}

// Filter is what a group wants of a topic.
type Filter uint8

// The filters.
const (
	Everything Filter = iota
	BigKinds          // by a field of the message
	OddOnes           // by a header
)

// Wants tells what the filter must answer for a message.
func (f Filter) Wants(uid uint64) bool {
	switch f {
	case BigKinds:
		return kindOf(uid) > 2
	case OddOnes:
		return uid%2 == 1
	}
	return true
}

func kindOf(uid uint64) uint64 { return uid % 8 }

// Faults are how often something goes wrong, as shares of the occasions, and how often the nemesis strikes.
type Faults struct {
	FailBefore, FailAfter, Stall, ReadError, Full float64 // of engine calls
	Coordinator                                   float64 // of claims and releases
	Lost, ReplyLost, Delay                        float64 // of client calls
	Kill, Power, Pause, Clock, Expire, DiskFull   bool    // what the nemesis may do
	SyncError, Rot                                bool
	Every                                         time.Duration // between two strokes, on average; 0 is never
	// Consumers that fail messages, vanish, fall silent.
	Poison, Vanish, Silent float64
}

// Focuses are the kinds of worlds. The empty one mixes all.
var Focuses = []string{"calm", "crash", "disk", "owner", "clients", "clock", "rot", "transactions"}

// NewPlan draws a world.
func NewPlan(seed uint64, focus string) Plan {
	rng := rand.New(rand.NewPCG(seed, 0x706c616e))
	p := Plan{Seed: seed, Focus: focus, Asked: focus, Sidecars: 1}
	if p.Focus == "" {
		p.Focus = Focuses[seed%uint64(len(Focuses))]
	}
	p.Pebble = rng.IntN(2) == 0
	p.Publishers, p.Consumers = 1+rng.IntN(3), 1+rng.IntN(3)
	p.Chaos = time.Duration(15+rng.IntN(30)) * time.Second
	p.Faults = Faults{Poison: 0.08}
	client := func() { p.Faults.Lost, p.Faults.ReplyLost, p.Faults.Delay = 0.03, 0.04, 0.1 }
	switch p.Focus {
	case "calm":
		p.Faults.Poison = 0.1 * float64(rng.IntN(2))
	case "crash":
		client()
		p.Faults.Kill, p.Faults.Power, p.Faults.Pause, p.Faults.Every = true, true, true, 4*time.Second
		p.Faults.FailBefore, p.Faults.FailAfter = 0.01, 0.01
	case "disk":
		client()
		p.Pebble = true
		p.Faults.Kill, p.Faults.Power, p.Faults.DiskFull, p.Faults.Every = true, true, true, 4*time.Second
		p.Faults.SyncError = rng.IntN(3) == 0
		p.Faults.FailBefore, p.Faults.FailAfter, p.Faults.Stall, p.Faults.Full, p.Faults.ReadError = 0.02, 0.02, 0.03, 0.02, 0.005
	case "owner":
		client()
		p.Sidecars = 2
		p.Faults.Expire, p.Faults.Kill, p.Faults.Pause, p.Faults.Every = true, true, true, 5*time.Second
		p.Faults.Coordinator, p.Faults.FailAfter = 0.1, 0.005
	case "clients":
		p.Faults.Lost, p.Faults.ReplyLost, p.Faults.Delay = 0.08, 0.1, 0.2
		p.Faults.Poison, p.Faults.Vanish, p.Faults.Silent = 0.2, 0.15, 0.15
	case "rot":
		p.Pebble, p.Large, p.Publishers = true, true, 3
		p.Faults.Rot, p.Faults.Kill, p.Faults.Power, p.Faults.Every = true, true, true, 16*time.Second
	case "transactions":
		client()
		p.Transactions = 0.5
		p.Faults.Kill, p.Faults.Power, p.Faults.Pause, p.Faults.Every = true, true, true, 4*time.Second
		p.Faults.FailBefore, p.Faults.FailAfter, p.Faults.Full, p.Faults.Stall = 0.02, 0.02, 0.005, 0.01
		if rng.IntN(3) == 0 {
			p.Sidecars, p.Faults.Expire, p.Faults.Coordinator, p.Faults.Power = 2, true, 0.1, false
		}
	case "clock":
		client()
		p.Faults.Clock, p.Faults.Kill, p.Faults.Every = true, true, 5*time.Second
	}
	if p.Focus != "calm" && p.Faults.Vanish == 0 {
		p.Faults.Vanish, p.Faults.Silent = 0.04, 0.04
	}
	p.topics(rng)
	return p
}

// topics draws one or two topics and their groups.
func (p *Plan) topics(rng *rand.Rand) {
	kinds := []Topic{
		{Name: "keyed", Message: "Keyed", Ordering: PerKey},
		{Name: "loose", Message: "Loose", Ordering: None},
		{Name: "serial", Message: "Serial", Ordering: PerPartition},
		{Name: "queue", Message: "Queue", Ordering: PerKey, Queue: true},
	}
	first := 0 // order by key is what most can go wrong with
	if rng.IntN(2) == 0 {
		first = rng.IntN(len(kinds))
	}
	chosen := []Topic{kinds[first]}
	second := rng.IntN(len(kinds))
	if second == first && p.Transactions > 0 { // which are over several topics
		second = (first + 1) % len(kinds)
	}
	if second != first {
		chosen = append(chosen, kinds[second])
	}
	for _, t := range chosen {
		t.Partitions = 1 + rng.Uint32N(2)
		t.Dedupe = rng.IntN(2) == 0
		p.Topics = append(p.Topics, t)
		n := 1 + rng.IntN(2)
		if t.Queue {
			n = 1
		}
		for i := range n {
			g := Group{
				Name: fmt.Sprintf("g%d", i), Topic: t.Name, RPC: fmt.Sprintf("sim.v1.%sG%d/On%s", t.Message, i, t.Message),
				MaxAttempts: 2 + rng.Uint32N(4), Initial: time.Duration(200+rng.IntN(800)) * time.Millisecond, Jitter: 0.2,
				Lease: time.Duration(3+rng.IntN(5)) * time.Second, DropDead: rng.IntN(8) == 0,
			}
			g.Max = 4 * g.Initial
			if !t.Queue {
				g.Filter = Filter(max(0, rng.IntN(5)-2))
			}
			p.Groups = append(p.Groups, g)
		}
	}
}

func (p *Plan) topic(name string) *Topic {
	for i := range p.Topics {
		if p.Topics[i].Name == name {
			return &p.Topics[i]
		}
	}
	return nil
}
