package main

import (
	"context"
	"sync/atomic"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

// tenTopics is a stream whose batches go to ten topics in turn.
var tenTopics = flow{groups: 1, unit: perSecond,
	send: func(c *mq.Client, m content) sender {
		senders := []sender{
			async(benchv1mq.NewScalePublish1(c), func(i int) *benchv1.Topic1 { return &benchv1.Topic1{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish2(c), func(i int) *benchv1.Topic2 { return &benchv1.Topic2{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish3(c), func(i int) *benchv1.Topic3 { return &benchv1.Topic3{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish4(c), func(i int) *benchv1.Topic4 { return &benchv1.Topic4{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish5(c), func(i int) *benchv1.Topic5 { return &benchv1.Topic5{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish6(c), func(i int) *benchv1.Topic6 { return &benchv1.Topic6{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish7(c), func(i int) *benchv1.Topic7 { return &benchv1.Topic7{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish8(c), func(i int) *benchv1.Topic8 { return &benchv1.Topic8{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish9(c), func(i int) *benchv1.Topic9 { return &benchv1.Topic9{Key: m.key(i), Body: m.body(i)} }),
			async(benchv1mq.NewScalePublish10(c), func(i int) *benchv1.Topic10 { return &benchv1.Topic10{Key: m.key(i), Body: m.body(i)} }),
		}
		var turn atomic.Int64
		return func(ctx context.Context, i, n int) error { return senders[turn.Add(1)%int64(len(senders))](ctx, i, n) }
	},
	take: func(w *mq.Worker, s *sink) { benchv1mq.RegisterManyConsumer(w, many{s}) },
}

// many handles the messages of ten topics.
type many struct{ *sink }

func (m many) Work1(context.Context, *benchv1.Topic1) error   { return m.done() }
func (m many) Work2(context.Context, *benchv1.Topic2) error   { return m.done() }
func (m many) Work3(context.Context, *benchv1.Topic3) error   { return m.done() }
func (m many) Work4(context.Context, *benchv1.Topic4) error   { return m.done() }
func (m many) Work5(context.Context, *benchv1.Topic5) error   { return m.done() }
func (m many) Work6(context.Context, *benchv1.Topic6) error   { return m.done() }
func (m many) Work7(context.Context, *benchv1.Topic7) error   { return m.done() }
func (m many) Work8(context.Context, *benchv1.Topic8) error   { return m.done() }
func (m many) Work9(context.Context, *benchv1.Topic9) error   { return m.done() }
func (m many) Work10(context.Context, *benchv1.Topic10) error { return m.done() }
