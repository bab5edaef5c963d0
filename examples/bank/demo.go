package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/typedmq/typedmq/examples/internal/child"
)

// demo runs both banks and a sidecar as processes, and kills them.
type demo struct {
	out       io.Writer
	mq        string
	kills     int
	rate      int
	databases [2]string // of the north and the south
	timeout   time.Duration
	keep      bool

	dir   string
	left  atomic.Int64 // kills
	began time.Time
}

const (
	// patience is how long a process may take to drain.
	patience = 10 * time.Second
	// settleWithin is how long all that is on its way may take to arrive, once nobody is killed any more.
	settleWithin = time.Minute
)

// run prints the verdict as its last line, and returns an error if it is bad.
func (d *demo) run(ctx context.Context) (err error) {
	if d.mq == "" {
		d.mq, err = beside("mq")
	} else {
		d.mq, err = filepath.Abs(d.mq)
	}
	if err == nil {
		d.dir, err = os.MkdirTemp("", "typedmq-bank-")
	}
	if err == nil {
		d.began = time.Now()
		err = d.play(ctx)
	}
	if err != nil {
		if d.dir != "" {
			fmt.Fprintf(d.out, "Logs and data are in %s\n", d.dir)
		}
		fmt.Fprintf(d.out, "bank: FAILED %s\n", strings.Join(strings.Fields(err.Error()), " "))
	} else if !d.keep {
		_ = os.RemoveAll(d.dir)
	}
	return err
}

func (d *demo) play(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, fmt.Errorf("not done within %v", d.timeout))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	dbs, err := d.openBoth(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for _, db := range dbs {
			_ = db.Close()
		}
	}()

	sidecar := child.NewSidecar(d.mq, d.dir)
	ended := func(p *child.Process) {
		fail(fmt.Errorf("%s ended by itself: %v: %s", p.Name, p.Err(), p.LastWords()))
	}
	victims := []*victim{{name: "mq", life: 1200 * time.Millisecond, start: func(bool) (*child.Process, error) {
		p, _, err := sidecar.Serve(ctx, ended)
		return p, err
	}}}
	var up sync.WaitGroup // counts banks that are to run in the end
	for i, bank := range []string{north, south} {
		up.Add(1)
		victims = append(victims, &victim{name: bank, life: time.Second, start: func(last bool) (*child.Process, error) {
			self, err := os.Executable()
			if err != nil {
				return nil, err
			}
			args := []string{bank, "-db", d.databases[i], "-journal", d.journal(bank)}
			program := child.Program{Name: bank, Path: self, Args: args, Env: sidecar.Env(), Ended: ended}
			if last {
				program.Read = func(string) error { up.Done(); return nil }
			} else {
				program.Args = append(args, "-rate", fmt.Sprint(d.rate)) // in the end nothing new begins
			}
			return child.Start(d.dir, program)
		}})
	}
	d.left.Store(int64(d.kills))
	var killers sync.WaitGroup
	for _, v := range victims {
		killers.Go(func() {
			if err := v.torment(ctx, &d.left); err != nil {
				fail(fmt.Errorf("%s: %w", v.name, err))
			}
		})
	}
	killed := make(chan struct{})
	go func() {
		killers.Wait()
		close(killed)
	}()
	defer func() { // the sidecar last
		<-killed
		for i := len(victims) - 1; i >= 0; i-- {
			victims[i].end()
		}
	}()
	d.report(ctx, killed, dbs[0])
	<-killed
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	settling := time.Now()
	if err := awaitSettled(ctx, dbs[0]); err != nil {
		return err
	}
	if err := await(ctx, &up); err != nil { // a process that has hardly begun would die of the signal
		return err
	}
	for i := len(victims) - 1; i >= 0; i-- {
		if err := victims[i].stop(); err != nil {
			return err
		}
	}
	return d.verdict(ctx, dbs, victims, time.Since(settling))
}

// openBoth opens both databases, empty but for the accounts.
func (d *demo) openBoth(ctx context.Context) (dbs [2]*sql.DB, err error) {
	for i, bank := range []string{north, south} {
		if d.databases[i] == "" {
			d.databases[i] = filepath.Join(d.dir, bank+".db")
		}
		db, dialect, err := open(d.databases[i])
		if err != nil {
			return dbs, err
		}
		dbs[i] = db
		if err := wipe(ctx, db, bank); err != nil {
			return dbs, err
		}
		if err := create(ctx, db, dialect, bank); err != nil {
			return dbs, err
		}
	}
	return dbs, nil
}

func (d *demo) journal(bank string) string { return filepath.Join(d.dir, bank+".deliveries") }

// report prints every few seconds how far it is.
func (d *demo) report(ctx context.Context, killed <-chan struct{}, db *sql.DB) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if n, err := unsettled(ctx, db); err == nil {
				fmt.Fprintf(d.out, "after %3.0fs %d of %d killed, %d transfers on their way\n", time.Since(d.began).Seconds(), d.kills-int(max(d.left.Load(), 0)), d.kills, n)
			}
		case <-killed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// awaitSettled waits until nothing is on its way.
func awaitSettled(ctx context.Context, db *sql.DB) error {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	for {
		n, err := unsettled(ctx, db)
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%d transfers are not settled after %v", n, settleWithin)
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// await waits for the group. It leaves a goroutine behind if ctx ends first, which the end of the program ends.
func await(ctx context.Context, group *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// verdict checks the books and prints what it found.
func (d *demo) verdict(ctx context.Context, dbs [2]*sql.DB, victims []*victim, settling time.Duration) error {
	var both [2]books
	deliveries, again := 0, 0
	for i, bank := range []string{north, south} {
		var err error
		if both[i], err = read(ctx, dbs[i], bank); err != nil {
			return err
		}
		all, more, err := redelivered(d.journal(bank))
		if err != nil {
			return err
		}
		deliveries, again = deliveries+all, again+more
	}
	r, err := check(both[0], both[1])
	if err != nil {
		return err
	}
	if r.transfers == 0 {
		return errors.New("no transfer was begun")
	}
	kills := 0
	for _, v := range victims {
		fmt.Fprintf(d.out, "%s was killed %d times\n", v.name, v.kills)
		kills += v.kills
	}
	fmt.Fprintf(d.out, "%d deliveries, %d of them again; %d transfers refused and paid back; all was settled %.1f s after the last kill; %.0f s in all\n",
		deliveries, again, r.refused, settling.Seconds(), time.Since(d.began).Seconds())
	fmt.Fprintf(d.out, "bank: ok transfers=%d kills=%d sum=constant duplicates=%d\n", r.transfers, kills, r.duplicates)
	return nil
}

// victim is a program that is killed again and again.
type victim struct {
	name  string
	life  time.Duration // the longest
	start func(last bool) (*child.Process, error)

	process *child.Process
	kills   int
}

// torment starts the program and kills it at a random time, for as long as kills are left, and starts it a last time.
func (v *victim) torment(ctx context.Context, left *atomic.Int64) (err error) {
	for left.Add(-1) >= 0 {
		if v.process, err = v.start(false); err != nil {
			return err
		}
		select {
		case <-time.After(20*time.Millisecond + rand.N(v.life)):
		case <-ctx.Done():
			return nil
		}
		v.process.Kill()
		v.kills++
	}
	v.process, err = v.start(true)
	return err
}

// stop lets the program drain.
func (v *victim) stop() error {
	p := v.process
	v.process = nil
	return p.Stop(patience)
}

// end ends what was not stopped.
func (v *victim) end() {
	if v.process != nil {
		v.process.Kill()
	}
}
