package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	scenariosv1 "github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1"
	"github.com/typedmq/typedmq/examples/scenarios/gen/scenarios/v1/scenariosv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// department handles the orders that its filter lets through. The sidecar filters: there is nothing to do here. It implements
// scenariosv1mq.FraudConsumer, KeyAccountsConsumer, CustomsConsumer and MarketingConsumer, which ask for the same method.
type department struct{ journal journal }

// OnOrdered handles an order.
func (d *department) OnOrdered(ctx context.Context, order *scenariosv1.Order) error {
	return d.journal.handle(ctx, order.GetOrderId(), func() error { return nil })
}

// purchase is an order and the campaign that led to it, if one did.
type purchase struct {
	order    *scenariosv1.Order
	campaign string
}

// interest is a group, and its filter in Go: what filter.proto says in CEL.
type interest struct {
	group    string
	wants    func(purchase) bool
	register func(*mq.Worker, *department)
}

func interests() []interest {
	return []interest{
		{"fraud", func(p purchase) bool { return p.order.GetCents() >= 50000 && p.order.GetExpress() },
			func(w *mq.Worker, d *department) { scenariosv1mq.RegisterFraudConsumer(w, d) }},
		{"key-accounts", func(p purchase) bool { return strings.HasPrefix(p.order.GetCustomer(), "corp-") },
			func(w *mq.Worker, d *department) { scenariosv1mq.RegisterKeyAccountsConsumer(w, d) }},
		{"customs", func(p purchase) bool { return p.order.GetCountry() == "NO" || p.order.GetCountry() == "CH" },
			func(w *mq.Worker, d *department) { scenariosv1mq.RegisterCustomsConsumer(w, d) }},
		{"marketing", func(p purchase) bool { return p.campaign == "spring" && p.order.GetCents() > 1000 },
			func(w *mq.Worker, d *department) { scenariosv1mq.RegisterMarketingConsumer(w, d) }},
	}
}

// purchases are the same in every run. The last of each customer is one that nobody wants, so that what is skipped stands at the end of
// every partition.
func purchases(n int) (all []purchase) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for i := range n {
		p := purchase{campaign: pick("", "", "spring", "autumn"), order: &scenariosv1.Order{
			OrderId: fmt.Sprintf("order-%d", i), Customer: fmt.Sprintf("%s-%d", pick("corp", "home", "home"), random.IntN(50)),
			Cents: random.Int64N(100_000), Country: pick("SE", "DK", "FI", "NO", "CH"), Express: random.IntN(2) == 0,
		}}
		all = append(all, p)
	}
	for i := range 50 {
		all = append(all, purchase{order: &scenariosv1.Order{
			OrderId: fmt.Sprintf("last-%d", i), Customer: fmt.Sprintf("home-%d", i), Cents: 100, Country: "SE",
		}})
	}
	return all
}

func runFilter(ctx context.Context, s *stage) (measured figures, err error) {
	const topic = "orders"
	client, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	publisher := scenariosv1mq.NewShopPublisher(client)
	departments := map[string]*department{}
	for _, i := range interests() {
		d := &department{}
		departments[i.group] = d
		s.consume(ctx, func(w *mq.Worker) { i.register(w, d) })
	}
	all := purchases(2000)
	publish := func(ctx context.Context, p purchase) error {
		var options []mq.PublishOption
		if p.campaign != "" {
			options = append(options, mq.WithHeader("campaign", p.campaign))
		}
		_, err := publisher.Ordered(ctx, p.order, options...)
		return err
	}
	if err := publishAll(ctx, all[:2000], publish); err != nil {
		return nil, err
	}
	if err := publishAll(ctx, all[2000:], publish); err != nil {
		return nil, err
	}
	measured.add("orders", len(all))
	for _, i := range interests() {
		// Positions reach the ends, though the last messages of each partition were delivered to nobody.
		now, err := s.settled(ctx, i.group, topic)
		if err != nil {
			return nil, err
		}
		wanted, err := checkFiltered(i, all, departments[i.group].journal.done())
		if err != nil {
			return nil, err
		}
		if now.filtered != int64(len(all)-wanted) || now.delivered != int64(wanted) {
			return nil, fmt.Errorf("%s: %d delivered and %d filtered of %d, of which it wants %d", i.group, now.delivered, now.filtered, len(all), wanted)
		}
		measured.add(strings.ReplaceAll(i.group, "-", "_"), wanted)
	}
	return measured, nil
}

// checkFiltered checks that a group got what it wants, once, and nothing else. It returns how much that is.
func checkFiltered(i interest, all []purchase, done map[string]int) (wanted int, err error) {
	for _, p := range all {
		times, want := done[p.order.GetOrderId()], 0
		if i.wants(p) {
			want = 1
			wanted++
		}
		if times != want {
			return 0, fmt.Errorf("%s got %v with the campaign %q %d times, not %d", i.group, p.order, p.campaign, times, want)
		}
	}
	return wanted, nil
}
