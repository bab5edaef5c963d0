package main

import (
	"context"
	"errors"
	"fmt"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// ledger implements scenariosv1mq.LedgerConsumer. Its handlers need no locks per account: no two bookings of an account are handled at a time,
// by whichever worker.
type ledger struct{ bookings, steps journal }

var errDatabase = errors.New("the database is gone for a moment")

// OnBooked fails at first at some bookings.
func (l *ledger) OnBooked(ctx context.Context, booking *scenariosv1.Booking) error {
	return l.bookings.handle(ctx, numbered(booking.GetAccount(), booking.GetNumber()), func() error {
		if booking.GetNumber()%10 == 7 && mq.MetaFrom(ctx).Attempt == 1 {
			return errDatabase
		}
		return nil
	})
}

// OnLogged fails at first at some steps.
func (l *ledger) OnLogged(ctx context.Context, step *scenariosv1.Step) error {
	return l.steps.handle(ctx, numbered(step.GetJournal(), step.GetNumber()), func() error {
		if step.GetNumber() == 5 && mq.MetaFrom(ctx).Attempt == 1 {
			return errDatabase
		}
		return nil
	})
}

// alerts implements scenariosv1mq.AlertsConsumer. It can do nothing for one account, for a while.
type alerts struct {
	frozen  gate
	journal journal
}

// OnBooked holds up the bookings of the busiest account while it is frozen, and none else.
func (a *alerts) OnBooked(ctx context.Context, booking *scenariosv1.Booking) error {
	return a.journal.handle(ctx, numbered(booking.GetAccount(), booking.GetNumber()), func() error {
		if booking.GetAccount() == busiest {
			return a.frozen.pass(ctx)
		}
		return nil
	})
}

const busiest = "account-0"

func numbered(of string, n int32) string { return fmt.Sprintf("%s/%d", of, n) }

func runOrder(ctx context.Context, s *stage) (measured figures, err error) {
	const workers = 4
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewBankPublisher(client)
	books, late := &ledger{}, &alerts{}
	late.frozen.shut()
	defer late.frozen.open()
	keep := func(w *mq.Worker) { scenariosv1mq.RegisterLedgerConsumer(w, books) }
	leaves := s.consume(ctx, keep)
	for range workers - 1 {
		s.consume(ctx, keep)
	}
	for range workers {
		s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterAlertsConsumer(w, late) })
	}

	// The busiest account first, so that its bookings lie before those of others in the log.
	busy, others := bookings(busiest, 300), [][]*scenariosv1.Booking{}
	for i := range 40 {
		others = append(others, bookings(fmt.Sprintf("account-%d", i+1), 20))
	}
	book := func(ctx context.Context, b *scenariosv1.Booking) error {
		_, err := publisher.Booked(ctx, b)
		return err
	}
	if err := publishLines(ctx, [][]*scenariosv1.Booking{busy}, book); err != nil {
		return nil, err
	}
	if err := publishLines(ctx, others, book); err != nil {
		return nil, err
	}
	leaves() // one worker of the ledger stops in the middle of it, and another takes its place
	before := len(books.bookings.done())
	s.consume(ctx, keep)
	log := func(ctx context.Context, step *scenariosv1.Step) error {
		_, err := publisher.Logged(ctx, step)
		return err
	}
	if err := publishLines(ctx, [][]*scenariosv1.Step{steps("north", 40), steps("south", 40), steps("west", 40)}, log); err != nil {
		return nil, err
	}

	// One key is blocked, and all others are done meanwhile.
	total := len(busy) + 40*20
	if err := late.thaw(ctx, total-len(busy)); err != nil {
		return nil, err
	}
	for _, at := range []struct{ group, topic string }{{"ledger", "bookings"}, {"ledger", "journal"}, {"alerts", "bookings"}} {
		if _, err := s.settled(ctx, at.group, at.topic); err != nil {
			return nil, err
		}
	}

	booked, logged, alerted := books.bookings.all(), books.steps.all(), late.journal.all()
	accounts, retried, err := checkKeys(booked)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if _, _, err := checkKeys(alerted); err != nil {
		return nil, fmt.Errorf("alerts: %w", err)
	}
	if a, b := len(books.bookings.done()), len(late.journal.done()); a != total || b != total {
		return nil, fmt.Errorf("%d and %d of %d bookings are done", a, b, total)
	}
	if done := len(books.steps.done()); done != 120 {
		return nil, fmt.Errorf("%d of 120 steps are done", done)
	}
	partitions, err := checkPartitions(logged)
	if err != nil {
		return nil, err
	}
	measured.add("keys", accounts)
	measured.add("workers", workers)
	measured.add("one_replaced_after", before)
	measured.add("bookings", total)
	measured.add("retried", retried)
	measured.add("overlaps", 0) // or it would have failed
	measured.add("done_beside_blocked_key", total-len(busy))
	measured.add("parked_behind_it", len(busy)-1)
	first := byID(alerted)[numbered(busiest, 1)][0]
	measured.milliseconds("blocked_ms", first.end.Sub(first.begin))
	measured.add("strict_partitions", partitions)
	return measured, nil
}

// thaw waits until n bookings of other accounts are done, and lets the frozen one go.
func (a *alerts) thaw(ctx context.Context, n int) error {
	err := await(ctx, func() (string, error) {
		if done := len(a.journal.done()); done < n {
			return fmt.Sprintf("%d of %d bookings are done while one account is blocked", done, n), nil
		}
		return "", nil
	})
	if begun := a.journal.begun(); err == nil && begun != n+1 {
		err = fmt.Errorf("%d bookings have begun, not those of other accounts and one of the blocked: %d", begun, n+1)
	}
	a.frozen.open()
	return err
}

func bookings(account string, n int) (list []*scenariosv1.Booking) {
	for i := range n {
		list = append(list, &scenariosv1.Booking{Account: account, Number: int32(i + 1)})
	}
	return list
}

func steps(journal string, n int) (list []*scenariosv1.Step) {
	for i := range n {
		list = append(list, &scenariosv1.Step{Journal: journal, Number: int32(i + 1)})
	}
	return list
}

// checkKeys checks the calls for each key: 1, 2, 3, …, the same number again after an error, and none before the one before has returned. It
// returns how many keys and how many errors there were.
func checkKeys(all []handling) (keys, failed int, err error) {
	lists := by(all, func(h handling) string { return string(h.meta.Key) })
	for key, list := range lists {
		next := int32(1)
		for i, h := range list {
			if want := numbered(key, next); h.id != want {
				return 0, 0, fmt.Errorf("%s came when it was the turn of %s", h.id, want)
			}
			if i > 0 && h.begin.Before(list[i-1].end) {
				return 0, 0, fmt.Errorf("%s came while %s was handled", h.id, list[i-1].id)
			}
			if h.err != nil {
				failed++
			} else {
				next++
			}
		}
	}
	return len(lists), failed, nil
}

// checkPartitions checks the calls for each partition: offsets one after the other, the same again after an error, and none before the one
// before has returned. It returns how many partitions there are.
func checkPartitions(all []handling) (partitions int, err error) {
	lists := by(all, func(h handling) uint32 { return h.meta.Partition })
	for partition, list := range lists {
		next := int64(0)
		for i, h := range list {
			if h.meta.Offset != next {
				return 0, fmt.Errorf("partition %d: offset %d came when it was the turn of %d", partition, h.meta.Offset, next)
			}
			if i > 0 && h.begin.Before(list[i-1].end) {
				return 0, fmt.Errorf("partition %d: %s came while %s was handled", partition, h.id, list[i-1].id)
			}
			if h.err == nil {
				next++
			}
		}
	}
	return len(lists), nil
}
