package sqltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// Two relays of two processes, which come and go while others write, keep keys in order, and send nothing twice as long as they may finish.
func TestRelaysTakeTurns(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		const origins, each = 4, 60
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect)
		ctx, cancel := context.WithCancel(t.Context())
		var relays sync.WaitGroup
		var mu sync.Mutex
		led := 0
		for range 2 {
			other := mqsql.NewOutbox(db.another(t), db.dialect, mqsql.WithPoll(10*time.Millisecond))
			relays.Go(func() {
				for ctx.Err() == nil {
					turn, end := context.WithTimeout(ctx, 40*time.Millisecond)
					relay := other.Relay(s)
					if err := relay.Run(turn); err != nil {
						t.Error(err)
					}
					end()
					mu.Lock()
					led += int(relay.Counts().Leases)
					mu.Unlock()
				}
			})
		}
		var writers sync.WaitGroup
		for i := range origins {
			writers.Go(func() {
				for n := range each {
					depart(t, db, o, fmt.Sprintf("A%d", i), fmt.Sprintf("A%d/%d", i, n+1))
				}
			})
		}
		writers.Wait()
		await(t, "all is sent, by several", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(s.flights()) >= origins*each && led > 3
		})
		cancel()
		relays.Wait()
		inOrder(t, s.flights(), each)
		if n := len(s.flights()); n != origins*each {
			t.Errorf("%d were sent, not %d", n, origins*each)
		}
	})
}

// A relay that stands still while it sends, until another one has taken over, sends nothing before its time when it goes on.
func TestARelayThatWasPausedBreaksNoOrder(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		standing, resume := make(chan struct{}), make(chan struct{})
		var once sync.Once
		slow := senderFunc(func(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
			once.Do(func() {
				close(standing)
				<-resume
			})
			return s.Send(ctx, p)
		})
		o := mqsql.NewOutbox(db.DB, db.dialect)
		for n := range 3 {
			depart(t, db, o, "A", fmt.Sprintf("A/%d", n+1))
		}
		// The whole process stands still: it cannot renew its lease either.
		frozen := db.another(t)
		paused := mqsql.NewOutbox(frozen, db.dialect).Relay(slow, mqsql.WithRelayName("paused"), mqsql.WithLease(300*time.Millisecond))
		stop := run(t, paused)
		<-standing
		if _, err := db.ExecContext(t.Context(), "UPDATE mq_relay SET expires_at = 0"); err != nil {
			t.Fatal(err)
		}
		other := mqsql.NewOutbox(db.another(t), db.dialect).Relay(s, mqsql.WithPoll(5*time.Millisecond))
		run(t, other)
		await(t, "the other sends all", func() bool { return len(s.flights()) == 3 })
		depart(t, db, o, "A", "A/4")
		close(resume)
		await(t, "the first has gone on", func() bool { return len(s.flights()) >= 5 })
		stop()
		await(t, "the last is sent", func() bool { return slices.Contains(s.flights(), "A/4") })
		inOrder(t, s.flights(), 4)
		first := s.took[0]
		again := 0
		for _, m := range s.took {
			if m == first { // the same id
				again++
			}
		}
		if again != 2 {
			t.Errorf("A/1 was sent %d times: %v", again, s.flights())
		}
	})
}

type senderFunc func(context.Context, *mq.Publication) (mq.Receipt, error)

func (f senderFunc) Send(ctx context.Context, p *mq.Publication) (mq.Receipt, error) {
	return f(ctx, p)
}

// A relay that dies leaves its lease. Its successor of the same name need not wait, others do until it ends.
func TestWhoTakesOver(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		o := mqsql.NewOutbox(db.DB, db.dialect)
		die := func(left time.Duration) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), "DELETE FROM mq_relay"); err != nil {
				t.Fatal(err)
			}
			at := time.Now().Add(left).UnixMilli()
			if _, err := db.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO mq_relay VALUES ('outbox', 'dead', 7, %d)", at)); err != nil {
				t.Fatal(err)
			}
		}
		die(time.Hour)
		s := &sidecar{}
		stranger := o.Relay(s, mqsql.WithPoll(time.Millisecond))
		stop := run(t, stranger)
		depart(t, db, o, "A", "A/1")
		successor := o.Relay(s, mqsql.WithRelayName("dead"), mqsql.WithPoll(time.Millisecond))
		endSuccessor := run(t, successor)
		await(t, "the successor sends", func() bool { return len(s.flights()) == 1 })
		if stranger.Counts().Leases != 0 || successor.Counts().Leases != 1 || db.number(t, "SELECT epoch FROM mq_relay") != 8 {
			t.Errorf("%+v, %+v", stranger.Counts(), successor.Counts())
		}
		endSuccessor() // gives its lease back
		await(t, "the other takes its place", func() bool { return stranger.Counts().Leases == 1 })
		stop()
		die(100 * time.Millisecond)
		late := o.Relay(s, mqsql.WithPoll(time.Millisecond))
		run(t, late)
		await(t, "the lease is over", func() bool { return late.Counts().Leases == 1 })
	})
}

// A relay that is told to stop waits for what it has sent, and notes it.
func TestARelayThatStopsFinishes(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		sending, answer := make(chan struct{}), make(chan struct{})
		s := &sidecar{refuse: func(ctx context.Context, m sent) error {
			if m.flight != "A/1" {
				t.Errorf("%s was sent after the relay was told to stop", m.flight)
			}
			close(sending)
			<-answer
			return ctx.Err()
		}}
		o := mqsql.NewOutbox(db.DB, db.dialect)
		depart(t, db, o, "A", "A/1")
		depart(t, db, o, "A", "A/2")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- o.Relay(s).Run(ctx) }()
		<-sending
		cancel()
		close(answer)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if stats, err := o.Stats(t.Context()); err != nil || stats.Sent != 1 || stats.Waiting != 1 {
			t.Errorf("%+v, %v", stats, err)
		}
		if ends := time.UnixMilli(db.number(t, "SELECT expires_at FROM mq_relay")); time.Until(ends) > time.Second {
			t.Errorf("it kept its lease, until %v", ends)
		}
	})
}

func TestARelayEndsWithItsClient(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		o := mqsql.NewOutbox(db.DB, db.dialect)
		depart(t, db, o, "A", "A/1")
		r := o.Relay(&sidecar{refuse: func(context.Context, sent) error { return mq.ErrClosed }})
		if err := r.Run(t.Context()); !errors.Is(err, mq.ErrClosed) {
			t.Errorf("the error is %v", err)
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("it ran twice")
		}
	})
}

// A relay outlives its database, and notes what it has sent when that is back.
func TestARelayWaitsForItsDatabase(t *testing.T) {
	onEach(t, func(t *testing.T, db *database) {
		s := &sidecar{}
		o := mqsql.NewOutbox(db.DB, db.dialect)
		var once sync.Once
		rename := func(from, to string) {
			if _, err := db.ExecContext(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
				t.Error(err)
			}
		}
		s.refusing(func(context.Context, sent) error {
			once.Do(func() { rename("mq_outbox", "gone") })
			return nil
		})
		depart(t, db, o, "A", "A/1")
		depart(t, db, o, "B", "B/1")
		run(t, o.Relay(s, mqsql.WithPoll(5*time.Millisecond)))
		await(t, "both are sent", func() bool { return len(s.flights()) == 2 })
		time.Sleep(50 * time.Millisecond) // it tries to note that
		rename("gone", "mq_outbox")
		await(t, "both are noted", func() bool { return db.number(t, "SELECT count(*) FROM mq_outbox WHERE state = 3") == 2 })
		if n := len(s.flights()); n != 2 {
			t.Errorf("%d were sent", n)
		}
	})
}
