package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

func TestDLQFailures(t *testing.T) {
	list := &adminv1.SummarizeDeadLettersResponse{Failures: []*adminv1.Failure{{
		Failure: "7bf0893330d1e0a7", Reason: "permanent", Error: "timeout\x1b[2J\nat main.go", DeadLetters: 12, SampleId: "3-17",
		FirstDied: timestamppb.New(time.Unix(0, 0)), LastDied: timestamppb.New(time.Unix(60, 5e6)),
	}}}
	f := newFake(t, list, list)
	f.mq(t, "", "dlq", "failures", "g", "t").want(t, 0, `FAILURE           DEAD  REASON     FIRST DIED                LAST DIED                 SAMPLE  ERROR
7bf0893330d1e0a7  12    permanent  1970-01-01T00:00:00.000Z  1970-01-01T00:01:00.005Z  3-17    timeout\x1b[2J…
`, "")
	f.mustAsk(t, &adminv1.SummarizeDeadLettersRequest{Group: "g", Topic: "t"})
	if got := f.mq(t, "", "dlq", "failures", "g", "t", "-o", "json"); !strings.Contains(got.out, `"deadLetters": "12"`) || got.status != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestRedriveGoesOnPageByPage: at its rate, up to its limit, telling how far it is.
func TestRedriveGoesOnPageByPage(t *testing.T) {
	const key = "7bf0893330d1e0a7"
	f := newFake(t,
		&adminv1.RedriveDeadLettersResponse{Redriven: 500, More: true, NextPageToken: "a"},
		&adminv1.RedriveDeadLettersResponse{Redriven: 500, More: true, NextPageToken: "b"},
		&adminv1.RedriveDeadLettersResponse{Redriven: 200, More: true, NextPageToken: "c"})
	started := time.Now()
	f.mq(t, "", "dlq", "redrive", "g", "t", "--failure", key, "--limit", "1200", "--rate", "9000").want(t, 0, "redriven: 1200\n",
		"redriven so far: 500\nmq: there are more\n")
	if took := time.Since(started); took < 1000*time.Second/9000 {
		t.Errorf("1000 at 9000 a second took %v", took)
	}
	ask := func(limit uint64, page string) *adminv1.RedriveDeadLettersRequest {
		return &adminv1.RedriveDeadLettersRequest{Group: "g", Topic: "t", Failure: key, Limit: limit, PageToken: page}
	}
	f.mustAsk(t, ask(900, ""), ask(700, "a"), ask(200, "b"))
}

func TestARateBoundsEachCall(t *testing.T) {
	for rate, want := range map[float64]uint64{0: moveBatch, 0.2: 1, 1: 1, 10: 1, 99.9: 9, 100: 10, 9000: 900, 99_999: 9999, 1e9: moveBatch} {
		if got := (&choice{rate: rate}).batch(0); got != want {
			t.Errorf("at %v a second a call takes %d, want %d", rate, got, want)
		}
	}
	if got := (&choice{rate: 0.5}).wait(3); got != 6*time.Second {
		t.Errorf("3 at one in 2s take %v", got)
	}
}

func TestDiscardOfAFailure(t *testing.T) {
	f := newFake(t, &adminv1.DiscardDeadLettersResponse{Discarded: 3, More: true, NextPageToken: "a"}, &adminv1.DiscardDeadLettersResponse{Discarded: 1})
	f.mq(t, "", "dlq", "discard", "g", "t", "--failure", "x", "--yes", "-o", "json").want(t, 0,
		"{\n  \"discarded\": \"4\",\n  \"unknownIds\": [],\n  \"more\": false,\n  \"nextPageToken\": \"\"\n}\n", "discarded so far: 3\n")
}

// TestAnErrorTellsWhatWasDone: by the calls before, and by the one that failed.
func TestAnErrorTellsWhatWasDone(t *testing.T) {
	err := connect.NewError(connect.CodeUnavailable, context.DeadlineExceeded)
	detail, _ := connect.NewErrorDetail(&brokerv1.ErrorInfo{Reason: "PARTITION_UNAVAILABLE", Metadata: map[string]string{"done": "20"}})
	err.AddDetail(detail)
	f := newFake(t, &adminv1.RedriveDeadLettersResponse{Redriven: 3, More: true, NextPageToken: "a"}, err)
	f.mq(t, "", "dlq", "redrive", "g", "t", "--all").want(t, 1, "redriven: 23\n",
		"redriven so far: 3\nmq: context deadline exceeded (PARTITION_UNAVAILABLE)\n")
}

// TestAnInterruptStopsBetweenCalls: the call under way is finished and counted.
func TestAnInterruptStopsBetweenCalls(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	ch := &choice{all: true, rate: 0.001}
	var progress bytes.Buffer
	calls := 0
	sum, err := ch.run(ctx, &progress, "redriven", func(ctx context.Context, _ uint64, _ string) (moved, string, error) {
		calls++
		interrupt()
		return moved{n: 1}, "more", ctx.Err()
	})
	if calls != 1 || sum.n != 1 || !sum.more || err == nil || err.Error() != "stopped; there are more" {
		t.Errorf("%d calls, %+v, %v", calls, sum, err)
	}
}

func TestGroupPauseAndResume(t *testing.T) {
	f := newFake(t, &adminv1.PauseGroupResponse{Topics: []string{"a", "b"}}, &adminv1.ResumeGroupResponse{Topics: []string{"a"}})
	f.mq(t, "", "group", "pause", "g").want(t, 0, "paused in: a, b\n", "")
	f.mq(t, "", "group", "resume", "g", "--topic", "a", "-o", "json").want(t, 0, "{\n  \"topics\": [\n    \"a\"\n  ]\n}\n", "")
	f.mustAsk(t, &adminv1.PauseGroupRequest{Group: "g"}, &adminv1.ResumeGroupRequest{Group: "g", Topic: "a"})
}

func TestGroupSeek(t *testing.T) {
	f := newFake(t, &adminv1.SeekGroupResponse{Positions: []*adminv1.Position{{Partition: 3, Offset: 1200}}})
	f.mq(t, "", "group", "seek", "g", "t", "--to", "1200", "--partition", "3").want(t, 0, "PARTITION  POSITION\n3          1200\n", "")
	three := uint32(3)
	f.mustAsk(t, &adminv1.SeekGroupRequest{Group: "g", Topic: "t", Partition: &three, To: &adminv1.SeekGroupRequest_Offset{Offset: 1200}})

	now := time.Date(2026, 3, 8, 12, 0, 0, 0, time.UTC)
	for to, want := range map[string]time.Time{
		"-1h": now.Add(-time.Hour), "-7d": now.AddDate(0, 0, -7), "0s": now, "2026-03-01T12:00:00+01:00": time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC),
	} {
		q := &adminv1.SeekGroupRequest{}
		if err := seekTo(q, to, now); err != nil || !q.GetTime().AsTime().Equal(want) {
			t.Errorf("--to %s: %v, %v, want %v", to, q.GetTime().AsTime(), err, want)
		}
	}
	for _, to := range []string{"earliest", "latest"} {
		q := &adminv1.SeekGroupRequest{}
		if err := seekTo(q, to, now); err != nil || q.GetEdge() != to {
			t.Errorf("--to %s: %v, %v", to, q, err)
		}
	}
}

// TestARateIsNoBurst: dead letters move in slices of a tenth of a second, and progress is told once a second.
func TestARateIsNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := &choice{all: true, rate: 100, limit: 300}
		var progress bytes.Buffer
		var slices []uint64
		began := time.Now()
		sum, err := ch.run(t.Context(), &progress, "redriven", func(_ context.Context, limit uint64, _ string) (moved, string, error) {
			if took, want := time.Since(began), time.Duration(len(slices))*100*time.Millisecond; took != want {
				t.Errorf("slice %d after %v, want %v", len(slices), took, want)
			}
			slices = append(slices, limit)
			return moved{n: limit}, "more", nil
		})
		if sum.n != 300 || err != nil || len(slices) != 30 || slices[0] != 10 {
			t.Errorf("%+v, %v, in slices %v", sum, err, slices)
		}
		if want := "redriven so far: 10\nredriven so far: 110\nredriven so far: 210\n"; progress.String() != want {
			t.Errorf("told %q, want %q", progress.String(), want)
		}
	})
}
