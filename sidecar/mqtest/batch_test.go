package mqtest_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	"github.com/typedmq/typedmq/runtime/mq"
	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/mqtest"
)

// consumerFile is a .proto file of one consumer rpc of BagsChecked, audit.Audit/OnBagsChecked, for annotations that the examples do not have.
func consumerFile(t *testing.T, policy *mqv1.SubscribeOptions) protoreflect.FileDescriptor {
	t.Helper()
	service, method := &descriptorpb.ServiceOptions{}, &descriptorpb.MethodOptions{}
	proto.SetExtension(service, mqv1.E_Consumer, &mqv1.ConsumerOptions{Group: proto.String("audit")})
	proto.SetExtension(method, mqv1.E_Subscribe, policy)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("audit.proto"), Package: proto.String("audit"), Syntax: proto.String("proto3"),
		Dependency: []string{"air/flights/v1/flights.proto", "google/protobuf/empty.proto", "mq/v1/options.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Audit"), Options: service, Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("OnBagsChecked"), InputType: proto.String(".air.flights.v1.BagsChecked"), OutputType: proto.String(".google.protobuf.Empty"),
			Options: method,
		}}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// batches handles batches and remembers them.
type batches struct {
	mu   sync.Mutex
	seen []string
}

func (b *batches) handle(_ context.Context, all *mq.Batch[*flightsv1.BagsChecked]) error {
	var ids []string
	for _, m := range all.Messages() {
		ids = append(ids, m.GetFlightId())
	}
	slices.Sort(ids) // they are of several partitions
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, strings.Join(ids, "+"))
	return nil
}

func (b *batches) calls() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.seen, " ")
}

func newBatches(t *testing.T, s *mqtest.Sidecar, messages int32, wait time.Duration) *batches {
	b := &batches{}
	mq.HandleBatch(s.Worker(), mq.Subscription{
		Group: "audit", Topic: "bags.checked", RPC: "audit.Audit/OnBagsChecked",
		File: consumerFile(t, &mqv1.SubscribeOptions{Batch: &mqv1.Batch{MaxMessages: proto.Uint32(uint32(messages)), MaxWait: durationpb.New(wait)}}),
	}, b.handle)
	return b
}

// TestABatchWaitsByTheTestsClock: a batch that is not full does not keep Settle waiting, and is handled when the clock says so.
func TestABatchWaitsByTheTestsClock(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := newBatches(t, s, 3, 40*time.Second)
		check(t, s, "1")
		s.Advance(20 * time.Second)
		check(t, s, "2")
		s.Advance(19 * time.Second)
		if got := b.calls(); got != "" {
			t.Fatalf("a second before the first message has waited long enough, handled %q", got)
		}
		s.Advance(time.Second)
		if got := b.calls(); got != "1+2" {
			t.Fatalf("when it has, handled %q", got)
		}
		check(t, s, "3", "4", "5")
		s.Settle(t)
		if got := b.calls(); got != "1+2 3+4+5" {
			t.Errorf("with a full batch, handled %q", got)
		}
		check(t, s, "6")
		s.Advance(40 * time.Second)
		if got := b.calls(); got != "1+2 3+4+5 6" {
			t.Errorf("40 seconds later, handled %q", got)
		}
	})
}

// TestABatchThatWaitsComesAgainAfterACrash: what the lost session had let wait is not counted any more.
func TestABatchThatWaitsComesAgainAfterACrash(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := newBatches(t, s, 100, time.Minute)
		check(t, s, "1", "2")
		s.Settle(t)
		s.Crash()
		s.Settle(t)
		if got := b.calls(); got != "" {
			t.Fatalf("before the minute was over, handled %q", got)
		}
		s.Advance(time.Minute)
		if got := b.calls(); got != "1+2" {
			t.Errorf("after it, handled %q", got)
		}
		mqtest.AssertNoDeadLetters(t, s)
	})
}

// TestWhatWaitsForABatchIsHandedBackAtTheEnd: a test may end while one waits.
func TestWhatWaitsForABatchIsHandedBackAtTheEnd(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		s := mqtest.New(t)
		b := newBatches(t, s, 100, time.Minute)
		check(t, s, "1")
		s.Settle(t)
		if got := b.calls(); got != "" {
			t.Errorf("handled %q", got)
		}
	})
}
