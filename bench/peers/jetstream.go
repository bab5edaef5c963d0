package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// NATS JetStream. Its server is this program again, with serverCommand as its first argument, so that client and server are two processes.

const (
	serverCommand = "jetstream-server"
	listening     = "listening on "
	subject       = "jobs"
	consumerName  = "workers"
	pulled        = 4096   // messages that the consumer asks for ahead
	outstanding   = 65_536 // messages that may wait for their acknowledgement, by publisher and by consumer
)

// jetStream is one way of using JetStream.
type jetStream struct {
	always bool // fsync before each acknowledgement
	atomic bool // publish in atomic batches
}

func (j jetStream) system(id, title, settings string, batch, room int, least float64) system {
	settings += fmt.Sprintf("; one stream, which keeps its messages, one connection of the publishers, one durable pull consumer with AckExplicit, Consume with PullMaxMessages %d", pulled)
	return system{id: id, title: title, settings: settings, batch: batch, room: room, least: least, start: j.start}
}

// serveJetStream is the child process: it says where it listens and serves until it is killed.
func serveJetStream(args []string) error {
	flags := flag.NewFlagSet(serverCommand, flag.ContinueOnError)
	dir := flags.String("dir", "", "store")
	always := flags.Bool("sync-always", false, "fsync before each acknowledgement")
	if err := flags.Parse(args); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: *dir, SyncAlways: *always, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return errors.New("the server is not ready for connections")
	}
	fmt.Println(listening + s.ClientURL())
	s.WaitForShutdown()
	return nil
}

type jetStreamNode struct {
	jetStream
	server     *child
	connection *nats.Conn // of publishers
	url        string
	js         jetstream.JetStream
	stream     jetstream.Stream
}

func (j jetStream) start(ctx context.Context, dir string) (node, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	n := &jetStreamNode{jetStream: j}
	args := []string{serverCommand, "-dir", filepath.Join(dir, "store"), fmt.Sprintf("-sync-always=%v", j.always)}
	if n.server, err = startChild(dir, program{name: serverCommand, path: self, args: args}); err != nil {
		return nil, err
	}
	if err := n.open(ctx); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// open connects to the server and makes its stream.
func (n *jetStreamNode) open(ctx context.Context) error {
	err := n.server.ready(ctx, 20*time.Second, func() error {
		for lines := bufio.NewScanner(strings.NewReader(n.server.output())); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), listening); ok {
				n.url = url
				return nil
			}
		}
		return errors.New("it does not listen yet")
	})
	if err != nil {
		return err
	}
	if n.connection, err = nats.Connect(n.url); err != nil {
		return err
	}
	if n.js, err = jetstream.New(n.connection, jetstream.WithPublishAsyncMaxPending(outstanding)); err != nil {
		return err
	}
	// A work queue would delete what is acknowledged one by one, with a sync for each if it syncs always: it falls behind by far, at a rate that looks good.
	n.stream, err = n.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "jobs", Subjects: []string{subject}, Storage: jetstream.FileStorage, AllowAtomicPublish: n.atomic,
	})
	if err != nil {
		return err
	}
	return nil
}

func (n *jetStreamNode) pid() int { return n.server.pid }

func (n *jetStreamNode) version() string { return server.VERSION }

func (n *jetStreamNode) left(ctx context.Context) (int, error) {
	consumer, err := n.stream.Consumer(ctx, consumerName)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		info, err := n.stream.Info(ctx)
		if err != nil {
			return 0, err
		}
		return int(info.State.Msgs), nil
	}
	if err != nil {
		return 0, err
	}
	info := consumer.CachedInfo()
	return int(info.NumPending) + info.NumAckPending, nil
}

func (n *jetStreamNode) close() {
	if n.connection != nil {
		n.connection.Close()
	}
	n.server.kill()
}

func (n *jetStreamNode) publisher(context.Context) (publisher, error) {
	if n.atomic {
		return &atomicPublisher{n.connection}, nil
	}
	return &asyncPublisher{js: n.js}, nil
}

// asyncPublisher publishes each message on its own.
type asyncPublisher struct {
	js      jetstream.JetStream
	pending []jetstream.PubAckFuture
}

func (p *asyncPublisher) publish(ctx context.Context, bodies [][]byte, acked func(int)) error {
	p.pending = p.pending[:0]
	for _, body := range bodies {
		f, err := p.js.PublishAsync(subject, body)
		if err != nil {
			return err
		}
		p.pending = append(p.pending, f)
	}
	for _, f := range p.pending {
		select {
		case <-f.Ok():
			acked(1)
		case err := <-f.Err():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// atomicPublisher publishes all that it is given as one batch, which the server stores entirely or not at all, and acknowledges once: with sync_interval
// always it syncs once for it. nats.go has no call for that; the headers are those of the server's protocol.
type atomicPublisher struct{ connection *nats.Conn }

func (p *atomicPublisher) publish(ctx context.Context, bodies [][]byte, acked func(int)) error {
	batch := nuid.Next()
	for i, body := range bodies {
		m := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{
			server.JSBatchId: {batch}, server.JSBatchSeq: {strconv.Itoa(i + 1)},
		}}
		if i < len(bodies)-1 {
			if err := p.connection.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header.Set(server.JSBatchCommit, "1")
		answer, err := p.connection.RequestMsgWithContext(ctx, m)
		if err != nil {
			return err
		}
		var ack struct {
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
			Count int `json:"count"`
		}
		if err := json.Unmarshal(answer.Data, &ack); err != nil {
			return fmt.Errorf("read the acknowledgement of a batch: %w", err)
		}
		if ack.Error != nil || ack.Count != len(bodies) {
			return fmt.Errorf("a batch of %d was answered with %s", len(bodies), answer.Data)
		}
		acked(len(bodies))
	}
	return nil
}

func (n *jetStreamNode) consume(ctx context.Context, handle func([]byte) error) error {
	connection, err := nats.Connect(n.url) // of the consumer
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, "jobs", jetstream.ConsumerConfig{
		Durable: consumerName, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: outstanding, AckWait: time.Minute,
	})
	if err != nil {
		return cause(ctx, err)
	}
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if err := errors.Join(handle(m.Data()), m.Ack()); err != nil {
			fail(err)
		}
	}, jetstream.PullMaxMessages(pulled), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { fail(err) }))
	if err != nil {
		return cause(ctx, err)
	}
	defer consuming.Stop()
	select {
	case <-ctx.Done():
		return connection.Flush()
	case err := <-failed:
		return cause(ctx, err)
	}
}
