package mq_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os/signal"
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
