package broker_test

import (
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	mqv1 "github.com/typedmq/typedmq/schemas/gen/mq/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestManyBatchesOfManyPartitions: a call cannot have the sidecar set memory aside without bound, and what fits is taken.
func TestManyBatchesOfManyPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.topics = func(_ string, o *mqv1.TopicOptions) { o.Partitions = proto.Uint32(1024) }
		w.declareTopics()
		raw, err := w.Compose(bags, broker.Draft{JSON: new(structpb.Struct)})
		if err != nil {
			t.Fatal(err)
		}
		batches := make([]broker.Batch, 1030)
		for i := range batches {
			batches[i] = broker.Batch{Topic: bags, Records: engine.AppendRecord(nil, raw)}
		}
		placed, err := w.Publish(t.Context(), batches)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range placed {
			if fits := i < 1024; fits != (p.Refused == nil) || !fits && p.Refused.Reason != broker.BatchTooLarge {
				t.Fatalf("batch %d: %v", i, p.Refused)
			}
		}
	})
}
