package sim

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// gate makes a world of many goroutines go one step at a time. Whoever is about to do something that others could notice passes the gate and waits
// there; when all goroutines of the bubble wait for something, the scheduler lets one through, chosen by the seed. What waits is told apart by
// the step at which it came and its name, never by the order in which the Go scheduler let it run: so a seed replays exactly.
type gate struct {
	arrived chan struct{} // holds a token when somebody came

	mu struct {
		sync.Mutex
		step   int
		parked []*parked
		open   bool // everybody may pass: the world ends
		last   [16]string
	}
}

type parked struct {
	step int
	name string
	home *process // nil: always runnable
	pass chan struct{}
}

// number tells processes apart.
func (p *parked) number() int {
	if p.home == nil {
		return 0
	}
	return p.home.number
}

func newGate() *gate { return &gate{arrived: make(chan struct{}, 1)} }

// pass waits for a turn. It returns at once when the process is dead.
func (g *gate) pass(home *process, name string) {
	g.mu.Lock()
	if g.mu.open || home != nil && home.isDead() {
		g.mu.Unlock()
		return
	}
	p := &parked{step: g.mu.step, name: name, home: home, pass: make(chan struct{})}
	g.mu.parked = append(g.mu.parked, p)
	g.mu.Unlock()
	select {
	case g.arrived <- struct{}{}:
	default:
	}
	<-p.pass
}

// recent is who went last.
func (g *gate) recent() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.mu.last[:])
}

// step is the number of the present step.
func (g *gate) step() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.step
}

// next lets one through, picked by pick out of n in an order that does not depend on the Go scheduler. Processes that are paused stay. It returns
// false if nobody may go now, and when a pause ends.
func (g *gate) next(now time.Time, pick func(n int) int) (ok bool, wake time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.SortFunc(g.mu.parked, func(a, b *parked) int {
		return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.number(), b.number()), cmp.Compare(a.name, b.name))
	})
	var able []int
	for i, p := range g.mu.parked {
		if i > 0 && p.step == g.mu.parked[i-1].step && p.name == g.mu.parked[i-1].name && p.home == g.mu.parked[i-1].home {
			panic("sim: two wait at the gate as " + p.name + ": a replay could not tell them apart")
		}
		if p.home != nil && now.Before(p.home.pausedUntil) {
			if wake.IsZero() || p.home.pausedUntil.Before(wake) {
				wake = p.home.pausedUntil
			}
			continue
		}
		able = append(able, i)
	}
	if len(able) == 0 {
		return false, wake
	}
	i := able[pick(len(able))]
	p := g.mu.parked[i]
	g.mu.parked = slices.Delete(g.mu.parked, i, i+1)
	g.mu.step++
	g.mu.last[g.mu.step%len(g.mu.last)] = p.name
	close(p.pass)
	return true, wake
}

// let lets everybody of a process through, without order: it is dead, and what it does has no effect.
func (g *gate) let(home *process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.parked = slices.DeleteFunc(g.mu.parked, func(p *parked) bool {
		if p.home == home {
			close(p.pass)
		}
		return p.home == home
	})
}

// end opens the gate for good.
func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.open = true
	for _, p := range g.mu.parked {
		close(p.pass)
	}
	g.mu.parked = nil
}

// hash64 mixes a seed, a number and a name. Chance that belongs to a place is drawn with it, so that it does not depend on who asked first.
func hash64(seed uint64, n int, name string) uint64 {
	h := seed ^ uint64(n)*0x9e3779b97f4a7c15
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 0x100000001b3
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
