package mq_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Options that are given to the wrong side, and handlers of the wrong shape, do not compile.
func TestWrongSidesDoNotCompile(t *testing.T) {
	const head = "package main\n\nimport (\n\t\"context\"\n\n\t\"google.golang.org/protobuf/types/known/wrapperspb\"\n\n\t\"github.com/typedmq/typedmq/runtime/mq\"\n)\n\n" +
		"var (\n\tctx = context.Background()\n\tclient *mq.Client\n\tworker *mq.Worker\n\tpub *mq.Publisher[*wrapperspb.StringValue]\n\tmsg *wrapperspb.StringValue\n\tsub mq.Subscription\n)\n\nfunc main() {\n"
	right := []string{
		`_, _ = mq.Dial(ctx, mq.WithClientName(""), mq.WithPublishInterceptors(mq.MeasurePublishes(nil)))`,
		`_ = mq.NewWorker(client, mq.WithConcurrency(1), mq.WithHandlerInterceptors(mq.MeasureHandlers(nil)))`,
		`_, _ = pub.Publish(ctx, msg, mq.WithID(""))`,
		`_ = pub.PublishAsync(ctx, msg, mq.WithID(""))`,
		`_ = pub.PublishBatch(ctx, []*wrapperspb.StringValue{msg}, mq.WithID(""))`,
		`mq.Handle(worker, sub, func(context.Context, *wrapperspb.StringValue) error { return nil })`,
		`mq.HandleBatch(worker, sub, func(context.Context, *mq.Batch[*wrapperspb.StringValue]) error { return nil })`,
		`mq.HandleDelivery(worker, sub, func(context.Context, *mq.Delivery[*wrapperspb.StringValue]) error { return nil })`,
	}
	wrong := []string{
		`_, _ = mq.Dial(ctx, mq.WithConcurrency(1))`,
		`_, _ = mq.Dial(ctx, mq.WithID(""))`,
		`_, _ = mq.Dial(ctx, mq.WithHandlerInterceptors())`,
		`_, _ = mq.Dial(ctx, mq.WithPublishInterceptors(mq.MeasureHandlers(nil)))`,
		`_ = mq.NewWorker(client, mq.WithDelay(1))`,
		`_ = mq.NewWorker(client, mq.WithAddress(""))`,
		`_ = mq.NewWorker(client, mq.WithPublishInterceptors())`,
		`_ = mq.NewWorker(client, mq.WithHandlerInterceptors(mq.MeasurePublishes(nil)))`,
		`_, _ = pub.Publish(ctx, msg, mq.WithPrefetch(1))`,
		`_ = pub.PublishAsync(ctx, msg, mq.WithAddress(""))`,
		`_, _ = pub.Publish(ctx, sub)`,
		`mq.HandleBatch(worker, sub, func(context.Context, *wrapperspb.StringValue) error { return nil })`,
		`mq.HandleDelivery(worker, sub, func(context.Context, *mq.Batch[*wrapperspb.StringValue]) error { return nil })`,
		`mq.Handle(worker, sub, func(context.Context, wrapperspb.StringValue) error { return nil })`,
	}
	file := filepath.Join(t.TempDir(), "main.go")
	text := head + strings.Join(append(right, wrong...), "\n") + "\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-o", os.DevNull, file).CombinedOutput()
	if err == nil {
		t.Fatal("it compiles")
	}
	first := strings.Count(head, "\n") + 1
	for i, line := range append(right, wrong...) {
		refused := strings.Contains(string(out), fmt.Sprintf("main.go:%d:", first+i))
		if refused != (i >= len(right)) {
			t.Errorf("refused: %v: %s", refused, line)
		}
	}
	if t.Failed() {
		t.Logf("the compiler says:\n%s", out)
	}
}
