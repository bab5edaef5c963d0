package mq

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/typedmq/typedmq/internal/h2c"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// fakeBroker answers as a sidecar does, in process, over HTTP/2 on in-memory connections. Tests replace what they care about.
type fakeBroker struct {
	brokerv1connect.UnimplementedBrokerServiceHandler

	network   *network
	declare   func(*brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error)
	frame     func(*brokerv1.PublishStreamRequest) (*brokerv1.PublishStreamResponse, error)
	settle    func(*brokerv1.SettleRequest) (*brokerv1.SettleResponse, error)
	commit    func(*brokerv1.CommitRequest) (*brokerv1.CommitResponse, error)
	cancel    func(*brokerv1.CancelRequest) (*brokerv1.CancelResponse, error)
	consume   func() error                         // refuses a Consume stream
	inbox     func(*brokerv1.RepliesRequest) error // refuses a Replies stream
	inboxes   chan *fakeInbox
	lease     time.Duration
	timeout   time.Duration
	inFlight  uint32
	maxBytes  uint32
	levels    uint32
	consumers chan *fakeConsumer
	settled   chan *brokerv1.SettleRequest

	mu struct {
		sync.Mutex
		declares []*brokerv1.DeclareRequest
		known    map[string]bool
		next     int64 // offset
		frames   []*brokerv1.PublishStreamRequest
		commits  []*brokerv1.CommitRequest
	}
}

// network is a set of in-memory connections that can be cut.
type network struct {
	conns  chan net.Conn
	closed chan struct{}
	mu     struct {
		sync.Mutex
		open []net.Conn
		down bool
	}
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { close(n.closed); return nil }
func (n *network) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	down := n.mu.down
	n.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: "memory", Err: errors.New("connection refused")}
	}
	client, server := net.Pipe()
	select {
	case n.conns <- server:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	n.mu.open = append(n.mu.open, server)
	n.mu.Unlock()
	return client, nil
}

// cut closes all connections; down refuses new ones.
func (n *network) cut(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.down = down
	for _, c := range n.mu.open {
		_ = c.Close()
	}
	n.mu.open = nil
}

func (n *network) up() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.down = false
}

func newFakeBroker() *fakeBroker {
	b := &fakeBroker{
		network: &network{conns: make(chan net.Conn), closed: make(chan struct{})}, lease: 30 * time.Second, timeout: time.Minute,
		inFlight: 4, maxBytes: 1 << 20, consumers: make(chan *fakeConsumer, 16), settled: make(chan *brokerv1.SettleRequest, 1024),
		inboxes: make(chan *fakeInbox, 16),
	}
	b.mu.known = make(map[string]bool)
	return b
}

func (b *fakeBroker) serve() *http.Server {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.Handle(brokerv1connect.NewBrokerServiceHandler(b))
	server := &http.Server{Handler: mux, Protocols: &protocols, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() { _ = server.Serve(b.network) }()
	return server
}

func (b *fakeBroker) transport() *h2c.Transport {
	transport := newTransport(context.Background(), "")
	transport.DialContext = b.network.dial
	return transport
}

// withBroker runs a test against a fake broker, in a bubble with its own clock.
func withBroker(t *testing.T, test func(t *testing.T, b *fakeBroker, c *Client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker()
		server := b.serve()
		transport := b.transport()
		c, err := Dial(t.Context(), WithHTTPClient(&http.Client{Transport: transport}), WithAddress("http://sidecar"),
			WithLogger(slog.New(slog.NewTextHandler(testWriter{t}, nil))), WithClientName("test"))
		if err != nil {
			t.Fatal(err)
		}
		b.reset()
		defer func() {
			_ = c.Close()
			_ = server.Close()
			transport.CloseIdleConnections()
			b.network.cut(true)
			synctest.Wait()
		}()
		test(t, b, c)
	})
}

// advance lets time pass on the bubble's clock.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// reset makes the broker a new one that has seen nothing.
func (b *fakeBroker) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.declares, b.mu.frames = nil, nil
	clear(b.mu.known)
}

func (b *fakeBroker) declares() []*brokerv1.DeclareRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.declares)
}

func (b *fakeBroker) frames() []*brokerv1.PublishStreamRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.frames)
}

// Topics and subscriptions of the tests, as an annotated schema would declare them.
var topicNames = map[string]string{
	"google.protobuf.StringValue": "strings",
	"google.protobuf.Int64Value":  "numbers",
	"google.protobuf.BytesValue":  "blobs",
}

func (b *fakeBroker) Declare(_ context.Context, r *connect.Request[brokerv1.DeclareRequest]) (*connect.Response[brokerv1.DeclareResponse], error) {
	b.mu.Lock()
	b.mu.declares = append(b.mu.declares, r.Msg)
	hash := string(r.Msg.GetDescriptorsHash())
	if set := r.Msg.GetDescriptors(); set != nil {
		encoding, _ := proto.MarshalOptions{Deterministic: true}.Marshal(set)
		if sum := sha256.Sum256(encoding); string(sum[:]) != hash {
			b.mu.Unlock()
			return nil, refusalError(connect.CodeInvalidArgument, "DESCRIPTOR_HASH")
		}
		b.mu.known[hash] = true
	}
	known := b.mu.known[hash]
	b.mu.Unlock()
	if b.declare != nil {
		answer, err := b.declare(r.Msg)
		if answer != nil || err != nil {
			return connect.NewResponse(answer), err
		}
	}
	if !known && hash != "" {
		return connect.NewResponse(&brokerv1.DeclareResponse{NeedDescriptors: true}), nil
	}
	answer := &brokerv1.DeclareResponse{}
	for _, message := range r.Msg.GetTopics() {
		answer.Topics = append(answer.Topics, &brokerv1.DeclaredTopic{
			Message: message, Name: topicNames[message], Partitions: 4, MaxMessageBytes: b.maxBytes, PriorityLevels: b.levels})
	}
	for _, rpc := range r.Msg.GetSubscriptions() {
		topic, _, _ := strings.Cut(rpc[strings.IndexByte(rpc, '/')+1:], "By")
		answer.Subscriptions = append(answer.Subscriptions, &brokerv1.DeclaredSubscription{
			Rpc: rpc, Group: "group", Topic: topic, MaxInFlight: b.inFlight,
			Lease: durationpb.New(b.lease), ProcessingTimeout: durationpb.New(b.timeout)})
		if b.levels > 0 {
			answer.Topics = append(answer.Topics, &brokerv1.DeclaredTopic{Name: topic, PriorityLevels: b.levels})
		}
	}
	return connect.NewResponse(answer), nil
}

func refusalError(code connect.Code, reason string) error {
	e := connect.NewError(code, errors.New("refused for the test"))
	detail, err := connect.NewErrorDetail(&brokerv1.ErrorInfo{Reason: reason, Field: "field", Metadata: map[string]string{"bound": "7"}})
	if err != nil {
		return err
	}
	e.AddDetail(detail)
	return e
}

func refusalOf(code connect.Code, reason string) *brokerv1.Refusal {
	return &brokerv1.Refusal{Code: code.String(), Message: "refused for the test", Info: &brokerv1.ErrorInfo{Reason: reason}}
}

func (b *fakeBroker) PublishStream(_ context.Context, stream *connect.BidiStream[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]) error {
	for {
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.mu.frames = append(b.mu.frames, request)
		b.mu.Unlock()
		var answer *brokerv1.PublishStreamResponse
		if b.frame != nil {
			if answer, err = b.frame(request); err != nil {
				return err
			}
		}
		if answer == nil {
			answer = b.store(request)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// store accepts each batch of a frame.
func (b *fakeBroker) store(request *brokerv1.PublishStreamRequest) *brokerv1.PublishStreamResponse {
	answer := &brokerv1.PublishStreamResponse{Sequence: request.GetSequence()}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, batch := range request.GetBatches() {
		result := &brokerv1.BatchResult{}
		for _, r := range records(batch) {
			result.Partitions = append(result.Partitions, 3)
			if r.GetDelayMs() > 0 || r.GetDeliverAtMs() > time.Now().UnixMilli() {
				result.Offsets = append(result.Offsets, -1)
				continue
			}
			result.Offsets = append(result.Offsets, b.mu.next)
			b.mu.next++
		}
		answer.Results = append(answer.Results, result)
	}
	return answer
}

// records decodes a batch with the generated code, as a check on the encoding written by hand.
func records(batch *brokerv1.TopicRecords) []*brokerv1.Record {
	set := &brokerv1.RecordSet{}
	if err := proto.Unmarshal(batch.GetRecords(), set); err != nil {
		panic(err)
	}
	return set.GetRecords()
}

// payloads are the strings of a frame's records.
func payloads(request *brokerv1.PublishStreamRequest) []string {
	var all []string
	for _, batch := range request.GetBatches() {
		for _, r := range records(batch) {
			m := &wrapperspb.StringValue{}
			if err := proto.Unmarshal(r.GetPayload(), m); err != nil {
				panic(err)
			}
			all = append(all, m.GetValue())
		}
	}
	return all
}

// fakeConsumer is the broker's end of a Consume stream.
type fakeConsumer struct {
	start    *brokerv1.ConsumeRequest_Start
	requests chan *brokerv1.ConsumeRequest // heartbeats and credits; closed when the client half-closes
	send     func(*brokerv1.ConsumeResponse) error
	end      chan error // ends the stream
	mute     chan bool  // true: heartbeats are not answered from now on
	gone     <-chan struct{}
	next     int64
}

func (b *fakeBroker) Consume(ctx context.Context, stream *connect.BidiStream[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]) error {
	if b.consume != nil {
		if err := b.consume(); err != nil {
			return err
		}
	}
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	var sending sync.Mutex
	var ended bool
	defer func() {
		sending.Lock()
		defer sending.Unlock()
		ended = true
	}()
	k := &fakeConsumer{
		start: first.GetStart(), requests: make(chan *brokerv1.ConsumeRequest, 1024), end: make(chan error, 1),
		mute: make(chan bool, 1), gone: ctx.Done(),
		send: func(r *brokerv1.ConsumeResponse) error {
			sending.Lock()
			defer sending.Unlock()
			if ended {
				return io.ErrClosedPipe
			}
			return stream.Send(r)
		},
	}
	if err := k.send(&brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Joined_{Joined: &brokerv1.ConsumeResponse_Joined{
		Lease: durationpb.New(b.lease), ProcessingTimeout: durationpb.New(b.timeout)}}}); err != nil {
		return err
	}
	b.consumers <- k
	received := make(chan error, 1)
	go func() {
		defer close(k.requests)
		muted := false
		for {
			r, err := stream.Receive()
			if err != nil {
				received <- err
				return
			}
			select {
			case muted = <-k.mute:
			default:
			}
			k.requests <- r
			if r.GetHeartbeat() != nil && !muted {
				_ = k.send(&brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Alive_{Alive: &brokerv1.ConsumeResponse_Alive{}}})
			}
		}
	}()
	select {
	case err := <-k.end:
		return err
	case err := <-received:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

// fakeInbox is the broker's end of a Replies stream.
type fakeInbox struct {
	request *brokerv1.RepliesRequest
	send    chan *brokerv1.RepliesResponse
	end     chan error
}

func (b *fakeBroker) Replies(ctx context.Context, r *connect.Request[brokerv1.RepliesRequest], stream *connect.ServerStream[brokerv1.RepliesResponse]) error {
	if b.inbox != nil {
		if err := b.inbox(r.Msg); err != nil {
			return err
		}
	}
	in := &fakeInbox{request: r.Msg, send: make(chan *brokerv1.RepliesResponse), end: make(chan error)}
	if err := stream.Send(&brokerv1.RepliesResponse{Next: max(r.Msg.GetFrom(), 100)}); err != nil {
		return err
	}
	b.inboxes <- in
	for {
		select {
		case m := <-in.send:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-in.end:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *fakeBroker) Settle(_ context.Context, r *connect.Request[brokerv1.SettleRequest]) (*connect.Response[brokerv1.SettleResponse], error) {
	b.settled <- r.Msg
	if b.settle != nil {
		answer, err := b.settle(r.Msg)
		return connect.NewResponse(cmp.Or(answer, &brokerv1.SettleResponse{})), err
	}
	return connect.NewResponse(&brokerv1.SettleResponse{}), nil
}

func (b *fakeBroker) Cancel(_ context.Context, r *connect.Request[brokerv1.CancelRequest]) (*connect.Response[brokerv1.CancelResponse], error) {
	answer, err := b.cancel(r.Msg)
	return connect.NewResponse(answer), err
}

// Commit notes the transaction, and applies it unless the test does something else.
func (b *fakeBroker) Commit(_ context.Context, r *connect.Request[brokerv1.CommitRequest]) (*connect.Response[brokerv1.CommitResponse], error) {
	b.mu.Lock()
	b.mu.commits = append(b.mu.commits, r.Msg)
	b.mu.Unlock()
	if b.commit != nil {
		answer, err := b.commit(r.Msg)
		if answer != nil || err != nil {
			return connect.NewResponse(answer), err
		}
	}
	answer := &brokerv1.CommitResponse{Results: b.store(&brokerv1.PublishStreamRequest{Batches: r.Msg.GetPublishes()}).GetResults()}
	for _, c := range r.Msg.GetCancels() {
		answer.Cancels = append(answer.Cancels, &brokerv1.CancelResponse{Canceled: uint64(len(c.GetIds())) - 1, UnknownIds: c.GetIds()[:1]})
	}
	return connect.NewResponse(answer), nil
}

func (b *fakeBroker) commits() []*brokerv1.CommitRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.mu.commits)
}

// token is the lease token of an offset.
func token(offset int64) []byte {
	b := make([]byte, tokenBytes)
	binary.BigEndian.PutUint64(b[8:], uint64(offset))
	return b
}

func offsetOf(token []byte) int64 { return int64(binary.BigEndian.Uint64(token[8:])) }

// deliver sends strings as one slice; their offsets count up.
func (k *fakeConsumer) deliver(values ...string) error {
	set := &brokerv1.RecordSet{}
	for _, v := range values {
		payload, err := proto.Marshal(wrapperspb.String(v))
		if err != nil {
			return err
		}
		set.Records = append(set.Records, &brokerv1.Record{Key: []byte("key"), Payload: payload,
			Headers: []*brokerv1.Header{{Name: "destination", Value: "LAX"}, {Name: "empty"}}})
	}
	return k.deliverRecords(set)
}

func (k *fakeConsumer) deliverRecords(set *brokerv1.RecordSet) error {
	encoding, err := proto.Marshal(set)
	if err != nil {
		return err
	}
	slice := &brokerv1.Slice{Partition: 2, AppendTimeMs: 1_700_000_000_000, Records: encoding}
	for range set.GetRecords() {
		slice.Offsets = append(slice.Offsets, k.next)
		slice.Tokens = append(slice.Tokens, token(k.next)...)
		k.next++
	}
	return k.deliverSlice(slice)
}

func (k *fakeConsumer) deliverSlice(slice *brokerv1.Slice) error {
	return k.send(&brokerv1.ConsumeResponse{Message: &brokerv1.ConsumeResponse_Deliveries_{
		Deliveries: &brokerv1.ConsumeResponse_Deliveries{Slices: []*brokerv1.Slice{slice}}}})
}

// next returns the next Settle request, as lines of text that a test can compare.
func (b *fakeBroker) nextSettled(t *testing.T) []string {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-b.settled:
		return describe(r)
	default:
		t.Fatal("nothing was settled")
		return nil
	}
}

// allSettled returns what was settled until now, sorted.
func (b *fakeBroker) allSettled() []string {
	synctest.Wait()
	var all []string
	for {
		select {
		case r := <-b.settled:
			all = append(all, describe(r)...)
		default:
			slices.Sort(all)
			return all
		}
	}
}

func describe(r *brokerv1.SettleRequest) []string {
	var lines []string
	for acks := range slices.Chunk(r.GetAcks(), tokenBytes) {
		lines = append(lines, fmt.Sprintf("%d ack", offsetOf(acks)))
	}
	for _, s := range r.GetSettlements() {
		line := fmt.Sprintf("%d ", offsetOf(s.GetToken()))
		switch o := s.GetOutcome().(type) {
		case *brokerv1.Settlement_Ack_:
			line += "skip " + o.Ack.GetSkipReason()
		case *brokerv1.Settlement_Retry_:
			text, _, _ := strings.Cut(o.Retry.GetError(), "\n")
			line += "retry " + text
			if o.Retry.GetAfter() != nil {
				line += " after " + o.Retry.GetAfter().AsDuration().String()
			}
		case *brokerv1.Settlement_Reject_:
			line += "reject " + strings.TrimPrefix(o.Reject.GetReason().String(), "REJECT_REASON_") + " " + o.Reject.GetError()
		case *brokerv1.Settlement_Snooze_:
			line += "snooze " + o.Snooze.GetDelay().AsDuration().String()
		case *brokerv1.Settlement_Release_:
			line += "release"
		case *brokerv1.Settlement_Answer_:
			reply := o.Answer.GetReply()
			line += fmt.Sprintf("answer %d %s", reply.GetCall(), strings.Trim(string(reply.GetReplyTo()), "*"))
			if e := reply.GetError(); e != nil {
				line += strings.TrimRight(fmt.Sprintf(" %s %s %s", e.GetCode(), e.GetInfo().GetReason(), e.GetMessage()), " ")
			} else {
				line += fmt.Sprintf(" %s %q", reply.GetType(), reply.GetPayload())
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// The typed topic and subscription of the tests.
var stringTopic = NewTopic("strings", func(m *wrapperspb.StringValue, r *Record) {
	r.Key = []byte(m.GetValue())
	r.AddHeader("length", fmt.Sprint(len(m.GetValue())))
})

var stringSubscription = Subscription{Group: "group", Topic: "strings", RPC: "test.Consumer/strings",
	File: wrapperspb.File_google_protobuf_wrappers_proto}
