// Crash runs `mq serve` under load and does to it what machines do: it is killed, frozen, loses its power with all that was not synced, finds its disk
// slow, full, or with a bit flipped. Then it checks with the simulation's checker that nothing that was acknowledged is lost or changed, and that damage
// is told. `make crash` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// perStore is how many faults a store sees before it is judged and the next begins.
const perStore = 25

type options struct {
	mq                                       string
	kills, cuts, flips, stops, fulls, stalls int
	seed                                     uint64
	keep                                     bool
	only                                     int
}

func main() {
	var o options
	flag.StringVar(&o.mq, "mq", "", "path of the mq `binary`")
	flag.IntVar(&o.kills, "kills", 50, "how often the sidecar is killed")
	flag.IntVar(&o.cuts, "cuts", 100, "how often the power is cut")
	flag.IntVar(&o.flips, "flips", 500, "how many files are damaged")
	flag.IntVar(&o.stops, "stops", 8, "how often the sidecar is frozen: one time in four for longer than its lease")
	flag.IntVar(&o.fulls, "fulls", 4, "how often the disk is full")
	flag.IntVar(&o.stalls, "stalls", 6, "how often syncs take seconds")
	flag.Uint64Var(&o.seed, "seed", 0, "decides which faults there are and in which order; 0 draws one")
	flag.IntVar(&o.only, "flip", -1, "do only this flip, by its number, and keep the store")
	flag.BoolVar(&o.keep, "keep", false, "keep the directory of the run, which otherwise stays only after a failure")
	flag.Parse()
	if o.seed == 0 {
		o.seed = uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	good, err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Println(err)
	}
	if err != nil || !good {
		fmt.Printf("crash: FAILED; the same faults again: make crash SEED=%d KILLS=%d CUTS=%d FLIPS=%d STOPS=%d FULLS=%d STALLS=%d\n",
			o.seed, o.kills, o.cuts, o.flips, o.stops, o.fulls, o.stalls)
		os.Exit(1)
	}
	fmt.Printf("crash: ok, seed %d\n", o.seed)
}

// track is the stores of one kind, which have their turn one after the other. Tracks go side by side.
type track struct {
	name  string
	disks []string // of the stores, in turn
	count int      // of faults
	each  func(r *rig, i int) func(context.Context) error
}

func run(ctx context.Context, o options) (good bool, err error) {
	if o.mq, err = filepath.Abs(o.mq); err != nil {
		return false, err
	}
	sweep()
	l, err := newLife()
	if err != nil {
		return false, err
	}
	interrupted := func() bool { return ctx.Err() != nil }
	defer func() { l.end(o.keep || (!good && !interrupted())) }() // also after a panic
	begin := time.Now()
	t := newTally()
	fmt.Printf("seed %d, in %s\n", o.seed, l.dir)

	var running struct {
		sync.Mutex
		rigs []*rig
	}
	var all sync.WaitGroup
	for n, k := range tracks(o) {
		all.Go(func() {
			for i := 0; i*perStore < k.count; i++ {
				seed := o.seed*1000 + uint64(n*100+i)
				r, err := newRig(l, t, o.mq, fmt.Sprintf("%s%d", k.name, i), k.disks[i%len(k.disks)], seed)
				if err != nil {
					t.wrong("%s: %v", k.name, err)
					return
				}
				running.Lock()
				running.rigs = append(running.rigs, r)
				running.Unlock()
				var strikes []func(context.Context) error
				for j := i * perStore; j < min(k.count, (i+1)*perStore); j++ {
					strikes = append(strikes, k.each(r, j))
				}
				if err := r.run(ctx, strikes); err != nil && !interrupted() {
					t.wrong("%s: %v", r.name, err)
					return
				}
			}
		})
	}
	all.Go(func() {
		if o.flips > 0 {
			if err := flips(ctx, l, t, o); err != nil && !interrupted() {
				t.wrong("flips: %v", err)
			}
		}
	})
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for tick := time.NewTicker(4 * time.Second); ; {
		select {
		case <-tick.C:
			running.Lock()
			fmt.Println(t.line(begin, running.rigs))
			running.Unlock()
			continue
		case <-ctx.Done():
			t.good(os.Stdout)
			return false, errors.New("interrupted: the table is of what was done until then")
		case <-done:
		}
		break
	}
	good = t.good(os.Stdout)
	fmt.Printf("took %.0f s\n", time.Since(begin).Seconds())
	if !good {
		fmt.Printf("Logs and stores are in %s\n", l.dir)
	}
	return good, nil
}

func tracks(o options) []track {
	half := o.cuts / 2
	return []track{
		{"kill", []string{""}, o.kills, func(r *rig, _ int) func(context.Context) error { return r.kill }},
		{"cut", []string{"cut"}, half, func(r *rig, _ int) func(context.Context) error { return r.cut }},
		{"journal", []string{"journal"}, o.cuts - half, func(r *rig, _ int) func(context.Context) error { return r.cut }},
		{"stop", []string{"cut"}, o.stops + o.stalls, func(r *rig, i int) func(context.Context) error {
			switch {
			case i >= o.stops:
				return r.stall
			case i%4 == 3:
				return r.freeze(6*time.Second, 6*time.Second, "SIGSTOP longer than the lease")
			}
			return r.freeze(time.Second, 3*time.Second, "SIGSTOP shorter than the lease")
		}},
		{"full", []string{"small"}, o.fulls, func(r *rig, _ int) func(context.Context) error { return r.fill }},
	}
}
