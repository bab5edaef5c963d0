package main

import (
	"context"
	"errors"
	"fmt"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
)

// A system is a message queue that is compared with typedmq: how to start a server of it, and how its own client is used.
type system struct {
	id    string // of the flag and in JSON
	title string
	// settings tells what was set at server and client, for the table and JSON.
	settings string
	// batch is how many messages a caller sends before it waits for their acknowledgements; room is how many batches may be on their way between a
	// publisher and the end of their handlers.
	batch, room int
	// least is the ratio of typedmq to it that is asked for, in both works; 0 if none is.
	least float64
	// start starts a server whose files are in dir, which is empty, with a queue that is empty. The error is an absence if there is nothing to start.
	start func(ctx context.Context, dir string) (node, error)
}

// A node is a server that was started, and the clients of it. Its methods may be called concurrently.
type node interface {
	// version is that of the server.
	version() string
	// pid is that of the server.
	pid() int
	// publisher returns what one caller publishes with. It is not safe for concurrent use.
	publisher(ctx context.Context) (publisher, error)
	// consume gives handle one message after the other, and acknowledges each at the server once handle has returned, until ctx is done, which is no error.
	consume(ctx context.Context, handle func(body []byte) error) error
	// left counts the messages that the server has and that no consumer has acknowledged. It may see what it was told last a moment later.
	left(ctx context.Context) (int, error)
	// close ends clients and server, and waits until the server is gone.
	close()
}

// A publisher sends messages for one caller.
type publisher interface {
	// publish sends bodies as a pipeline, and returns when the server has acknowledged all, which it does when they are durable. It calls acked, from
	// this goroutine, with the number of those acknowledged since it did so last. It keeps no body after it has returned.
	publish(ctx context.Context, bodies [][]byte, acked func(n int)) error
}

// absence is why a system cannot be compared here.
type absence struct{ reason string }

func (a absence) Error() string { return a.reason }

// absent makes an absence.
func absent(format string, args ...any) error { return absence{fmt.Sprintf(format, args...)} }

// isAbsence tells an absence, and its reason.
func isAbsence(err error) (string, bool) {
	var a absence
	ok := errors.As(err, &a)
	return a.reason, ok
}

// systems are those that are compared with typedmq, in the order of the table.
func systems() []system {
	return []system{
		jetStream{always: true}.system("jetstream", "JetStream, fsync always", "sync_interval: always; PublishAsync, batches of 32", 32, 8, 40),
		jetStream{always: true, atomic: true}.system("jetstream-batch", "JetStream, fsync always, atomic batches", "sync_interval: always; allow_atomic, batches of 1,000", 1000, 8, 0),
		jetStream{}.system("jetstream-lazy", "JetStream, lazy fsync (default)", "sync_interval: 2m; PublishAsync, batches of 1,024", 1024, 8, 1.5),
		redisStreams(),
		rabbitMQ(),
	}
}

// message is what users publish: a typed message that their client marshals and their handler gets unmarshalled.
type message = benchv1.Job
