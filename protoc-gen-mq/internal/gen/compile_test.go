//lint:file-ignore SA1019 What is deprecated is generated, too, and has to work.

package gen_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/typedmq/typedmq/internal/topic"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/bare"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/bare/baremq"
	billingv1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/billing/v1"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/billing/v1/billingv1mq"
	handlersv1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/handlers/v1"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/handlers/v1/handlersv1mq"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/hybrid"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/hybrid/hybridmq"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/legacy"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/legacy/legacymq"
	other "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/like/thingPublisher"
	like "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/like/time"
	likemq "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/like/time/timemq"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/names/consumer"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/names/consumer/consumermq"
	oncev1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/once/v1"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/once/v1/oncev1mq"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/opaque"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/opaque/opaquemq"
	ordersv1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/orders/v1"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/orders/v1/ordersv1mq"
	samev1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/same/v1"
	timedv1 "github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/timed/v1"
	"github.com/typedmq/typedmq/protoc-gen-mq/internal/gen/testdata/gen/timed/v1/timedv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

func TestCompileVets(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/gen/...").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Generated publishers send the key and the headers that the sidecar derives from the same message.
func TestCompilePublishers(t *testing.T) {
	b, client := dial(t)
	orders, old := ordersv1mq.NewOrdersPublisher(client), ordersv1mq.NewOldPublisher(client)
	more, things := ordersv1mq.NewMoreOrdersPublisher(client), samev1.NewThingsPublisher(client)
	payments, mqs := billingv1mq.NewPaymentsPublisher(client), consumermq.NewMqPublisher(client)
	boxes, hybrids := opaquemq.NewBoxesPublisher(client), hybridmq.NewHybridsPublisher(client)
	bares, alike := baremq.NewBarePublisher(client), likemq.NewThingPublisher(client)

	order := &ordersv1.Order{
		Customer: &ordersv1.Customer{Id: 7, Address: &ordersv1.Customer_Address{City: "Köln"}}, Note: "a b", Gift: true,
		Status: ordersv1.Status_STATUS_LATE, Rank: proto.Int32(-3), Big: -1 << 62, Count: 1 << 31,
		Price: &ordersv1.Order_Cents{Cents: 1 << 63},
	}
	number := new(opaque.Box)
	number.SetNumber(-5)
	number.SetFragile(true)
	published(t, b, orders.Placed, order)
	published(t, b, orders.Placed, &ordersv1.Order{Status: 77})
	published(t, b, orders.Paid, &ordersv1.Order_Payment{Token: []byte{0, 255}})
	published(t, b, orders.Paid, &ordersv1.Order_Payment{})
	published(t, b, orders.Shipped, &ordersv1.Parcel{Number: -1 << 31})
	published(t, b, orders.Cancelled, &ordersv1.Cancellation{Number: 1<<64 - 1})
	published(t, b, orders.Counted, &ordersv1.Count{Number: -1 << 63})
	published(t, b, old.Listed, &ordersv1.Plain{})
	published(t, b, more.Shipped, &ordersv1.Parcel{Number: 9})
	published(t, b, payments.Paid, &ordersv1.Order_Payment{Token: []byte("x")})
	published(t, b, payments.Plain, &ordersv1.Plain{})
	published(t, b, things.Made, &samev1.Thing{Id: "ä"})
	published(t, b, things.Shipped, &ordersv1.Parcel{})
	published(t, b, mqs.Func, &consumer.String{Type: 4})
	published(t, b, mqs.Type, &consumer.Nil{String_: 5})
	published(t, b, mqs.Context, &consumer.Topic{Reset_: 6})
	published(t, b, boxes.Packed, number)
	published(t, b, hybrids.Sent, hybrid.Hybrid_builder{Id: proto.String("i"), GetId: proto.String("g"), Level: hybrid.Hybrid_LEVEL_HIGH.Enum(),
		HasId: proto.Int64(-1)}.Build())
	published(t, b, bares.Sent, &bare.Message{Id: "b"})
	published(t, b, alike.ThingPublisher, &like.ThingPublisher{URL: "u", Get_URL: "g"})
	published(t, b, alike.NewThing, &like.NewThingPublisher{})
	published(t, b, alike.HTTPRequest, &like.HTTPRequest{RequestId: "r"})
	published(t, b, alike.HttpId, &like.HttpId{HTTPId: 7})
	published(t, b, alike.Innermost, &like.Outer_MiddleInnerMost{Id: "i"})
	published(t, b, alike.Elsewhere, &other.Elsewhere{Id: -8})
	published(t, b, mq.NewPublisher(client, likemq.ThingTopicTopic()).Publish, &like.ThingTopic{XId: &like.ThingTopic_ThingConsumer{Id_2: 9}})

	once := oncev1mq.NewOncePublisher(client)
	published(t, b, once.ByName, &oncev1.Named{Id: "ä"})
	published(t, b, once.ByName, &oncev1.Named{})
	published(t, b, once.BySum, &oncev1.Hashed{Sum: []byte{0, 255}, Owner: "o"})
	published(t, b, once.ByNumber, &oncev1.Numbered{Number: -3})

	legacies := mq.NewPublisher(client, legacymq.LegacyTopic())
	published(t, b, legacies.Publish, &legacy.Legacy{On: proto.Bool(true)})
	published(t, b, legacies.Publish, &legacy.Legacy{Region: proto.String(""), Level: legacy.Legacy_LOW.Enum(), On: proto.Bool(false)})
}

// Generated publishers carry priority and instant of delivery, and what the rpc says where neither the message nor the call does.
func TestCompileTiming(t *testing.T) {
	b, client := dial(t)
	jobs, boxes := timedv1mq.NewJobsPublisher(client), opaquemq.NewBoxesPublisher(client)
	due := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	job := &timedv1.Job{Name: "n", Urgency: 10, Due: timestamppb.New(due)}
	box := new(opaque.Box)
	box.SetUrgency(4)
	box.SetDue(timestamppb.New(due))
	plain := func(m *timedv1.Job) func(...mq.PublishOption) (mq.Receipt, error) {
		return func(opts ...mq.PublishOption) (mq.Receipt, error) { return jobs.Added(t.Context(), m, opts...) }
	}
	later := func(m *timedv1.Job) func(...mq.PublishOption) (mq.Receipt, error) {
		return func(opts ...mq.PublishOption) (mq.Receipt, error) { return jobs.Later(t.Context(), m, opts...) }
	}
	const hour = 3_600_000
	for name, test := range map[string]struct {
		publish func(...mq.PublishOption) (mq.Receipt, error)
		opts    []mq.PublishOption
		want    *brokerv1.Record // its numbers
	}{
		"fields":                {publish: plain(job), want: &brokerv1.Record{Priority: 10, DeliverAtMs: due.UnixMilli()}},
		"no fields":             {publish: plain(&timedv1.Job{}), want: &brokerv1.Record{}},
		"options over fields":   {publish: plain(job), opts: []mq.PublishOption{mq.WithPriority(1), mq.WithDelay(0)}, want: &brokerv1.Record{Priority: 1}},
		"defaults":              {publish: later(&timedv1.Job{}), want: &brokerv1.Record{DelayMs: 90 * 60_000, TtlMs: hour}},
		"fields over defaults":  {publish: later(job), want: &brokerv1.Record{Priority: 10, DeliverAtMs: due.UnixMilli(), TtlMs: hour}},
		"options over defaults": {publish: later(&timedv1.Job{}), opts: []mq.PublishOption{mq.WithDelay(1), mq.WithTTL(2 * time.Millisecond)}, want: &brokerv1.Record{DelayMs: 1, TtlMs: 2}},
		"uint64": {publish: func(opts ...mq.PublishOption) (mq.Receipt, error) {
			return jobs.Counted(t.Context(), &timedv1.Count{Level: proto.Uint64(2)}, opts...)
		}, want: &brokerv1.Record{Priority: 2, TtlMs: 2}},
		"int64, 10 years": {publish: func(opts ...mq.PublishOption) (mq.Receipt, error) {
			return jobs.Listed(t.Context(), &timedv1.List{Level: 3}, opts...)
		}, want: &brokerv1.Record{Priority: 3, DelayMs: 3653 * 24 * hour}},
		"opaque": {publish: func(opts ...mq.PublishOption) (mq.Receipt, error) {
			return boxes.Packed(t.Context(), box, opts...)
		}, want: &brokerv1.Record{Priority: 4, DeliverAtMs: due.UnixMilli()}},
		"the publisher of the rpc, in a batch": {publish: func(opts ...mq.PublishOption) (mq.Receipt, error) {
			results := timedv1mq.NewJobsLater(client).PublishBatch(t.Context(), []*timedv1.Job{{}}, opts...)
			return results[0].Receipt, results[0].Err
		}, want: &brokerv1.Record{DelayMs: 90 * 60_000, TtlMs: hour}},
		"the publisher of the rpc, without waiting": {publish: func(opts ...mq.PublishOption) (mq.Receipt, error) {
			return timedv1mq.NewJobsCounted(client).PublishAsync(t.Context(), &timedv1.Count{Level: proto.Uint64(1)}, opts...).Wait(t.Context())
		}, want: &brokerv1.Record{Priority: 1, TtlMs: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := test.publish(test.opts...); err != nil {
				t.Fatal(err)
			}
			_, r := b.last()
			got := &brokerv1.Record{Priority: r.GetPriority(), DelayMs: r.GetDelayMs(), DeliverAtMs: r.GetDeliverAtMs(), TtlMs: r.GetTtlMs()}
			if !proto.Equal(got, test.want) {
				t.Errorf("record %v, want %v", got, test.want)
			}
		})
	}
	for name, publish := range map[string]func() (mq.Receipt, error){
		"too large for an int64": func() (mq.Receipt, error) {
			return jobs.Counted(t.Context(), &timedv1.Count{Level: proto.Uint64(1 << 63)})
		},
		"more than the topic's levels": func() (mq.Receipt, error) {
			return jobs.Counted(t.Context(), &timedv1.Count{Level: proto.Uint64(3)})
		},
		"negative": func() (mq.Receipt, error) { return jobs.Added(t.Context(), &timedv1.Job{Urgency: -1}) },
	} {
		var e *mq.Error
		if _, err := publish(); !errors.As(err, &e) || e.Reason != "BAD_PRIORITY" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// published publishes m and compares what reaches the broker with what package topic derives.
func published[M proto.Message](t *testing.T, b *broker, publish func(context.Context, M, ...mq.PublishOption) (mq.Receipt, error), m M) {
	t.Helper()
	if _, err := publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	name, record := b.last()
	reflected := m.ProtoReflect()
	set, faults := topic.Load([]protoreflect.FileDescriptor{reflected.Descriptor().ParentFile()})
	if faults != nil {
		t.Fatal(faults)
	}
	declared, _ := set.ByMessage(reflected.Descriptor().FullName())
	if name != declared.Name {
		t.Errorf("published to %q, not %q", name, declared.Name)
	}
	if want := declared.KeyOf(reflected); string(record.GetKey()) != string(want) {
		t.Errorf("%s: key %q, not %q", name, record.GetKey(), want)
	}
	if want := declared.IDOf(reflected); record.GetId() != want {
		t.Errorf("%s: id %q, not %q", name, record.GetId(), want)
	}
	var headers []topic.HeaderValue
	for _, h := range record.GetHeaders() {
		headers = append(headers, topic.HeaderValue{Name: h.GetName(), Value: h.GetValue()})
	}
	if want := declared.HeadersOf(reflected); !slices.Equal(headers, want) {
		t.Errorf("%s: headers %v, not %v", name, headers, want)
	}
}

// Generated registrations declare subscriptions that the sidecar finds in the descriptors.
func TestCompileConsumers(t *testing.T) {
	b, client := dial(t)
	for _, test := range []struct {
		register func(*mq.Worker)
		file     protoreflect.FileDescriptor
		want     []string
	}{
		{func(w *mq.Worker) { ordersv1mq.RegisterWarehouseConsumer(w, warehouse{}) }, ordersv1.File_orders_v1_more_proto,
			[]string{"orders.v1.Warehouse/OnPlaced", "orders.v1.Warehouse/OnPlain"}},
		{func(w *mq.Worker) { billingv1mq.RegisterBillingConsumer(w, warehouse{}) }, billingv1.File_billing_v1_billing_proto,
			[]string{"billing.v1.Billing/OnPlaced"}},
		{func(w *mq.Worker) { samev1.RegisterShelfConsumer(w, shelf{}) }, samev1.File_same_v1_same_proto, []string{"same.v1.Shelf/OnMade"}},
		{func(w *mq.Worker) { consumermq.RegisterTypeConsumer(w, typed{}) }, consumer.File_names_names_proto,
			[]string{"names.type/range", "names.type/error"}},
		{func(w *mq.Worker) {
			handlersv1mq.RegisterSingleConsumer(w, single{})
			handlersv1mq.RegisterBulkConsumer(w, bulk{})
			handlersv1mq.RegisterCarefulConsumer(w, careful{})
			handlersv1mq.RegisterScalesConsumer(w, scales{})
		}, handlersv1.File_handlers_v1_handlers_proto,
			[]string{"handlers.v1.Single/OnPlaced", "handlers.v1.Single/OnParcel", "handlers.v1.Single/OnCount", "handlers.v1.Bulk/OnPlaced",
				"handlers.v1.Bulk/OnPaid", "handlers.v1.Careful/OnPlaced", "handlers.v1.Careful/OnCancelled", "handlers.v1.Scales/Weigh"}},
		{func(w *mq.Worker) { likemq.RegisterHTTPConsumer(w, acronyms{}) }, like.File_like_like_proto,
			[]string{"like.HTTP/Batch", "like.HTTP/Delivery", "like.HTTP/String", "like.HTTP/Worker"}},
		{func(w *mq.Worker) { baremq.RegisterConsumerConsumer(w, bareConsumer{}) }, bare.File_bare_proto, []string{"Consumer/OnMessage"}},
	} {
		w := mq.NewWorker(client)
		test.register(w)
		// The broker refuses all subscriptions, so Run returns after it declared them.
		if err := w.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no subscriptions here") {
			t.Fatalf("got %v", err)
		}
		got := b.subscriptions()
		slices.Sort(got)
		slices.Sort(test.want)
		if !slices.Equal(got, test.want) {
			t.Errorf("declared %v, not %v", got, test.want)
		}
		set, faults := topic.Load([]protoreflect.FileDescriptor{test.file})
		if faults != nil {
			t.Fatal(faults)
		}
		var declared []string
		for _, s := range set.Subscriptions {
			declared = append(declared, s.RPC)
		}
		if slices.Sort(declared); !slices.Equal(got, declared) {
			t.Errorf("declared %v, the file has %v", got, declared)
		}
	}
}

type warehouse struct{}

func (warehouse) OnPlaced(context.Context, *ordersv1.Order) error { return nil }
func (warehouse) OnPlain(context.Context, *ordersv1.Plain) error  { return nil }

type shelf struct{}

func (shelf) OnMade(context.Context, *samev1.Thing) error { return nil }

type typed struct{}

func (typed) Range(context.Context, *consumer.String) error { return nil }
func (typed) Error(context.Context, *consumer.Nil) error    { return nil }

type single struct{}

func (single) OnPlaced(context.Context, *ordersv1.Order) error                { return nil }
func (single) OnParcel(context.Context, *mq.Delivery[*ordersv1.Parcel]) error { return nil }
func (single) OnCount(context.Context, *mq.Batch[*ordersv1.Count]) error      { return nil }

type bulk struct{}

func (bulk) OnPlaced(context.Context, *mq.Batch[*ordersv1.Order]) error { return nil }
func (bulk) OnPaid(context.Context, *ordersv1.Order_Payment) error      { return nil }

type careful struct{}

func (careful) OnPlaced(context.Context, *mq.Delivery[*ordersv1.Order]) error { return nil }
func (careful) OnCancelled(context.Context, *ordersv1.Cancellation) error     { return nil }

type scales struct{}

func (scales) Weigh(context.Context, *handlersv1.Crate) (*handlersv1.Weight, error) { return nil, nil }

type acronyms struct{}

func (acronyms) Batch(context.Context, *mq.Batch[*like.HTTPRequest]) error  { return nil }
func (acronyms) Delivery(context.Context, *mq.Delivery[*like.HttpId]) error { return nil }
func (acronyms) String(context.Context, *like.ThingPublisher) error         { return nil }
func (acronyms) Worker(context.Context, *like.Worker) error                 { return nil }

type bareConsumer struct{}

func (bareConsumer) OnMessage(context.Context, *bare.Message) error { return nil }

// broker accepts every topic and record, refuses subscriptions, and remembers both.
type broker struct {
	brokerv1connect.UnimplementedBrokerServiceHandler

	mu struct {
		sync.Mutex
		topic         string
		record        *brokerv1.Record
		subscriptions []string
	}
}

func (b *broker) last() (string, *brokerv1.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.topic, b.mu.record
}

func (b *broker) subscriptions() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.subscriptions
}

func (b *broker) Declare(_ context.Context, r *connect.Request[brokerv1.DeclareRequest]) (*connect.Response[brokerv1.DeclareResponse], error) {
	if len(r.Msg.GetSubscriptions()) > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.mu.subscriptions = r.Msg.GetSubscriptions()
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("no subscriptions here"))
	}
	if len(r.Msg.GetTopics()) == 0 {
		return connect.NewResponse(&brokerv1.DeclareResponse{}), nil
	}
	if r.Msg.GetDescriptors() == nil {
		return connect.NewResponse(&brokerv1.DeclareResponse{NeedDescriptors: true}), nil
	}
	files, err := protodesc.NewFiles(r.Msg.GetDescriptors())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	response := &brokerv1.DeclareResponse{}
	for _, name := range r.Msg.GetTopics() {
		d, err := files.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		set, faults := topic.Load([]protoreflect.FileDescriptor{d.ParentFile()})
		if faults != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, faults)
		}
		declared, _ := set.ByMessage(d.FullName())
		response.Topics = append(response.Topics, &brokerv1.DeclaredTopic{
			Message: name, Name: declared.Name, Partitions: declared.Partitions, MaxMessageBytes: declared.MaxMessageBytes, PriorityLevels: declared.PriorityLevels,
		})
	}
	return connect.NewResponse(response), nil
}

func (b *broker) PublishStream(_ context.Context, stream *connect.BidiStream[brokerv1.PublishStreamRequest, brokerv1.PublishStreamResponse]) error {
	for {
		frame, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		response := &brokerv1.PublishStreamResponse{Sequence: frame.GetSequence()}
		for _, batch := range frame.GetBatches() {
			set, result := &brokerv1.RecordSet{}, &brokerv1.BatchResult{}
			if err := proto.Unmarshal(batch.GetRecords(), set); err != nil {
				return err
			}
			for _, record := range set.GetRecords() {
				b.mu.Lock()
				b.mu.topic, b.mu.record = batch.GetTopic(), record
				b.mu.Unlock()
				result.Partitions = append(result.Partitions, 0)
				result.Offsets = append(result.Offsets, 0)
			}
			response.Results = append(response.Results, result)
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

func dial(t *testing.T) (*broker, *mq.Client) {
	t.Helper()
	b := &broker{}
	mux := http.NewServeMux()
	mux.Handle(brokerv1connect.NewBrokerServiceHandler(b))
	server := httptest.NewUnstartedServer(mux)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	client, err := mq.Dial(t.Context(), mq.WithAddress(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, client
}
