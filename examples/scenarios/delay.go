package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// notifier implements scenariosv1mq.NotifierConsumer.
type notifier struct{ journal journal }

// OnReminder is called when a reminder is due, never before.
func (n *notifier) OnReminder(ctx context.Context, reminder *scenariosv1.Reminder) error {
	return n.journal.handle(ctx, reminder.GetReminderId(), func() error { return nil })
}

// remind publishes a reminder for an instant, in one of the four ways to say when.
func remind(ctx context.Context, publisher scenariosv1mq.RemindersPublisher, p *planned) (mq.Receipt, error) {
	reminder := &scenariosv1.Reminder{ReminderId: p.id}
	switch p.way {
	case "deliver_at": // the instant is an option of the call
		return publisher.Added(ctx, reminder, mq.WithDeliverAt(p.due))
	case "delay": // so is the delay; it counts from when the sidecar takes the message
		return publisher.Added(ctx, reminder, mq.WithDelay(p.delay))
	case "rpc": // the delay is that of the rpc in delay.proto
		return publisher.Snoozed(ctx, reminder)
	default: // the instant is in the message, in the field that is annotated with deliver_at
		reminder.At = timestamppb.New(p.due)
		return publisher.Added(ctx, reminder)
	}
}

// planned is a reminder, and what is known of it.
type planned struct {
	id, way   string
	due       time.Time     // not before; of a delay, that long after the call
	delay     time.Duration // of the ways delay and rpc
	receipt   mq.Receipt
	cancelled bool
}

// exact tells whether due is the very instant, so that one can say how late the message was.
func (p *planned) exact() bool { return p.way == "deliver_at" || p.way == "field" }

const (
	overdue   = 100  // reminders that become due while there is no sidecar
	punctual  = 1100 // reminders that become due later on
	someDelay = 100  // reminders with a delay
	fromRPC   = 50
	cancelled = 40
)

// plan spreads reminders over the seconds after now: while the sidecar will be away, and for two seconds once it will be back.
func plan(now time.Time) (all []*planned) {
	add := func(way string, n int, from, to time.Duration) {
		for i := range n {
			after := from + (to-from)*time.Duration(i)/time.Duration(n)
			p := &planned{id: fmt.Sprintf("%s-%d-%d", way, from.Milliseconds(), i), way: way, due: now.Add(after), delay: after}
			if way == "rpc" {
				p.delay = time.Second // as annotated
			}
			all = append(all, p)
		}
	}
	add("deliver_at", overdue, away, back)
	add("deliver_at", punctual/2, 4500*time.Millisecond, 6500*time.Millisecond)
	add("field", punctual/2, 4500*time.Millisecond, 6500*time.Millisecond)
	add("delay", someDelay, 4500*time.Millisecond, 5500*time.Millisecond)
	add("rpc", fromRPC, 0, 0)
	return all
}

// When the sidecar is killed, and when it is started again.
const (
	away = 2500 * time.Millisecond
	back = 3000 * time.Millisecond
)

func runDelay(ctx context.Context, s *stage) (measured figures, err error) {
	const group, topic = "notifier", "reminders"
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewRemindersPublisher(client)
	handler := &notifier{}
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterNotifierConsumer(w, handler) })

	begin := time.Now()
	all := plan(begin)
	err = publishAll(ctx, all, func(ctx context.Context, p *planned) (err error) {
		if !p.exact() {
			p.due = time.Now().Add(p.delay)
		}
		p.receipt, err = remind(ctx, publisher, p)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if !p.receipt.Scheduled || p.receipt.Offset != -1 {
			return nil, fmt.Errorf("reminder %s has a place at once: %+v", p.id, p.receipt)
		}
	}
	if err := s.cancel(ctx, client, topic, all); err != nil {
		return nil, err
	}
	if time.Since(begin) > away {
		return nil, fmt.Errorf("publishing took %v, and the sidecar was to be killed after %v: the machine is too slow", time.Since(begin), away)
	}

	// The sidecar dies with all of it on its schedule, and comes back.
	if err := sleep(ctx, time.Until(begin.Add(away))); err != nil {
		return nil, err
	}
	killed := time.Now()
	s.server.process.Kill()
	if err := sleep(ctx, time.Until(begin.Add(back))); err != nil {
		return nil, err
	}
	if err := s.server.start(ctx, s.fail); err != nil {
		return nil, err
	}
	returned := time.Now()

	wanted := len(all) - cancelled
	err = await(ctx, func() (string, error) {
		if done := len(handler.journal.done()); done < wanted {
			return fmt.Sprintf("%d of %d reminders came", done, wanted), nil
		}
		return "", nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := s.settled(ctx, group, topic); err != nil {
		return nil, err
	}
	left, err := s.scheduled(ctx, topic)
	if err != nil {
		return nil, err
	}
	if left != 0 {
		return nil, fmt.Errorf("%d messages are still on the schedule", left)
	}
	came, err := checkReminders(all, handler.journal.all(), killed, returned.Add(settling))
	if err != nil {
		return nil, err
	}
	measured.add("reminders", len(all))
	measured.add("cancelled", cancelled)
	measured.add("early", 0) // or it would have failed
	measured.add("lost", 0)
	measured.add("duplicates", came.again)
	measured.add("due_without_sidecar", came.overdue)
	measured.add("sidecar_away_ms", returned.Sub(killed).Milliseconds())
	measured.add("measured", len(came.late))
	measured.milliseconds("late_p50_ms", quantile(came.late, 0.5))
	measured.milliseconds("late_p99_ms", quantile(came.late, 0.99))
	measured.milliseconds("late_max_ms", quantile(came.late, 1))
	return measured, nil
}

// cancel takes some of the reminders back: those of the SDK's client, and one of the command line.
func (s *stage) cancel(ctx context.Context, client *mq.Client, topic string, all []*planned) error {
	var ids []string
	for _, p := range all {
		if p.way == "field" && len(ids) < cancelled {
			p.cancelled = true
			ids = append(ids, p.receipt.ID)
		}
	}
	byHand, rest := ids[0], ids[1:]
	n, err := client.Cancel(ctx, topic, rest...)
	if err != nil {
		return err
	}
	answer, err := ask(ctx, s.server, &brokerv1.CancelResponse{}, "scheduled", "cancel", topic, byHand)
	if err != nil {
		return err
	}
	if n != len(rest) || answer.GetCanceled() != 1 {
		return fmt.Errorf("the client took %d of %d messages back, mq scheduled cancel %d of 1", n, len(rest), answer.GetCanceled())
	}
	// What is cancelled is gone: there is nothing to take back a second time.
	if _, err := client.Cancel(ctx, topic, byHand); !errors.Is(err, mq.ErrMessageUnknown) {
		return fmt.Errorf("cancelled twice: %v", err)
	}
	return nil
}

// scheduled asks mq scheduled list how many messages are not due yet.
func (s *stage) scheduled(ctx context.Context, topic string) (int, error) {
	answer, err := ask(ctx, s.server, &adminv1.ListScheduledResponse{}, "scheduled", "list", topic, "--number", "0")
	return len(answer.GetScheduled()), err
}

// arrival is how the reminders came.
type arrival struct {
	late    []time.Duration // of those that became due while the sidecar was there, and whose instant is exact
	overdue int             // of those that became due while it was not
	again   int             // handlings after the first
}

// settling is how long consumers may take to find a sidecar that is back.
const settling = 500 * time.Millisecond

// underWay is how long before the kill a reminder may have become due and yet not have been handled.
const underWay = 100 * time.Millisecond

// mostLate is how late a reminder may be on a machine that has other things to do.
const mostLate = 2 * time.Second

// checkReminders checks that every reminder came, none before its time, and none that was cancelled.
func checkReminders(all []*planned, handled []handling, killed, back time.Time) (came arrival, err error) {
	byID := byID(handled)
	for _, p := range all {
		calls := byID[p.id]
		switch {
		case p.cancelled && len(calls) > 0:
			return came, fmt.Errorf("reminder %s was cancelled and came", p.id)
		case p.cancelled:
			continue
		case len(calls) == 0:
			return came, fmt.Errorf("reminder %s was lost", p.id)
		}
		late := calls[0].begin.Sub(p.due)
		came.again += len(calls) - 1
		switch {
		case late < 0:
			return came, fmt.Errorf("reminder %s came %v too early", p.id, -late)
		case p.due.After(killed.Add(-underWay)) && p.due.Before(back):
			came.overdue++
		case late > mostLate:
			return came, fmt.Errorf("reminder %s came %v too late", p.id, late)
		case p.exact():
			came.late = append(came.late, late)
		}
	}
	if len(came.late) < 1000 {
		return came, fmt.Errorf("only %d reminders tell how late they come", len(came.late))
	}
	return came, nil
}
