package broker_test

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

var memoryOfTransactions = engine.ShardID{Group: "__transactions"}

// TestTransactionsOnDisk: the bytes of what is remembered are those of docs/formats/transactions.md, in every version.
func TestTransactionsOnDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) { // it is midnight of the year 2000
		w.mustSend(bags, timed{name: "x", key: "k1"}, after("gone", time.Hour))
		w.mustCommit(broker.Transaction{
			ID: txID(1), Publishes: []broker.Batch{batchOf(bags, timed{name: "a", key: "k1"}, after("later", time.Hour), timed{name: "b", key: "k2"}, timed{name: "c", key: "k1"})},
			Cancels: []broker.Cancellation{{Topic: bags, IDs: []string{"nobody", "gone"}}},
		})
		var got []string
		for pair, err := range w.engine.View(memoryOfTransactions).Scan(t.Context(), nil, nil) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%c %x %x", pair.Key[0], pair.Key[1:], pair.Value))
		}
		id := hex.EncodeToString(txID(1))
		want := []string{
			"c  0880d8bed6c61b",
			"m 0000000000f0c120" + id + " ",
			"t " + id + " " +
				"0a2021e928951311dff52adf7e5f127a36d693fcf690ec1e7c950b2e530e86963fc3" + // fingerprint
				"1080d8bed6c61b" + // time
				"1a0f" + "0a0401010101" + "120401000101" + "1a0101" + // partitions, appends, offsets
				"2205" + "0801" + "120100" + // canceled, unknown
				"7a08" + "0000000000000001", // the offset of the first record
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("stored is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestADamagedMemoryOfATransactionIsNamed: the transaction is not applied, and others are.
func TestADamagedMemoryOfATransactionIsNamed(t *testing.T) {
	for _, value := range []string{"\xff", "\x7a\x03abc", "\x1a\x06\x0a\x01\x00\x12\x01\x05", "\x1a\x04\x0a\x02\x00\x01"} {
		inBubble(t, func(t *testing.T, w *world) {
			tx := broker.Transaction{ID: txID(1), Publishes: []broker.Batch{batchOf(bags, now("a"))}}
			w.mustCommit(tx)
			w.close()
			shard, err := w.engine.Fence(t.Context(), memoryOfTransactions, 1<<40)
			if err != nil {
				t.Fatal(err)
			}
			key := append([]byte("t"), txID(1)...)
			stored, err := shard.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			if value != "\xff" {
				value = string(stored[:34]) + value // after the fingerprint
			}
			if _, err := shard.Commit(t.Context(), engine.Batch{Writes: []engine.Write{{Key: key, Value: []byte(value)}}}); err != nil {
				t.Fatal(err)
			}
			w.engine.epochs.Store(1 << 40)
			w.open()
			if _, err := w.Commit(t.Context(), tx); reason(err) != broker.Internal || !strings.HasPrefix(err.Error(), "transaction") {
				t.Errorf("%x: %v", value, err)
			}
			tx.ID = txID(2)
			w.mustCommit(tx)
			if names := w.names(bags); names != "a a" {
				t.Errorf("there is %q", names)
			}
		})
	}
}
