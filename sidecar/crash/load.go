package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/typedmq/typedmq/runtime/mq"
	crashv1 "github.com/typedmq/typedmq/sidecar/crash/gen/crash/v1"
	"github.com/typedmq/typedmq/sidecar/crash/gen/crash/v1/crashv1mq"
	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

const (
	keys       = 10               // of words, each with a publisher of its own
	askers     = 4                // publishers of tasks
	callBound  = 20 * time.Second // of a publish: its outcome is unknown then
	pace       = 12 * time.Millisecond
	settleTime = 15 * time.Second
)

// load is clients with generated code: publishers and consumers that do not stop for any fault, and tell the recorder what they see.
type load struct {
	record    *recorder
	publisher *mq.Client
	consumer  *mq.Client
	uids      func() uint64
	quick     bool // more, and nothing for later

	publishing sync.WaitGroup
	consuming  sync.WaitGroup
	quiet      context.CancelFunc // ends publishing
	leave      context.CancelFunc // ends consuming
	sessions   []sim.Event

	mu struct {
		sync.Mutex
		err error // of a consumer that gave up
	}
}

// content follows from a uid: mostly short, sometimes many blocks of a disk.
func content(uid uint64) []byte {
	rng := rand.New(rand.NewPCG(uid, 0x636f6e74656e74))
	size := 20 + rng.IntN(300)
	if rng.IntN(20) == 0 {
		size = rng.IntN(20_000)
	}
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func wordKey(publisher int) string { return fmt.Sprintf("key-%d", publisher) }

// taskKey is the key of a task for the checker. Tasks have none: each is in no order with any other.
func taskKey(uid uint64) string { return fmt.Sprint(uid) }

// begin connects to a sidecar that runs, and starts.
func (l *load) begin(ctx context.Context, address string, consume bool) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	var err error
	if l.publisher, err = mq.Dial(ctx, mq.WithAddress(address), mq.WithClientName("publisher")); err != nil {
		return err
	}
	if l.consumer, err = mq.Dial(ctx, mq.WithAddress(address), mq.WithClientName("consumer")); err != nil {
		return err
	}
	publishing, quiet := context.WithCancel(context.WithoutCancel(ctx))
	l.quiet = quiet
	source := crashv1mq.NewSourcePublisher(l.publisher)
	for k := range keys {
		l.publishing.Go(func() { l.say(publishing, source, k) })
	}
	for range askers {
		l.publishing.Go(func() { l.ask(publishing, source) })
	}
	consuming, leave := context.WithCancel(context.WithoutCancel(ctx))
	l.leave = leave
	if consume {
		l.consume(consuming)
	}
	return nil
}

func (l *load) rest(ctx context.Context) {
	wait := pace/2 + rand.N(pace)
	if l.quick {
		wait /= 3
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// say publishes words of one key, one after the other.
func (l *load) say(ctx context.Context, to crashv1mq.SourcePublisher, k int) {
	for ; ctx.Err() == nil; l.rest(ctx) {
		uid, key := l.uids(), wordKey(k)
		l.publish(words, key, uid, 0, func(ctx context.Context) (mq.Receipt, error) {
			return to.Said(ctx, &crashv1.Word{Uid: uid, Key: key, Content: content(uid)})
		})
	}
}

// ask publishes tasks, some of them for later.
func (l *load) ask(ctx context.Context, to crashv1mq.SourcePublisher) {
	for ; ctx.Err() == nil; l.rest(ctx) {
		uid := l.uids()
		delay := time.Duration(0)
		var options []mq.PublishOption
		if uid%6 == 0 && !l.quick {
			delay = time.Duration(500+uid%2000) * time.Millisecond
			options = append(options, mq.WithDelay(delay))
		}
		l.publish(tasks, taskKey(uid), uid, delay, func(ctx context.Context) (mq.Receipt, error) {
			return to.Asked(ctx, &crashv1.Task{Uid: uid, Content: content(uid)}, options...)
		})
	}
}

func (l *load) publish(topic, key string, uid uint64, delay time.Duration, call func(context.Context) (mq.Receipt, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	defer cancel()
	op := l.record.publish(topic, key, uid, delay)
	receipt, err := call(ctx)
	result, why := sim.OK, ""
	var refused *mq.Error
	switch {
	case err == nil:
	case errors.Is(err, mq.ErrUnknownOutcome) || !errors.As(err, &refused) || refused.Reason == "":
		result, why = sim.Unknown, err.Error()
	default:
		result, why = sim.Fail, err.Error()
	}
	if result != sim.OK {
		receipt.Partition, receipt.Offset = 0, -1
	}
	l.record.published(op, topic, key, uid, delay, result, receipt.Partition, receipt.Offset, why)
	if result == sim.Fail {
		time.Sleep(50 * time.Millisecond) // it is refused for a while
	}
}

// consume starts a worker of each group of words, and two of tasks.
func (l *load) consume(ctx context.Context) {
	for _, g := range []struct{ group, topic string }{{"listener", words}, {"reader", words}, {"doer", tasks}, {"doer", tasks}} {
		s := sim.Event{Kind: sim.Join, Group: g.group, Topic: g.topic, Session: len(l.sessions) + 1, After: 1000 * time.Hour}
		l.sessions = append(l.sessions, s)
		l.record.add(s)
		w := mq.NewWorker(l.consumer, mq.WithDrainTimeout(5*time.Second))
		h := &handler{load: l, group: g.group, session: s.Session}
		switch g.group {
		case "listener":
			crashv1mq.RegisterListenerConsumer(w, h)
		case "reader":
			crashv1mq.RegisterReaderConsumer(w, h)
		case "doer":
			crashv1mq.RegisterDoerConsumer(w, h)
		}
		l.consuming.Go(func() {
			if err := w.Run(ctx); err != nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.mu.err = errors.Join(l.mu.err, fmt.Errorf("consumer of %s: %w", g.group, err))
			}
		})
	}
}

// hush ends publishing, and returns when every call has its answer.
func (l *load) hush() {
	l.quiet()
	l.publishing.Wait()
}

// end ends consuming, and what is left.
func (l *load) end() error {
	l.hush()
	l.leave()
	l.consuming.Wait()
	for _, s := range l.sessions {
		l.record.add(sim.Event{Kind: sim.Leave, Group: s.Group, Topic: s.Topic, Session: s.Session})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.mu.err, l.publisher.Close(), l.consumer.Close())
}

// handler settles deliveries of one session: most are acknowledged, some fail once, some always, some are rejected.
type handler struct {
	load    *load
	group   string
	session int
}

func (h *handler) OnSaid(ctx context.Context, d *mq.Delivery[*crashv1.Word]) error {
	m := d.Message()
	good := bytes.Equal(m.GetContent(), content(m.GetUid())) && string(d.Meta().Key) == m.GetKey()
	return handle(ctx, h, words, m.GetKey(), m.GetUid(), good, d)
}

func (h *handler) OnAsked(ctx context.Context, d *mq.Delivery[*crashv1.Task]) error {
	m := d.Message()
	return handle(ctx, h, tasks, taskKey(m.GetUid()), m.GetUid(), bytes.Equal(m.GetContent(), content(m.GetUid())), d)
}

// settler is what handlers use of a delivery.
type settler interface {
	Meta() *mq.Meta
	Ack(ctx context.Context) error
	Nack(ctx context.Context, err error) error
	Reject(ctx context.Context, err error) error
}

var errOnPurpose = errors.New("on purpose")

func handle(ctx context.Context, h *handler, topic, key string, uid uint64, good bool, d settler) error {
	meta := d.Meta()
	e := sim.Event{
		Group: h.group, Topic: topic, Session: h.session, Partition: meta.Partition, Offset: meta.Offset, UID: uid, Key: key, Attempt: meta.Attempt,
	}
	if !good {
		e.Result = sim.Fail
	}
	e = h.load.record.receive(e)
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	outcome, settle := sim.Acked, d.Ack
	switch {
	case uid%41 == 0:
		outcome, settle = sim.Rejected, func(ctx context.Context) error { return d.Reject(ctx, errOnPurpose) }
	case uid%37 == 0, uid%11 == 0 && meta.Attempt == 1:
		outcome, settle = sim.Retried, func(ctx context.Context) error { return d.Nack(ctx, errOnPurpose) }
	}
	e = h.load.record.settle(e, outcome)
	err := settle(ctx)
	h.load.record.settled(e, err)
	return err
}

// httpClient speaks HTTP/2 without TLS to a Unix socket.
func httpClient(socket string) *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}
