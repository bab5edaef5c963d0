package sim

import (
	"context"
	"fmt"
	"time"
)

// nemesis strikes now and then until the chaos is over.
func (w *World) nemesis() {
	c := w.client("nemesis")
	f := &w.plan.Faults
	var strokes []func(*client)
	add := func(may bool, stroke ...func(*client)) {
		if may {
			strokes = append(strokes, stroke...)
		}
	}
	add(f.Kill, w.kill, w.restart)
	add(f.Power, w.power, w.power)
	add(f.Pause, w.pause)
	add(f.Clock, w.jump, w.jump)
	add(f.Expire, w.expire, w.expire)
	add(f.DiskFull, w.fillDisk)
	add(f.SyncError, w.breakSync)
	for {
		pause := time.Second
		if f.Every > 0 {
			pause = c.between(f.Every/4, 2*f.Every)
		}
		if !w.rest(pause, c.name) {
			return
		}
		w.relieve()
		if f.Every > 0 && len(strokes) > 0 {
			strokes[c.rng.IntN(len(strokes))](c)
		}
	}
}

// relieve does what an operator's supervisor does: a store that gave up writing is started again.
func (w *World) relieve() {
	if w.store.fatal {
		w.store.fatal = false
		w.all("storage failed")
		w.store.crash(100)
	}
}

// all ends every sidecar at once.
func (w *World) all(how string) {
	for _, p := range w.up {
		if p != nil {
			w.down(p, how)
		}
	}
}

func (w *World) target(c *client) *process { return w.live[c.rng.IntN(len(w.live))] }

func (w *World) kill(c *client) {
	if p := w.target(c); p != nil {
		w.fault("kill")
		w.down(p, "killed")
	}
}

// power takes the power from everything at once.
func (w *World) power(c *client) {
	w.fault("power cut")
	percent := []int{0, 0, 30, 70}[c.rng.IntN(4)]
	for _, p := range w.up {
		if p != nil {
			w.end(p, "power cut")
		}
	}
	w.store.crash(percent)
}

// restart stops a sidecar the gentle way.
func (w *World) restart(c *client) {
	p := w.target(c)
	if p == nil {
		return
	}
	w.fault("restart")
	w.stop(p)
}

// stop drains and closes a sidecar.
func (w *World) stop(p *process) {
	over := make(chan struct{})
	w.background.Go(func() {
		defer close(over)
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		p.broker.Drain(ctx)
		_ = p.broker.Close(context.Background())
	})
	select {
	case <-over:
	case <-p.dead:
	}
	w.pass(fmt.Sprintf("stop %d", p.number))
	w.down(p, "stopped")
}

// pause lets a process stand still, shorter or longer than leases are.
func (w *World) pause(c *client) {
	p := w.target(c)
	if p == nil {
		return
	}
	w.fault("pause")
	d := c.between(100*time.Millisecond, 15*time.Second)
	w.record(Event{Kind: Pause, Client: fmt.Sprintf("sidecar-%d.%d", p.id, p.number), After: d})
	p.pausedUntil = time.Now().Add(d)
	if w.plan.Sidecars > 1 && d > leaseTTL { // the coordinator heard nothing for too long
		told := d + c.between(0, time.Second)
		time.AfterFunc(leaseTTL, func() { p.cluster.expire(0, told-leaseTTL) })
	}
}

func (w *World) jump(c *client) {
	w.fault("clock jump")
	by := []time.Duration{time.Hour, -time.Hour, 10 * 365 * 24 * time.Hour, -10 * 365 * 24 * time.Hour, 90 * time.Second}[c.rng.IntN(5)]
	w.record(Event{Kind: Clock, After: by})
	w.skew.Add(int64(by))
}

// expire ends a sidecar's lease at the coordinator: sooner than the sidecar believes, and it may hear of it late.
func (w *World) expire(c *client) {
	p := w.target(c)
	if p == nil {
		return
	}
	w.fault("lease ended early")
	until := c.between(0, leaseTTL)
	told := c.between(0, 3*leaseTTL)
	if c.rng.IntN(3) == 0 {
		told = 0
	}
	w.record(Event{Kind: Expire, Client: fmt.Sprintf("sidecar-%d.%d", p.id, p.number), After: until, Detail: fmt.Sprintf("told after %v", told)})
	p.cluster.expire(until, told)
}

func (w *World) fillDisk(c *client) {
	if w.store.disk == nil {
		return
	}
	w.fault("disk full")
	w.store.disk.full = true
	w.rest(c.between(time.Second, 6*time.Second), c.name)
	w.store.disk.full = false
}

func (w *World) breakSync(*client) {
	if w.store.disk != nil {
		w.store.disk.failing = true
	}
}
