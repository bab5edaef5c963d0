package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// bury makes dead letters of n messages, with an error each, in a partition drawn for each of several batches.
func (w *world) bury(n, batches int, err func(i int) string) {
	w.t.Helper()
	for i := range batches {
		w.publish(bags, i*n/batches, (i+1)*n/batches-i*n/batches, n)
	}
	for buried := 0; buried < n; {
		slices, pullErr := w.Pull(w.t.Context(), "baggage", bags, 1000, time.Minute, time.Second)
		if pullErr != nil {
			w.t.Fatal(pullErr)
		}
		var all []broker.Settlement
		for _, d := range deliveries(w.t, slices) {
			all = append(all, broker.Settlement{Token: d.token, Outcome: broker.Rejected, Error: err(buried)})
			buried++
		}
		if refused, err := w.Settle(w.t.Context(), "baggage", bags, nil, all); err != nil || len(refused) > 0 {
			w.t.Fatal(err, refused)
		}
	}
}

func sameError(int) string { return "test" }

// letters lists all dead letters.
func (w *world) letters() (all []broker.DeadLetter) {
	w.t.Helper()
	for token, more := "", true; more; more = token != "" {
		page, next, err := w.DeadLetters(w.t.Context(), "baggage", bags, "", 1000, token)
		if err != nil {
			w.t.Fatal(err)
		}
		all, token = append(all, page...), next
	}
	return all
}

// TestAllIsRedrivenInSmallCommits: however many dead letters there are.
func TestAllIsRedrivenInSmallCommits(t *testing.T) {
	for name, move := range map[string]func(*broker.Broker, context.Context, string, string, broker.Selection) (int, []string, string, error){
		"redrive": (*broker.Broker).Redrive, "discard": (*broker.Broker).Discard,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, w *world) {
				const total = 6000
				w.bury(total, 1, sameError)
				var largest atomic.Int64
				hook := func(b engine.Batch) { largest.Store(max(largest.Load(), int64(len(b.Writes)))) }
				w.engine.onCommit.Store(&hook)
				n, unknown, next, err := move(w.Broker, t.Context(), "baggage", bags, broker.Selection{All: true})
				if n != total || len(unknown) > 0 || next != "" || err != nil {
					t.Fatalf("moved %d, %v, %q, %v", n, unknown, next, err)
				}
				if largest.Load() > 2100 {
					t.Errorf("a commit has %d writes", largest.Load())
				}
				sum := w.total("baggage", bags)
				if want := map[string]int64{"redrive": total, "discard": 0}[name]; sum.DeadLetters != 0 || sum.Lag != want || len(w.letters()) != 0 {
					t.Errorf("in the end %d dead letters, lag %d", sum.DeadLetters, sum.Lag)
				}
			})
		})
	}
}

// TestLargeLettersShareNoHugeCommit: the bytes of a commit are bounded as well as its letters.
func TestLargeLettersShareNoHugeCommit(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 30
		var records []byte
		for i := range total {
			s := new(structpb.Struct)
			if err := protojson.Unmarshal(fmt.Appendf(nil, `{"flightId":"%0500000d","origin":"O"}`, i), s); err != nil {
				t.Fatal(err)
			}
			raw, err := w.Compose(bags, broker.Draft{JSON: s})
			if err != nil {
				t.Fatal(err)
			}
			records = engine.AppendRecord(records, raw)
		}
		if placed, err := w.Publish(t.Context(), []broker.Batch{{Topic: bags, Records: records}}); err != nil || placed[0].Refused != nil {
			t.Fatal(err, placed)
		}
		for got := 0; got < total; {
			slices, err := w.Pull(t.Context(), "baggage", bags, 1, time.Minute, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			ds := deliveries(t, slices)
			w.settle("baggage", bags, broker.Rejected, ds...)
			got += len(ds)
		}
		var largest atomic.Int64
		hook := func(b engine.Batch) {
			n := 0
			for _, write := range b.Writes {
				n += len(write.Value)
			}
			largest.Store(max(largest.Load(), int64(n)))
		}
		w.engine.onCommit.Store(&hook)
		if n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true}); n != total || err != nil {
			t.Fatalf("redrove %d, %v", n, err)
		}
		if largest.Load() > 5<<20 || largest.Load() < 1<<20 {
			t.Errorf("the largest commit has %d bytes", largest.Load())
		}
	})
}

// TestPagesTakeEachLetterOnce: oldest first, although what is redriven dies again at once.
func TestPagesTakeEachLetterOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 95
		w.bury(total, 40, sameError)
		var want, got []string
		for _, d := range w.letters() {
			want = append(want, d.ID)
		}
		for token, more := "", true; more; more = token != "" {
			n, _, next, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true, Limit: 10, Page: token})
			if err != nil || n != 10 && next != "" || n > 10 {
				t.Fatalf("redrove %d, next %q, %v", n, next, err)
			}
			token = next
			slices, err := w.Pull(t.Context(), "baggage", bags, 1000, time.Minute, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range slices {
				for _, o := range s.Offsets {
					got = append(got, fmt.Sprintf("%d-%d", s.Partition, o))
				}
			}
			w.settle("baggage", bags, broker.Rejected, deliveries(t, slices)...)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("redriven:\n%v\nwant\n%v", got, want)
		}
		if _, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true, Page: "99.0"}); broker.Refusal(err).Reason != broker.BadPageToken {
			t.Errorf("a forged page token gives %v", err)
		}
	})
}

// TestPageTokensAreOfTheirCall: not invented, nor of another group, topic or kind of call.
func TestPageTokensAreOfTheirCall(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.bury(20, 10, sameError)
		some := broker.Selection{All: true, Limit: 2}
		type call = func(group, topic, page string) (string, error)
		calls := map[string]call{
			"list": func(group, topic, page string) (string, error) {
				_, next, err := w.DeadLetters(t.Context(), group, topic, "", 2, page)
				return next, err
			},
			"redrive": func(group, topic, page string) (string, error) {
				s := some
				s.Page = page
				_, _, next, err := w.Redrive(t.Context(), group, topic, s)
				return next, err
			},
			"discard": func(group, topic, page string) (string, error) {
				s := some
				s.Page = page
				_, _, next, err := w.Discard(t.Context(), group, topic, s)
				return next, err
			},
		}
		made := map[string]string{}
		for name, do := range calls {
			next, err := do("baggage", bags, "")
			if err != nil || next == "" {
				t.Fatalf("%s: %q, %v", name, next, err)
			}
			made[name] = next
		}
		refused := func(what string, err error) {
			t.Helper()
			if err == nil || broker.Refusal(err).Reason != broker.BadPageToken {
				t.Errorf("%s: %v", what, err)
			}
		}
		for name, do := range calls {
			for _, forged := range []string{"0.0", "3.17", "1.9223372036854775807", made[name] + "\n", made[name][1:], "A" + made[name]} {
				_, err := do("baggage", bags, forged)
				refused(fmt.Sprintf("%s with %q", name, forged), err)
			}
			for of, token := range made {
				if of != name {
					_, err := do("baggage", bags, token)
					refused(name+" with the token of "+of, err)
				}
			}
			_, err := do("board", departed, made[name])
			refused(name+" of another group", err)
			if _, err := do("baggage", bags, made[name]); err != nil {
				t.Errorf("%s with its own: %v", name, err)
			}
		}
	})
}

func TestALimitTakesTheOldest(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.bury(50, 20, sameError)
		before := w.letters()
		n, _, next, err := w.Discard(t.Context(), "baggage", bags, broker.Selection{All: true, Limit: 7})
		if n != 7 || next == "" || err != nil {
			t.Fatalf("discarded %d, next %q, %v", n, next, err)
		}
		ids := func(ds []broker.DeadLetter) (out []string) {
			for _, d := range ds {
				out = append(out, d.ID)
			}
			return out
		}
		if got, want := ids(w.letters()), ids(before[7:]); !slices.Equal(got, want) {
			t.Errorf("left:\n%v\nwant\n%v", got, want)
		}
		if n, _, next, err := w.Discard(t.Context(), "baggage", bags, broker.Selection{All: true, Limit: 43}); n != 43 || next != "" || err != nil {
			t.Errorf("with a limit of all: %d, next %q, %v", n, next, err)
		}
	})
}

func TestAFailureIsRedrivenAlone(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.bury(30, 10, func(i int) string {
			return []string{"timeout after %dms", "no seat %d", "no seat %d"}[i%3] + fmt.Sprint(i)
		})
		failures, err := w.Summarize(t.Context(), "baggage", bags)
		if err != nil || len(failures) != 2 || failures[0].Count != 20 || failures[1].Count != 10 {
			t.Fatalf("failures: %+v, %v", failures, err)
		}
		f := failures[1]
		if f.Reason != "permanent" || f.Error[:7] != "timeout" || f.First.After(f.Last) || f.First.IsZero() {
			t.Errorf("failure: %+v", f)
		}
		sample, _, err := w.DeadLetters(t.Context(), "baggage", bags, f.SampleID, 10, "")
		if err != nil || len(sample) != 1 || sample[0].LastError != f.Error {
			t.Errorf("sample: %+v, %v", sample, err)
		}
		n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{Failure: f.Key})
		if n != 10 || err != nil {
			t.Fatalf("redrove %d, %v", n, err)
		}
		for _, d := range w.letters() {
			if d.LastError[:7] != "no seat" {
				t.Errorf("left: %q", d.LastError)
			}
		}
		_, _, _, err = w.Redrive(t.Context(), "baggage", bags, broker.Selection{Failure: f.Key})
		if broker.Refusal(err).Reason != broker.MessageUnknown {
			t.Errorf("a failure that is gone: %v", err)
		}
	})
}

// TestIDsChooseDeadLetters: those that tell the place, those that publishers gave, and both together.
func TestIDsChooseDeadLetters(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.bury(6, 2, sameError)
		var records []byte
		for _, id := range []string{"mine", "mine", "other"} {
			s := new(structpb.Struct)
			if err := protojson.Unmarshal([]byte(`{"flightId":"F","origin":"O"}`), s); err != nil {
				t.Fatal(err)
			}
			raw, err := w.Compose(bags, broker.Draft{JSON: s, ID: id})
			if err != nil {
				t.Fatal(err)
			}
			records = engine.AppendRecord(records, raw)
		}
		if placed, err := w.Publish(t.Context(), []broker.Batch{{Topic: bags, Records: records}}); err != nil || placed[0].Refused != nil {
			t.Fatal(err, placed)
		}
		slices3, err := w.Pull(t.Context(), "baggage", bags, 10, time.Minute, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		w.settle("baggage", bags, broker.Rejected, deliveries(t, slices3)...)
		for len(w.letters()) < 9 {
			slices3, err := w.Pull(t.Context(), "baggage", bags, 10, time.Minute, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			w.settle("baggage", bags, broker.Rejected, deliveries(t, slices3)...)
		}
		places := []string{}
		taken := "" // the place of a message that has an id of its own
		for _, d := range w.letters() {
			if place := fmt.Sprintf("%d-%d", d.Partition, d.Offset); d.ID == place {
				places = append(places, place)
			} else {
				taken = place
			}
		}
		for id, want := range map[string]int{taken: 0, "0-01": 0, "9999-0": 0, places[0]: 1, "mine": 2, "nobody's": 0} {
			if found, _, err := w.DeadLetters(t.Context(), "baggage", bags, id, 100, ""); len(found) != want || err != nil {
				t.Errorf("id %s finds %+v, %v", id, found, err)
			}
		}
		for _, test := range []struct {
			ids     []string
			n       int
			unknown []string
			reason  broker.Reason
		}{
			{[]string{places[0], places[1], places[1]}, 2, nil, ""},
			{[]string{places[0], places[2], "0-999999", "9999-0"}, 1, []string{"0-999999", "9999-0", places[0]}, ""},
			{[]string{taken, "0-01", "0.0-1", "0.1-1", "0.2-1"}, 0, nil, broker.MessageUnknown},
			{[]string{"mine", places[3], "nobody's"}, 3, []string{"nobody's"}, ""},
			{[]string{"nobody's"}, 0, nil, broker.MessageUnknown},
		} {
			n, unknown, next, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{IDs: test.ids})
			var reason broker.Reason
			if err != nil {
				reason = broker.Refusal(err).Reason
			}
			slices.Sort(test.unknown)
			if n != test.n || !slices.Equal(unknown, test.unknown) || next != "" || reason != test.reason {
				t.Errorf("redrive %v: %d, unknown %v, next %q, %v", test.ids, n, unknown, next, err)
			}
		}
	})
}

func TestASelectionChoosesInOneWay(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		w.bury(1, 1, sameError)
		for name, s := range map[string]broker.Selection{
			"nothing":           {},
			"ids and all":       {IDs: []string{"0-0"}, All: true},
			"all and a failure": {All: true, Failure: "0123456789abcdef"},
			"no failure's key":  {Failure: "0123456789ABCDEF"},
			"half a key":        {Failure: "01234567"},
			"a negative limit":  {All: true, Limit: -1},
			"too many ids":      {IDs: make([]string, broker.MaxSelectedIDs+1)},
		} {
			n, _, _, err := w.Redrive(t.Context(), "baggage", bags, s)
			if r := broker.Refusal(err); err == nil || r.Reason != broker.BadRequest && r.Reason != broker.BatchTooLarge || n != 0 {
				t.Errorf("%s: %d, %v", name, n, err)
			}
		}
		if len(w.letters()) != 1 {
			t.Error("a refused call did something")
		}
	})
}

// TestARedriveThatFailsTellsHowFarItCame: and what it says is done is, and what is not is still a dead letter.
func TestARedriveThatFailsTellsHowFarItCame(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		const total = 8000
		w.bury(total, 1, sameError)
		commits := 0
		hook := func(engine.Batch) {
			if commits++; commits == 3 {
				w.engine.failCommits.Store(1)
			}
		}
		w.engine.onCommit.Store(&hook)
		n, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true})
		if err == nil || n == 0 || n >= total || broker.Refusal(err).Metadata["done"] != fmt.Sprint(n) {
			t.Fatalf("redrove %d, %v", n, err)
		}
		w.engine.failCommits.Store(-1 << 30)
		time.Sleep(5 * time.Second) // the partition is claimed anew
		if left := len(w.letters()); left != total-n {
			t.Fatalf("told of %d, %d are left", n, left)
		}
		again, _, _, err := w.Redrive(t.Context(), "baggage", bags, broker.Selection{All: true})
		if again != total-n || err != nil {
			t.Fatalf("then redrove %d of %d, %v", again, total-n, err)
		}
		if sum := w.total("baggage", bags); sum.Lag != total || sum.DeadLetters != 0 {
			t.Errorf("in the end lag %d, dead letters %d", sum.Lag, sum.DeadLetters)
		}
	})
}
