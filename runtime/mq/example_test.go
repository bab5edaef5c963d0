package mq_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"log"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/typedmq/typedmq/runtime/mq"
)

// Programs publish through a generated publisher, which holds a Publisher like this one for each of its topics.
func ExamplePublisher_Publish() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client, err := mq.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	greetings := mq.NewTopic("greetings", func(m *wrapperspb.StringValue, r *mq.Record) {
		r.Key = []byte(m.GetValue())
	})
	receipt, err := mq.NewPublisher(client, greetings).Publish(ctx, wrapperspb.String("hello"), mq.WithHeader("language", "en"))
	switch {
	case errors.Is(err, mq.ErrUnknownOutcome):
		fmt.Println("it may have been published:", err)
	case err != nil:
		fmt.Println("it was not published:", err)
	default:
		fmt.Println("it is durable at", receipt.Partition, receipt.Offset)
	}
}

// Money leaves one account and reaches another, or neither. Programs make generated publishers with tx.
func ExampleClient_Tx() {
	var client *mq.Client // of mq.Dial
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	debits := mq.NewTopic[wrapperspb.Int64Value]("debits", nil)
	credits := mq.NewTopic[wrapperspb.Int64Value]("credits", nil)

	var tx *mq.Tx
	err := client.Tx(ctx, func(t *mq.Tx) error {
		tx = t
		if _, err := mq.NewPublisher(tx, debits).Publish(ctx, wrapperspb.Int64(100)); err != nil {
			return err
		}
		_, err := mq.NewPublisher(tx, credits).Publish(ctx, wrapperspb.Int64(100))
		return err
	})
	switch {
	case errors.Is(err, mq.ErrUnknownOutcome):
		fmt.Println("it may have been applied, as a whole:", err)
	case err != nil:
		fmt.Println("nothing was applied:", err)
	default:
		fmt.Println("it is durable at", tx.Receipts())
	}
}

// What the handler publishes is there if, and only if, its message is done.
func ExampleInTx() {
	var worker *mq.Worker // of mq.NewWorker
	upper := mq.NewTopic[wrapperspb.StringValue]("upper", nil)
	mq.Handle(worker, mq.Subscription{ /* as generated code has it */ }, func(ctx context.Context, m *wrapperspb.StringValue) error {
		return mq.InTx(ctx, func(tx *mq.Tx) error {
			_, err := mq.NewPublisher(tx, upper).Publish(ctx, wrapperspb.String(strings.ToUpper(m.GetValue())))
			return err
		})
	})
}

// Programs register their handlers through generated code, which calls Handle for each rpc of a consumer service.
func ExampleWorker_Run() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	client, err := mq.Dial(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	worker := mq.NewWorker(client, mq.WithDrainTimeout(20*time.Second))
	mq.Handle(worker, mq.Subscription{
		Group: "greeters",
		Topic: "greetings",
		RPC:   "example.v1.Greeters/OnGreeting",
		File:  wrapperspb.File_google_protobuf_wrappers_proto,
	}, func(ctx context.Context, m *wrapperspb.StringValue) error {
		meta := mq.MetaFrom(ctx)
		switch language, _ := meta.Header("language"); language {
		case "en":
			fmt.Println(m.GetValue(), meta.ID)
			return nil
		case "":
			return mq.Skip("no language")
		default:
			return mq.Permanent(fmt.Errorf("language %q is not spoken here", language))
		}
	})
	if err := worker.Run(ctx); err != nil { // returns when ctx is done and everything is settled
		log.Fatal(err)
	}
}

var greeters = mq.Subscription{
	Group: "greeters",
	Topic: "greetings",
	RPC:   "example.v1.Greeters/OnGreeting",
	File:  wrapperspb.File_google_protobuf_wrappers_proto,
}

func insert(context.Context, []string) (rejected []int, err error) { return nil, nil }

// A batch handler writes many messages at once, and fails those that were not taken. Generated code calls HandleBatch for an rpc with batch.
func ExampleHandleBatch() {
	var worker *mq.Worker
	mq.HandleBatch(worker, greeters, func(ctx context.Context, b *mq.Batch[*wrapperspb.StringValue]) error {
		rows := make([]string, b.Len())
		for i, m := range b.Messages() {
			rows[i] = b.Meta(i).ID + " " + m.GetValue()
		}
		rejected, err := insert(ctx, rows)
		if err != nil {
			return err // all are tried again
		}
		for _, i := range rejected {
			b.Fail(i, mq.Permanent(errors.New("the table refuses it")))
		}
		return nil // the rest is done
	})
}

// A handler that settles itself knows when the message is done, durably, and can take longer than planned.
func ExampleHandleDelivery() {
	var worker *mq.Worker
	mq.HandleDelivery(worker, greeters, func(ctx context.Context, d *mq.Delivery[*wrapperspb.StringValue]) error {
		if len(d.Message().GetValue()) > 1000 {
			if err := d.Extend(ctx, time.Hour); err != nil {
				return err
			}
		}
		if _, err := insert(ctx, []string{d.Message().GetValue()}); err != nil {
			return d.Nack(ctx, err)
		}
		err := d.Ack(ctx)
		if errors.Is(err, mq.ErrLeaseLost) {
			fmt.Println("it comes again")
		}
		return err
	})
}

// PublishAsync does not wait for each message; Flush waits for all.
func ExamplePublisher_PublishAsync() {
	var client *mq.Client
	ctx := context.Background()
	publisher := mq.NewPublisher(client, mq.NewTopic[wrapperspb.StringValue]("greetings", nil))
	var pending []*mq.Pending
	for i := range 1000 {
		pending = append(pending, publisher.PublishAsync(ctx, wrapperspb.String(fmt.Sprint("hello ", i))))
	}
	if err := client.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	for _, p := range pending {
		if _, err := p.Wait(ctx); err != nil {
			fmt.Println(err)
		}
	}
}

// PublishBatch has one result for each message.
func ExamplePublisher_PublishBatch() {
	var client *mq.Client
	publisher := mq.NewPublisher(client, mq.NewTopic[wrapperspb.StringValue]("greetings", nil))
	messages := []*wrapperspb.StringValue{wrapperspb.String("hello"), wrapperspb.String("goodbye")}
	for i, result := range publisher.PublishBatch(context.Background(), messages) {
		if result.Err != nil {
			fmt.Println(messages[i], "was not published:", result.Err)
		}
	}
}

// Interceptors are slices; the first is the outermost.
func ExampleWithHandlerInterceptors() {
	ctx := context.Background()
	counters := new(mq.Counters)
	expvar.Publish("mq", counters)
	client, err := mq.Dial(ctx, mq.WithPublishInterceptors(mq.MeasurePublishes(counters), mq.LogPublishes(slog.Default())))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(
		mq.MeasureHandlers(counters),
		mq.LogHandlers(slog.Default()),
		mq.RecoverHandlers(func(_ context.Context, _ *mq.Call, value any, _ []byte) error {
			return mq.Permanent(fmt.Errorf("panic: %v", value))
		}),
		func(next mq.HandlerFunc) mq.HandlerFunc { // one of our own
			return func(ctx context.Context, c *mq.Call) error {
				fmt.Println(c.Group(), "gets", c.Len(), "messages of", c.Topic())
				return next(ctx, c)
			}
		},
	))
	_ = worker.Run(ctx)
}
