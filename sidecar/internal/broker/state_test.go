package broker_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// TestDamagedStateIsNamed: the partition does not serve, others do, and the fault says which shard and key it is.
func TestDamagedStateIsNamed(t *testing.T) {
	for _, c := range []struct{ name, key, value, want string }{
		{"a head", "h", "\xff", "key 68: head: "},
		{"a head of a lane that is not", "h\x03", "", "key 6803: priority level 4: the topic has 1"},
		{"a block", "b\x00\x00\x00\x00\x00\x00\x00\x07", "\x0a\x01\x00", "key 620000000000000007: block: a bitmap of 1 bytes"},
		{"a failure", "f\x00\x00\x00\x00\x00\x00\x00\x07", "\xff", "key 660000000000000007: failure: "},
		{"a dead letter", "d\x00\x00\x00\x00\x00\x00\x00\x07", "\xff", "key 640000000000000007: dead letter: "},
		{"a held dead letter", "d\x00\x00\x00\x00\x00\x00\x00\x07", "\x0a\x01\xff\x40\x01", "key 640000000000000007: dead letter: "},
		{"a redriven message", "r\x00\x00\x00\x00\x00\x00\x00\x07", "\x0a\x01\xff", "key 720000000000000007: redriven message: "},
		{"a short key", "f\x07", "", "key 6607: it is malformed"},
		{"an unknown kind", "x", "", "key 78: unknown kind 'x'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				w.close()
				id := engine.ShardID{Group: "baggage", Topic: 1, Partition: 3}
				shard, err := w.engine.Fence(t.Context(), id, 1<<40)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := shard.Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: []byte(c.key), Value: []byte(c.value)}}}); err != nil {
					t.Fatal(err)
				}
				w.engine.epochs.Store(1 << 40)
				w.open()
				synctest.Wait()
				time.Sleep(5 * time.Second)
				_, _, refused := w.DeadLetters(t.Context(), "baggage", bags, "", 1, "")
				groups, err := w.Groups(t.Context(), "baggage", bags)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range groups[0].Partitions {
					if (p.Fault != nil) != (p.Partition == 3) {
						t.Errorf("partition %d: fault %v", p.Partition, p.Fault)
					}
				}
				synctest.Wait() // the log is written after the refusal
				var own *broker.Error
				if !errors.As(refused, &own) || !strings.Contains(w.logged(), "state of shard baggage@1/3, "+c.want) {
					t.Errorf("refused with %v, logged %s; want %q", refused, w.logged(), c.want)
				}
			})
		})
	}
}
