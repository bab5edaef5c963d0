package broker_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	storagev1 "github.com/typedmq/typedmq/schemas/gen/mq/storage/v1"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
	"github.com/typedmq/typedmq/sidecar/internal/engine/pebbleengine"
)

// storeWithEverything is a store with topics, groups, dead letters, failures, redriven and scheduled messages.
func storeWithEverything(t *testing.T) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	e := openStore(t, fs)
	w := &world{t: t, engine: &faulty{Engine: e}, member: memcluster.New().Join(time.Minute, nil), clock: wall{}}
	w.engine.failCommits.Store(-1 << 30)
	w.open()
	w.declare(nil)
	w.publish(bags, 0, 40, 1)
	later := after("later", time.Hour)
	later.id = "by-id"
	w.mustSend(bags, later, after("nameless", time.Hour))
	s := w.join("baggage", bags, 1000)
	for seen := 0; seen < 40; {
		for _, d := range w.next(s) {
			var flight int
			if _, err := fmt.Sscanf(d.id[strings.Index(d.id, "F"):], "F%d", &flight); err != nil {
				t.Fatal(err)
			}
			outcome := broker.Settlement{Token: d.token, Outcome: broker.Acked, Error: "test"}
			switch {
			case flight == 20: // what is settled after it stays above the position
				outcome.Outcome, outcome.After, outcome.HasAfter = broker.Retried, time.Hour, true
			case flight%4 == 1:
				outcome.Outcome = broker.Rejected
			}
			if refused, err := w.Settle(t.Context(), "baggage", bags, nil, []broker.Settlement{outcome}); err != nil || len(refused) > 0 {
				t.Fatal(refused, err)
			}
			seen++
		}
	}
	letters, _, err := w.DeadLetters(t.Context(), "baggage", bags, "", 2, "")
	if err != nil || len(letters) != 2 {
		t.Fatal(letters, err)
	}
	s.Close(false)
	if n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{IDs: []string{letters[0].ID}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	raw, err := w.Compose(bags, broker.Draft{JSON: new(structpb.Struct)})
	if err != nil {
		t.Fatal(err)
	}
	once := broker.Batch{Topic: bags, Records: engine.AppendRecord(nil, raw)}
	if _, err := w.Commit(t.Context(), broker.Transaction{ID: inboxA, Publishes: []broker.Batch{once}}); err != nil {
		t.Fatal(err)
	}
	once.Number = 1
	if placed, err := w.PublishAs(t.Context(), broker.Producer{ID: [16]byte(inboxB)}, []broker.Batch{once}); err != nil || placed[0].Refused != nil {
		t.Fatal(placed, err)
	}
	w.close()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return fs
}

func openStore(t *testing.T, fs vfs.FS) *pebbleengine.Engine {
	t.Helper()
	e, err := pebbleengine.Open("data", pebbleengine.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// checkStore is what the checks find, a line each, and what is stored, by shard and key.
func checkStore(t *testing.T, fs vfs.FS) (found []string, stored map[engine.ShardID][]engine.Pair) {
	t.Helper()
	o, err := pebbleengine.OpenOffline("data", pebbleengine.Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	report := func(f engine.Finding) { found = append(found, f.String()) }
	if _, err := o.Check(t.Context(), report, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if names, err := broker.Check(t.Context(), o, report); err != nil || len(names) > 2 {
		t.Fatal(names, err)
	}
	stored = make(map[engine.ShardID][]engine.Pair)
	for id, err := range o.Shards(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for p := range o.Pairs(t.Context(), id) {
			stored[id] = append(stored[id], engine.Pair{Key: bytes.Clone(p.Key), Value: bytes.Clone(p.Value)})
		}
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	return found, stored
}

func TestCheckFindsNothingInASoundStore(t *testing.T) {
	found, stored := checkStore(t, storeWithEverything(t))
	if len(found) > 0 {
		t.Errorf("found %q", found)
	}
	kinds := map[string]int{}
	for id, pairs := range stored {
		for _, p := range pairs {
			kinds[id.Group[:1]+string(p.Key[:1])]++
		}
	}
	for _, kind := range []string{"bh", "bb", "bf", "bd", "br", "_t", "_s", "_d", "_i", "_n", "_c", "_m", "_p"} {
		if kinds[kind] == 0 {
			t.Errorf("the store has no key of kind %s: %v", kind, kinds)
		}
	}
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	fs := storeWithEverything(t)
	_, stored := checkStore(t, fs)
	catalogue, schedule := engine.ShardID{Group: "__catalogue"}, engine.ShardID{Group: "__schedule"}
	// first is the first key of a kind, in the shard or in any of the group.
	first := func(group, kind string) (engine.ShardID, engine.Pair) {
		ids := make([]engine.ShardID, 0, len(stored))
		for id := range stored {
			ids = append(ids, id)
		}
		slices.SortFunc(ids, func(a, b engine.ShardID) int { return strings.Compare(a.String(), b.String()) })
		for _, id := range ids {
			for _, p := range stored[id] {
				if id.Group == group && strings.HasPrefix(string(p.Key), kind) {
					return id, p
				}
			}
		}
		t.Fatalf("group %s has no key of kind %s", group, kind)
		return engine.ShardID{}, engine.Pair{}
	}
	edit := func(v []byte, m proto.Message, change func()) []byte {
		if err := proto.Unmarshal(v, m); err != nil {
			t.Fatal(err)
		}
		change()
		out, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	topicAt, aTopic := first("__catalogue", "t/"+bags)
	_, aSubscription := first("__catalogue", "s/")
	_, aSet := first("__catalogue", "d/")
	_, anEntry := first("__schedule", "s")
	_, anIndex := first("__schedule", "i")
	published, transactions := engine.ShardID{Group: "__published"}, engine.ShardID{Group: "__transactions"}
	_, aProducer := first("__published", "p")
	_, aTransaction := first("__transactions", "t")
	headAt, _ := first("baggage", "h")
	letterAt, aLetter := first("baggage", "d")
	failureAt, aFailure := first("baggage", "f")
	redrivenAt, aRedriven := first("baggage", "r")
	blockAt, aBlock := first("baggage", "b")
	_ = topicAt
	put := func(key, value []byte) engine.Write { return engine.Write{Key: key, Value: value} }
	far := func(key []byte) []byte { // the same kind of key far past the log's end
		return append(bytes.Clone(key[:len(key)-4]), 0, 0x10, 0, 0)
	}
	head := func(floor int64) []byte {
		v, err := proto.Marshal(&storagev1.Head{Floor: floor})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	topic, sub := new(storagev1.Topic), new(storagev1.Subscription)
	for name, tc := range map[string]struct {
		at    engine.ShardID
		write engine.Write
		want  string
	}{
		"topic that does not decode":   {catalogue, put(aTopic.Key, []byte{0xff}), `catalogue at key "t/bags.checked": topic does not decode`},
		"topic under another key":      {catalogue, put([]byte("t/other"), aTopic.Value), `catalogue at key "t/other": topic does not decode, or is not the one of its key`},
		"descriptors missing":          {catalogue, engine.Write{Key: aSet.Key, Delete: true}, "catalogue at topic bags.checked: topic \"bags.checked\": its descriptors are not in the catalogue; restore a backup, or declare"},
		"descriptors damaged":          {catalogue, put(aSet.Key, []byte{0xff}), "descriptors do not decode"},
		"another message":              {catalogue, put(aTopic.Key, edit(aTopic.Value, topic, func() { topic.Message = "a.B" })), "catalogue at topic bags.checked: topic \"bags.checked\": its descriptors do not declare it"},
		"topic missing":                {catalogue, engine.Write{Key: aTopic.Key, Delete: true}, "catalogue at subscription of baggage to bags.checked: the catalogue has no topic"},
		"two topics of one number":     {catalogue, put(aTopic.Key, edit(aTopic.Value, topic, func() { topic.Id = 3 - topic.Id })), "and so has topic"},
		"subscription without starts":  {catalogue, put(aSubscription.Key, edit(aSubscription.Value, sub, func() { sub.StartOffsets = nil })), "the catalogue has another number of partitions"},
		"subscription past the end":    {catalogue, put(aSubscription.Key, edit(aSubscription.Value, sub, func() { sub.StartOffsets[0] = 1 << 40 })), "it began at offset 1099511627776"},
		"unknown key in the catalogue": {catalogue, put([]byte("zz"), nil), `catalogue at key "zz": the key is of no kind`},
		"secret missing":               {catalogue, engine.Write{Key: []byte("secret"), Delete: true}, "the secret of lease tokens is missing"},

		"entry that does not decode": {schedule, put(anEntry.Key, []byte{0xff}), "schedule at key 73"},
		"entry not in the index":     {schedule, engine.Write{Key: anIndex.Key, Delete: true}, `id "by-id" is not in the index`},
		"index without an entry":     {schedule, put(append(bytes.Clone(anIndex.Key[:len(anIndex.Key)-1]), 0xee), nil), `the index has id "by-id", the schedule does not`},
		"index of another entry":     {schedule, put(bytes.Replace(anIndex.Key, []byte("by-id"), []byte("by-ix"), 1), nil), `the index has id "by-ix" of topic number`},
		"sequence behind":            {schedule, put([]byte("n"), make([]byte, 8)), "and the next one is to get 0"},
		"unknown key":                {schedule, put([]byte("q"), nil), "schedule at key 71: the key is of no kind"},

		"producer that does not decode":    {published, put(aProducer.Key, []byte{1}), "published at key 70"},
		"segment that does not decode":     {published, put(append([]byte("e"), make([]byte, 12)...), []byte{1}), "published at key 65"},
		"unknown key of the ledger":        {published, put([]byte("q"), nil), "published at key 71: the key is of no kind"},
		"transaction that does not decode": {transactions, put(aTransaction.Key, []byte{0xff}), "transactions at key 74"},
		"transaction that is not there":    {transactions, engine.Write{Key: aTransaction.Key, Delete: true}, "is to be forgotten and is not there"},
		"unknown key of the transactions":  {transactions, put([]byte("q"), nil), "transactions at key 71: the key is of no kind"},

		"position past the end":       {headAt, put([]byte("h"), head(1<<40)), "the position is 1099511627776, and the log ends at"},
		"letter that does not decode": {letterAt, put(aLetter.Key, []byte{0xff}), "does not decode"},
		"letter past the end":         {letterAt, put(far(aLetter.Key), aLetter.Value), "it is of offset"},
		"redriven does not decode":    {redrivenAt, put(aRedriven.Key, []byte{0xff}), "redriven message of offset"},
		"block of another size":       {blockAt, put(aBlock.Key, nil), "block of settled messages does not decode"},
		"block past the end":          {blockAt, put(far(aBlock.Key), aBlock.Value), "is settled, and the log ends at"},
		"failure of what is settled":  {failureAt, put([]byte("h"), head(int64(aFailure.Key[8])+1)), fmt.Sprintf("failures are remembered of offset %d, which is settled", aFailure.Key[8])},
		"malformed key":               {letterAt, put([]byte("dx"), nil), "the key is malformed"},
		"state of no topic":           {engine.ShardID{Group: "baggage", Topic: 99}, put([]byte("h"), head(0)), "shard baggage@99/0: state of topic number 99, which the catalogue does not have"},
		"state of no partition":       {engine.ShardID{Group: "baggage", Topic: letterAt.Topic, Partition: 999}, put([]byte("h"), head(0)), "state of partition 999"},
		"state of no group":           {engine.ShardID{Group: "strangers", Topic: letterAt.Topic}, put([]byte("h"), head(0)), "state of group strangers, which has no subscription"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := fs.CrashClone(vfs.CrashCloneCfg{}) // all of it was synced
			e := openStore(t, fs)
			shard, err := e.Fence(t.Context(), tc.at, 1<<60)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := shard.Commit(t.Context(), engine.Batch{Writes: []engine.Write{tc.write}}); err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			found, _ := checkStore(t, fs)
			if !strings.Contains(strings.Join(found, "\n"), tc.want) {
				t.Errorf("found %q, want %q", found, tc.want)
			}
		})
	}
}

// TestDisownedTokensAreRefused: a token that was given out before is no token of the store any more.
func TestDisownedTokensAreRefused(t *testing.T) {
	w := newWorld(t)
	w.declare(nil)
	w.publish(bags, 0, 1, 1)
	held := w.next(w.join("baggage", bags, 10))
	w.close()
	if err := broker.Disown(context.Background(), w.engine, 1<<40); err != nil {
		t.Fatal(err)
	}
	w.engine.epochs.Store(1 << 41)
	w.open()
	defer w.close()
	refused := w.settle("baggage", bags, broker.Acked, held...)
	if len(refused) != 1 || refused[0].Error.Reason != broker.BadToken {
		t.Errorf("a token from before: %+v", refused)
	}
}
