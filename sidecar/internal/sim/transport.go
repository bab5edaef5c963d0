package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

// client is somebody who calls sidecars over a network that loses and delays.
type client struct {
	w     *World
	name  string
	rng   *rand.Rand
	calls int

	numbered uint64 // batches, so far

	takeable   []Event       // what a transaction may take back
	refusedFor broker.Reason // the last transaction that was sent
}

func (w *World) client(format string, args ...any) *client {
	name := fmt.Sprintf(format, args...)
	return &client{w: w, name: name, rng: rand.New(rand.NewPCG(w.plan.Seed, hash64(0, 0, name)))}
}

func (c *client) roll(p float64) bool { return c.rng.Float64() < p && !c.w.calm }

func (c *client) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.rng.Int64N(int64(most-least)))
}

// callTimeout is how long a client waits for an answer.
const callTimeout = 3 * time.Second

// call asks a sidecar for something and waits for the answer. Unknown means that there was none: what was asked for may have happened, or may still
// happen. Fail means that it was not sent. What do returns is handed over only with OK.
func call[T any](c *client, p *process, do func(ctx context.Context, b *broker.Broker) T) (answer T, r Result) {
	c.calls++
	name := fmt.Sprintf("%s call %d", c.name, c.calls)
	if p == nil || p.isDead() {
		return answer, Fail
	}
	f := &c.w.plan.Faults
	if c.roll(f.Delay) {
		c.w.fault("delayed request")
		c.w.sleep(c.between(time.Millisecond, 2*time.Second), name+" delayed")
	}
	if c.roll(f.Lost) {
		c.w.fault("lost request")
		c.w.sleep(callTimeout, name+" lost")
		return answer, Unknown
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.Background(), callerKey{}, name))
	got := make(chan T, 1)
	c.w.background.Go(func() {
		c.w.gate.pass(p, name)
		got <- do(ctx, p.broker)
	})
	timeout := time.NewTimer(callTimeout + c.between(0, time.Second))
	defer timeout.Stop()
	r = Unknown
	select {
	case answer = <-got:
		r = OK
	case <-p.dead:
	case <-timeout.C:
	}
	c.w.pass(name + " over")
	cancel()
	if r == OK && p.isDead() {
		r = Unknown // it died before the answer was on its way
	}
	if r == OK && c.roll(f.ReplyLost) {
		c.w.fault("lost reply")
		c.w.sleep(callTimeout, name+" reply lost")
		r = Unknown
	}
	if r != OK {
		var none T
		return none, r
	}
	return answer, r
}

// sidecar is one that is up, or nil.
func (c *client) sidecar(id int) *process { return c.w.live[id%len(c.w.live)] }
