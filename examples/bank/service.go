package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/typedmq/typedmq/examples/bank/gen/bank/v1/bankv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mqsql"
)

// The banks.
const (
	north = "north"
	south = "south"
)

// ready is what a service says when it runs, and a signal makes it drain.
const ready = "ready"

// bank is one of the services.
type bank struct {
	name    string
	out     io.Writer // gets a line when the service runs
	rate    int
	journal string
	log     *slog.Logger

	db     *sql.DB
	outbox *mqsql.Outbox
}

// serve runs the service until ctx is done: the worker whose handlers work in transactions, the relay of what they and others write into the outbox, and in the north
// somebody who begins transfers.
func (b *bank) serve(ctx context.Context, where string) (err error) {
	db, dialect, err := open(where)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	b.db = db
	if err := create(ctx, db, dialect, b.name); err != nil {
		return err
	}
	tables := mqsql.WithPrefix(prefix(b.name))
	// There is one process of each bank, so it need not wait until the lease of its predecessor is over.
	b.outbox = mqsql.NewOutbox(db, dialect, tables, mqsql.WithRelayName(b.name), mqsql.WithLogger(b.log))
	inbox := mqsql.NewInbox(db, dialect, tables, mqsql.WithLogger(b.log))

	client, err := mq.Dial(ctx, mq.WithClientName(b.name), mq.WithLogger(b.log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	count, err := counting(b.journal)
	if err != nil {
		return err
	}
	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(count, inbox.Interceptor()))
	switch b.name {
	case north:
		bankv1mq.RegisterDebitsConsumer(worker, &debits{})
	case south:
		bankv1mq.RegisterCreditsConsumer(worker, &credits{outbox: b.outbox})
	}

	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{worker.Run, b.outbox.Relay(client).Run, inbox.Run, b.beginTransfers} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				stop(err)
			}
		})
	}
	fmt.Fprintln(b.out, ready)
	running.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// counting writes the id of each message that is delivered to a file, however often that is. It shows in the end what the inbox is good for.
func counting(path string) (mq.HandlerInterceptor, error) {
	if path == "" {
		return func(next mq.HandlerFunc) mq.HandlerFunc { return next }, nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) // open as long as the process lives
	if err != nil {
		return nil, err
	}
	return func(next mq.HandlerFunc) mq.HandlerFunc {
		return func(ctx context.Context, c *mq.Call) error {
			if _, err := fmt.Fprintln(file, c.Meta(0).ID); err != nil {
				return err
			}
			return next(ctx, c)
		}
	}, nil
}
