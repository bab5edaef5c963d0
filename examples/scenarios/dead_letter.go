package main

import (
	"context"
	"fmt"
	"sync/atomic"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
)

// bookkeeping enters invoices. It implements scenariosv1mq.BookkeepingConsumer.
type bookkeeping struct {
	repaired atomic.Bool
	journal  journal
}

// OnIssued fails at some invoices, until it is repaired.
func (b *bookkeeping) OnIssued(ctx context.Context, invoice *scenariosv1.Invoice) error {
	id := fmt.Sprintf("%s/%d", invoice.GetCustomer(), invoice.GetNumber())
	return b.journal.handle(ctx, id, func() error {
		switch {
		case b.repaired.Load():
			return nil
		case invoice.GetCurrency() == "XXX":
			return fmt.Errorf("no rate for XXX in invoice %d of %s", invoice.GetNumber(), invoice.GetCustomer())
		case invoice.GetCents() < 0:
			return fmt.Errorf("the amount %d is negative", invoice.GetCents())
		default:
			return nil
		}
	})
}

// Of ten customers with six invoices each, two have one in a strange currency, and three a credit note.
const (
	customers    = 10
	perCustomer  = 6
	strangeAt    = 4 // number of the invoice
	creditNoteAt = 2
)

func hasStrange(customer int) bool    { return customer < 2 }
func hasCreditNote(customer int) bool { return customer >= 2 && customer < 5 }
func customerName(customer int) string {
	return fmt.Sprintf("customer-%d", customer)
}

func invoices() (lines [][]*scenariosv1.Invoice) {
	for c := range customers {
		var line []*scenariosv1.Invoice
		for n := 1; n <= perCustomer; n++ {
			invoice := &scenariosv1.Invoice{Customer: customerName(c), Number: int32(n), Currency: "EUR", Cents: int64(1000*c + n)}
			if hasStrange(c) && n == strangeAt {
				invoice.Currency = "XXX"
			}
			if hasCreditNote(c) && n == creditNoteAt {
				invoice.Cents = -invoice.Cents
			}
			line = append(line, invoice)
		}
		lines = append(lines, line)
	}
	return lines
}

func runDeadLetter(ctx context.Context, s *stage) (measured figures, err error) {
	const group, topic = "bookkeeping", "invoices"
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewInvoicesPublisher(client)
	handler := &bookkeeping{}
	s.consume(ctx, func(w *mq.Worker) { scenariosv1mq.RegisterBookkeepingConsumer(w, handler) })
	err = publishLines(ctx, invoices(), func(ctx context.Context, invoice *scenariosv1.Invoice) error {
		_, err := publisher.Issued(ctx, invoice)
		return err
	})
	if err != nil {
		return nil, err
	}

	// Five invoices use up their attempts and hold what comes after them.
	letters, err := s.buried(ctx, group, topic, 5)
	if err != nil {
		return nil, err
	}
	if err := handler.reached(ctx, invoicesBefore(true, true)); err != nil {
		return nil, err
	}
	if err := s.checkLetters(ctx, letters); err != nil {
		return nil, err
	}

	// Somebody looks at the failures, repairs the service, and gives one of them back.
	failures, err := s.failures(ctx, group, topic)
	if err != nil {
		return nil, err
	}
	credit, strange := failures[0], failures[1] // the most frequent first
	if len(failures) != 2 || credit.GetDeadLetters() != 3 || strange.GetDeadLetters() != 2 {
		return nil, fmt.Errorf("the dead letters are not grouped into 3 and 2: %v", failures)
	}
	handler.repaired.Store(true)
	if err := s.redrive(ctx, 3, group, topic, "--failure", credit.GetFailure()); err != nil {
		return nil, err
	}
	if err := handler.reached(ctx, invoicesBefore(true, false)); err != nil {
		return nil, err
	}
	now, err := s.stands(ctx, group, topic)
	if err != nil {
		return nil, err
	}
	if now.held != 2 || now.deadLetters != 2 {
		return nil, fmt.Errorf("%d dead letters are left and %d hold their keys, not 2", now.deadLetters, now.held)
	}

	// And then the others, each by its id.
	var ids []string
	for _, d := range letters {
		if d.GetJson().GetFields()["currency"].GetStringValue() == "XXX" {
			ids = append(ids, d.GetId())
		}
	}
	if err := s.redrive(ctx, 2, group, topic, ids...); err != nil {
		return nil, err
	}
	if _, err := s.settled(ctx, group, topic); err != nil {
		return nil, err
	}
	held, err := checkInvoices(handler.journal.all(), letters)
	if err != nil {
		return nil, err
	}
	measured.add("invoices", customers*perCustomer)
	measured.add("dead_lettered", len(letters))
	measured.add("failures", len(failures))
	measured.add("held_back", held)
	measured.add("redriven", 3+len(ids))
	return measured, nil
}

// invoicesBefore is how many invoices can be entered while some of the dead letters hold their customers.
func invoicesBefore(strangeHold, creditNotesHold bool) int {
	sum := 0
	for c := range customers {
		switch {
		case hasStrange(c) && strangeHold:
			sum += strangeAt - 1
		case hasCreditNote(c) && creditNotesHold:
			sum += creditNoteAt - 1
		default:
			sum += perCustomer
		}
	}
	return sum
}

// reached waits until n invoices are entered.
func (b *bookkeeping) reached(ctx context.Context, n int) error {
	return await(ctx, func() (string, error) {
		if done := len(b.journal.done()); done < n {
			return fmt.Sprintf("%d of %d invoices are entered", done, n), nil
		}
		return "", nil
	})
}

// checkLetters checks what is known of each dead letter, in the list and by itself.
func (s *stage) checkLetters(ctx context.Context, letters []*adminv1.DeadLetter) error {
	for _, d := range letters {
		if d.GetReason() != "attempts_spent" || d.GetAttempts() != 2 || !d.GetHoldsKey() || d.GetFirstError() == "" {
			return fmt.Errorf("dead letter %v is not as it should be", d)
		}
		shown, err := ask(ctx, s.server, &adminv1.ListDeadLettersResponse{}, "dlq", "show", d.GetGroup(), d.GetTopic(), d.GetId())
		if err != nil {
			return err
		}
		if len(shown.GetDeadLetters()) != 1 {
			return fmt.Errorf("%d dead letters have the id %s", len(shown.GetDeadLetters()), d.GetId())
		}
		if customer := shown.GetDeadLetters()[0].GetJson().GetFields()["customer"].GetStringValue(); customer != string(d.GetKey()) {
			return fmt.Errorf("dead letter %s has the key %q and the customer %q", d.GetId(), d.GetKey(), customer)
		}
	}
	return nil
}

// checkInvoices checks that every customer's invoices were entered in order, those behind a dead letter after it, and redriven ones with
// attempts from 1 under their former id. It returns how many waited for a dead letter.
func checkInvoices(all []handling, letters []*adminv1.DeadLetter) (held int, err error) {
	ids := map[string]bool{}
	for _, d := range letters {
		ids[d.GetId()] = true
	}
	failed := map[string]int{}
	next := map[string]int{} // by customer
	broken := map[string]bool{}
	for _, h := range all {
		customer := string(h.meta.Key)
		if want := fmt.Sprintf("%s/%d", customer, next[customer]+1); h.id != want {
			return 0, fmt.Errorf("%s came when it was the turn of %s", h.id, want)
		}
		want := uint32(failed[h.id]%2 + 1) // 1, 2, and redriven from 1
		if h.meta.Attempt != want {
			return 0, fmt.Errorf("%s came as attempt %d, not %d", h.id, h.meta.Attempt, want)
		}
		if h.err != nil {
			failed[h.id]++
			broken[customer] = true
			continue
		}
		next[customer]++
		switch {
		case failed[h.id] > 0:
			if !ids[h.meta.ID] {
				return 0, fmt.Errorf("%s was redriven as %s, which no dead letter was", h.id, h.meta.ID)
			}
			delete(ids, h.meta.ID)
		case broken[customer]:
			held++
		}
	}
	for c := range customers {
		if name := customerName(c); next[name] != perCustomer {
			return 0, fmt.Errorf("%d of %d invoices of %s are entered", next[name], perCustomer, name)
		}
	}
	if len(ids) > 0 {
		return 0, fmt.Errorf("%d dead letters were not redriven", len(ids))
	}
	return held, nil
}
