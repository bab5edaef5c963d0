package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/typedmq/typedmq/sidecar/crash/internal/cutfs"
	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// rig is one store from its first start to the check at its end: a disk, a sidecar on it, clients around it, and what is done to it.
type rig struct {
	name   string
	dir    string
	rng    *rand.Rand
	disk   *cutfs.Disk // nil if its files are the system's
	mount  string      // where the data directory's disk is mounted, empty if nowhere
	node   *node
	record *recorder
	load   *load
	tally  *tally
}

// newRig makes a directory with a disk of a kind: "" for the system's, "cut" and "journal" for ones that lose power, "small" for one that runs full.
func newRig(l *life, t *tally, mq, name, disk string, seed uint64) (*rig, error) {
	r := &rig{name: name, dir: filepath.Join(l.dir, name), rng: rand.New(rand.NewPCG(seed, 0x726967)), tally: t}
	data := filepath.Join(r.dir, "disk")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	switch disk {
	case "cut", "journal":
		d, err := cutfs.Mount(data, cutfs.Options{Journal: disk == "journal"})
		if err != nil {
			return nil, err
		}
		r.disk = d
		l.atEnd(func() { _ = d.Close() })
	case "small":
		if err := syscall.Mount("mq-crash", data, "tmpfs", 0, fmt.Sprintf("size=%d", smallDisk)); err != nil {
			return nil, fmt.Errorf("mount a tmpfs: %w", err)
		}
		r.mount = data
		l.atEnd(func() { _ = syscall.Unmount(data, syscall.MNT_DETACH) })
	}
	r.node = &node{mq: mq, data: filepath.Join(data, "d"), socket: filepath.Join(r.dir, "s"), log: filepath.Join(r.dir, "log"), life: l}
	r.record = newRecorder(plan(seed))
	var uid atomic.Uint64
	r.load = &load{record: r.record, uids: func() uint64 { return uid.Add(1) }}
	return r, nil
}

// smallDisk has room for etcd's files, a few memtables, and the 128 MiB below which publishing is refused.
const smallDisk = 768 << 20

// run begins load, strikes, and judges. An error is about the harness, or about a sidecar that does not start.
func (r *rig) run(ctx context.Context, strikes []func(context.Context) error) error {
	if err := r.start(ctx); err != nil {
		return err
	}
	if err := r.load.begin(ctx, r.node.address(), true); err != nil {
		return err
	}
	failed := func() error {
		for _, strike := range strikes {
			r.pause(ctx, 150*time.Millisecond, 450*time.Millisecond)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !r.node.up() {
				return fmt.Errorf("mq serve ended by itself:\n%s", lastWords(r.node.said(0)))
			}
			if err := strike(ctx); err != nil {
				return err
			}
		}
		return nil
	}()
	if failed != nil {
		r.load.leave()
		r.load.quiet()
		return failed
	}
	return r.judge(ctx)
}

func (r *rig) pause(ctx context.Context, from, to time.Duration) {
	timer := time.NewTimer(from + time.Duration(r.rng.Int64N(int64(to-from))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (r *rig) start(ctx context.Context) error {
	r.record.changed()
	at := r.node.logEnd()
	took, err := r.node.start(ctx)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, lastWords(r.node.said(at)))
	}
	r.record.changed()
	r.tally.restarted(took)
	return nil
}

// kill ends the sidecar with SIGKILL, and starts it again.
func (r *rig) kill(ctx context.Context) error {
	r.record.trouble(false)
	r.node.kill()
	r.tally.hit("kill -9")
	err := r.start(ctx)
	r.record.over()
	return err
}

// cut takes the disk's power away, with the sidecar's.
func (r *rig) cut(ctx context.Context) error {
	keep := cutfs.Keep{Share: []float64{0, 0, 0.5, 0.5, 0.9, 1}[r.rng.IntN(6)], Torn: r.rng.IntN(2) == 0}
	r.record.trouble(false)
	if err := r.disk.Cut(keep, r.rng, func() { r.node.signal(syscall.SIGKILL) }, r.node.wait); err != nil {
		return err
	}
	r.tally.hit("power cut")
	err := r.start(ctx)
	r.record.over()
	if err != nil {
		return fmt.Errorf("after a power cut that kept %v of the unsynced: %w", keep, err)
	}
	return nil
}

// freeze stops the sidecar for a while, and has it go on.
func (r *rig) freeze(d, settles time.Duration, kind string) func(context.Context) error {
	return func(ctx context.Context) error {
		r.record.trouble(true)
		r.node.signal(syscall.SIGSTOP)
		r.pause(ctx, d, d+500*time.Millisecond)
		r.node.signal(syscall.SIGCONT)
		r.tally.hit(kind)
		r.pause(ctx, settles, settles+500*time.Millisecond)
		r.record.over()
		return nil
	}
}

// stall makes syncs of the disk take long.
func (r *rig) stall(ctx context.Context) error {
	d := time.Second + time.Duration(r.rng.Int64N(int64(4*time.Second)))
	r.record.trouble(true)
	r.disk.Stall(time.Now().Add(d))
	r.tally.hit("fsync stall")
	r.pause(ctx, d+3*time.Second, d+4*time.Second)
	r.record.over()
	return nil
}

// fill takes all room of the disk, in steps, and gives it back. The sidecar may give up meanwhile; somebody starts it again, as a supervisor would.
func (r *rig) fill(ctx context.Context) error {
	r.record.trouble(true)
	ballast := filepath.Join(r.mount, "ballast")
	occupy := func(leave int64) error {
		var s syscall.Statfs_t
		if err := syscall.Statfs(r.mount, &s); err != nil {
			return err
		}
		f, err := os.OpenFile(ballast, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		take := int64(s.Bavail)*s.Bsize - leave
		if take <= 0 {
			return f.Truncate(max(0, info.Size()+take))
		}
		return syscall.Fallocate(int(f.Fd()), 0, info.Size(), take)
	}
	supervise := func(d time.Duration) {
		for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; r.pause(ctx, 100*time.Millisecond, 200*time.Millisecond) {
			if !r.node.up() {
				_ = r.start(ctx) // it may well not start on a full disk
			}
		}
	}
	for _, leave := range []int64{64 << 20, 8 << 20, 0} {
		if err := occupy(leave); err != nil && !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("fill the disk: %w", err)
		}
		supervise(700 * time.Millisecond)
	}
	r.tally.hit("disk full")
	if err := os.Remove(ballast); err != nil {
		return err
	}
	for end := time.Now().Add(startPatience); ; {
		if r.node.up() {
			break
		}
		err := r.start(ctx)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the disk has room again: %w", err)
		}
	}
	before := r.record.acknowledged()
	for end := time.Now().Add(15 * time.Second); r.record.acknowledged() < before+20; r.pause(ctx, 20*time.Millisecond, 40*time.Millisecond) {
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("nothing can be published 15 s after the disk has room again:\n%s", lastWords(r.node.said(0)))
		}
	}
	r.pause(ctx, 2*time.Second, 3*time.Second) // for tardy changes of ownership
	r.record.over()
	return nil
}

// judge heals, drains, restarts, reads all that is kept, and asks the checker.
func (r *rig) judge(ctx context.Context) error {
	r.record.add(sim.Event{Kind: sim.Heal})
	r.load.hush()
	if why := r.drain(ctx); why != "" {
		r.record.add(sim.Event{Kind: sim.Unservable, Detail: why})
	}
	if err := r.load.end(); err != nil {
		return err
	}
	// What is kept must not need what is in memory.
	r.node.kill()
	if err := r.start(ctx); err != nil {
		return err
	}
	if err := r.inventory(ctx); err != nil {
		return fmt.Errorf("read what is kept: %w", err)
	}
	if err := r.node.stop(); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	h, again, uncaused := r.record.history()
	r.tally.judged(r.name, h, sim.Check(h), again, uncaused)
	if r.disk != nil {
		return r.disk.Close()
	}
	return nil
}
