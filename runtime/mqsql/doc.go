// Package mqsql ties messages to the transactions of an SQL database, for services whose state is in one.
//
// An [Outbox] publishes with a transaction: a generated publisher writes rows of a table in the caller's transaction, and a [Relay] sends them once
// that is committed. What is rolled back is never sent; what is committed is sent, in order for each key, however often the process is killed.
//
//	outbox := mqsql.NewOutbox(db, mqsql.PostgreSQL)
//	tx, err := db.BeginTx(ctx, nil)
//	…                                                                            // the service's own changes
//	_, err = flightsv1mq.NewFlightEventsPublisher(outbox.On(tx)).Departed(ctx, msg)
//	err = tx.Commit()
//
//	go outbox.Relay(client).Run(ctx)                                             // once in each process
//
// An [Inbox] handles with a transaction: the message's id is a row of a table, inserted in the transaction in which the handler works. A message
// that comes again, for whatever reason, finds its row and is acknowledged without a call of the handler.
//
//	inbox := mqsql.NewInbox(db, mqsql.PostgreSQL)
//	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(inbox.Interceptor()))
//	…
//	func (*rebooking) OnDeparted(ctx context.Context, msg *flightsv1.FlightDeparted) error {
//		tx := mqsql.TxFrom(ctx)                                                  // commits if this returns nil
//		…
//	}
//
// Both together give an exactly-once effect from one database to another: each message's effect is in the second database once, if the transaction that
// published it was committed in the first, and else never.
//
// PostgreSQL and SQLite are known, through database/sql; which driver is the caller's choice. [CreateTables] makes the tables, or [Schema] is the
// text of a migration.
package mqsql
