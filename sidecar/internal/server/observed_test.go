package server_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/typedmq/typedmq/runtime/mq"
	"github.com/typedmq/typedmq/runtime/mq/mqotel"
	"github.com/typedmq/typedmq/runtime/mq/mqvalidate"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
)

// ticket is a message of the file below, as generated code would have it: at least three characters of id.
type ticket struct{ m *dynamicpb.Message }

func (t *ticket) ProtoReflect() protoreflect.Message {
	if t.m == nil {
		t.m = dynamicpb.NewMessage(ticketFile.Messages().Get(0))
	}
	return t.m
}

func newTicket(id string) *ticket {
	t := new(ticket)
	t.ProtoReflect().Set(ticketFile.Messages().Get(0).Fields().Get(0), protoreflect.ValueOfString(id))
	return t
}

func (t *ticket) id() string {
	return t.ProtoReflect().Get(ticketFile.Messages().Get(0).Fields().Get(0)).String()
}

// ticketFile holds the topic "tickets" and two consumers: Traced sees only what has a sampled trace context in its headers.
var ticketFile = func() protoreflect.FileDescriptor {
	topic, field := &descriptorpb.MessageOptions{}, &descriptorpb.FieldOptions{}
	proto.SetExtension(topic, mqv1.E_Topic, &mqv1.TopicOptions{Name: proto.String("tickets"), Partitions: proto.Uint32(1)})
	proto.SetExtension(field, validate.E_Field, &validate.FieldRules{Type: &validate.FieldRules_String_{String_: &validate.StringRules{MinLen: proto.Uint64(3)}}})
	consumer := func(name, group, filter string) *descriptorpb.ServiceDescriptorProto {
		service, method := &descriptorpb.ServiceOptions{}, &descriptorpb.MethodOptions{}
		proto.SetExtension(service, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: &group})
		if filter != "" {
			proto.SetExtension(method, mqv1.E_Subscribe, &mqv1.SubscribeOptions{Filter: &filter})
		}
		return &descriptorpb.ServiceDescriptorProto{Name: &name, Options: service, Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("On"), InputType: proto.String(".tickets.v1.Ticket"), OutputType: proto.String(".google.protobuf.Empty"), Options: method}}}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("tickets/v1/tickets.proto"), Package: proto.String("tickets.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"buf/validate/validate.proto", "google/protobuf/empty.proto", "mq/v1/options.proto"},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Ticket"), Options: topic, Field: []*descriptorpb.FieldDescriptorProto{
			{Name: proto.String("id"), JsonName: proto.String("id"), Number: proto.Int32(1), Options: field,
				Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}}}},
		Service: []*descriptorpb.ServiceDescriptorProto{
			consumer("All", "all", ""),
			consumer("Traced", "traced", `headers["traceparent"].endsWith("-01") && headers["tracestate"] == "vendor=value"`),
		},
	}, protoregistry.GlobalFiles)
	if err != nil {
		panic(err)
	}
	return file
}()

func tickets(service, group string) mq.Subscription {
	return mq.Subscription{Group: group, Topic: "tickets", RPC: "tickets.v1." + service + "/On", File: ticketFile}
}

// connected is a client of the harness.
func connected(t *testing.T, h *harness, opts ...mq.Option) *mq.Client {
	t.Helper()
	client, err := mq.Dial(t.Context(), append(opts, mq.WithAddress(h.url))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// consume runs the worker until the channel has given n values.
func consume[T any](t *testing.T, w *mq.Worker, n int, values <-chan T) []T {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	var all []T
	for range n {
		all = append(all, <-values)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	return all
}

// One trace leads from the publisher through the sidecar to the handler; the sidecar leaves its headers as they are, and filters see them.
func TestOneTraceFromPublisherToHandler(t *testing.T) {
	h := newHarness(t)
	spans := tracetest.NewSpanRecorder()
	provider := mqotel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	client := connected(t, h, mq.WithPublishInterceptors(mqotel.TracePublishes(provider)))
	publisher := mq.NewPublisher(client, mq.NewTopic[ticket]("tickets", nil))

	state, _ := trace.ParseTraceState("vendor=value")
	request := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state})
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), request)
	if _, err := mq.NewPublisher(connected(t, h), mq.NewTopic[ticket]("tickets", nil)).Publish(ctx, newTicket("untraced")); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"first", "second"} {
		if _, err := publisher.Publish(ctx, newTicket(id)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := publisher.Publish(ctx, newTicket("x"), mq.WithTTL(-1)); err == nil {
		t.Fatal("published")
	}
	sent := spans.Ended()
	if len(sent) != 3 || sent[2].Status().Description == "" {
		t.Fatalf("%d spans: %v", len(sent), sent)
	}
	for _, s := range sent {
		if s.Name() != "send tickets" || s.SpanKind() != trace.SpanKindProducer || s.Parent().SpanID() != request.SpanID() {
			t.Errorf("span %v", s)
		}
	}

	handlers := mq.WithHandlerInterceptors(mqotel.TraceHandlers(provider))
	within := make(chan trace.SpanContext, 8)
	worker := mq.NewWorker(client, handlers, mq.WithConcurrency(1))
	mq.Handle(worker, tickets("Traced", "traced"), func(ctx context.Context, m *ticket) error {
		within <- trace.SpanContextFromContext(ctx)
		if m.id() == "second" {
			return mq.Permanent(errors.New("boom"))
		}
		return nil
	})
	got := consume(t, worker, 2, within) // the filter kept the one without headers away
	processed := spans.Ended()[3:]
	for i, s := range processed {
		if s.Name() != "process tickets" || s.SpanKind() != trace.SpanKindConsumer || s.SpanContext().TraceID() != request.TraceID() ||
			s.Parent().SpanID() != sent[i].SpanContext().SpanID() || s.SpanContext().SpanID() != got[i].SpanID() ||
			s.SpanContext().TraceState().String() != "vendor=value" {
			t.Errorf("span %d: %v", i, s)
		}
		if failed := s.Status().Description != ""; failed != (i == 1) {
			t.Errorf("status of span %d: %v", i, s.Status())
		}
	}

	// A batch is linked to what each of its messages was published in.
	ids := make(chan string, 8)
	worker = mq.NewWorker(client, handlers)
	mq.HandleBatch(worker, tickets("All", "all"), func(_ context.Context, b *mq.Batch[*ticket]) error {
		for i, m := range b.Messages() {
			if m.id() == "second" {
				b.Fail(i, mq.Permanent(errors.New("boom")))
			}
			ids <- m.id()
		}
		return nil
	})
	consume(t, worker, 3, ids)
	var linked []trace.SpanID
	failed := 0
	for _, s := range spans.Ended()[5:] {
		if s.Parent().IsValid() {
			t.Errorf("a batch has a parent: %v", s)
		}
		for _, l := range s.Links() {
			linked = append(linked, l.SpanContext.SpanID())
		}
		if s.Status().Description != "" {
			failed++
		}
	}
	if !slices.Equal(linked, []trace.SpanID{sent[0].SpanContext().SpanID(), sent[1].SpanContext().SpanID()}) || failed != 1 {
		t.Errorf("links %v to %v, %d failed", linked, sent[:2], failed)
	}
}

// What violates its rules is not published; what was published all the same becomes a dead letter, and the rest of its batch is handled.
func TestInvalidMessages(t *testing.T) {
	h := newHarness(t)
	topic := mq.NewTopic[ticket]("tickets", nil)
	strict := mq.NewPublisher(connected(t, h, mq.WithPublishInterceptors(mqvalidate.ValidatePublishes(nil))), topic)
	_, err := strict.Publish(t.Context(), newTicket("ab"))
	var refusal *mq.Error
	var violated *protovalidate.ValidationError
	if !errors.Is(err, mq.ErrInvalid) || !errors.As(err, &refusal) || refusal.Field != "id" || !errors.As(err, &violated) || !strings.Contains(err.Error(), "3 characters") {
		t.Errorf("published: %v", err)
	}
	if _, err := strict.Publish(t.Context(), newTicket("abc")); err != nil {
		t.Error(err)
	}
	client := connected(t, h)
	if _, err := mq.NewPublisher(client, topic).Publish(t.Context(), newTicket("de")); err != nil {
		t.Fatal(err)
	}
	if _, err := mq.NewPublisher(client, topic).Publish(t.Context(), newTicket("def")); err != nil {
		t.Fatal(err)
	}
	worker := mq.NewWorker(client, mq.WithHandlerInterceptors(mqvalidate.ValidateHandlers(nil)), mq.WithConcurrency(1))
	handled := make(chan string, 4)
	mq.HandleBatch(worker, tickets("All", "all"), func(_ context.Context, b *mq.Batch[*ticket]) error {
		for _, m := range b.Messages() {
			handled <- m.id()
		}
		return nil
	})
	if got := consume(t, worker, 2, handled); !slices.Equal(got, []string{"abc", "def"}) {
		t.Errorf("handled %q", got)
	}
	if n := worker.Counts(); n.Rejected != 1 || n.Acked != 2 {
		t.Errorf("settled %+v", n)
	}
}
