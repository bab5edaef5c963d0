package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// story is what clients tell of one word, from publishing it to what is left, with a chance to tell otherwise.
type story struct {
	*recorder
	t *testing.T
}

func tell(t *testing.T, f func(story)) (sim.Verdict, int, []uint64) {
	t.Helper()
	var v sim.Verdict
	var again int
	var uncaused []uint64
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(plan(1))
		for i, g := range r.plan.Groups {
			r.add(sim.Event{Kind: sim.Join, Group: g.Name, Topic: g.Topic, Session: i + 1, After: time.Hour})
		}
		f(story{r, t})
		var h *sim.History
		h, again, uncaused = r.history()
		v = sim.Check(h)
	})
	return v, again, uncaused
}

func (s story) publish(uid uint64, result sim.Result, offset int64) {
	op := s.recorder.publish(words, "k", uid, 0)
	time.Sleep(time.Second)
	s.published(op, words, "k", uid, 0, result, 0, offset, "")
}

// handled has both groups acknowledge a message.
func (s story) handled(uid uint64, offset int64) {
	for i, group := range []string{"listener", "reader"} {
		e := s.receive(sim.Event{Group: group, Topic: words, Session: i + 1, Offset: offset, UID: uid, Key: "k", Attempt: 1})
		s.settled(s.settle(e, sim.Acked), nil)
	}
}

// held has a group receive a message and keep it.
func (s story) held() {
	s.receive(sim.Event{Group: "reader", Topic: words, Session: 2, UID: 1, Key: "k", Attempt: 1})
}

// left is what the store holds in the end: these words, all of them handled.
func (s story) left(uids ...uint64) {
	s.add(sim.Event{Kind: sim.Heal})
	for offset, uid := range uids {
		s.add(sim.Event{Kind: sim.InLog, Topic: words, Offset: int64(offset), UID: uid, Key: "k"})
	}
	for _, g := range s.plan.Groups {
		for p := range s.partitions(g.Topic) {
			end := int64(0)
			if g.Topic == words && p == 0 {
				end = int64(len(uids))
			}
			s.add(sim.Event{Kind: sim.InShard, Group: g.Name, Topic: g.Topic, Partition: p, Offset: end, Epoch: uint64(end)})
		}
	}
}

func wants(t *testing.T, v sim.Verdict, invariants ...int) {
	t.Helper()
	got := map[int]bool{}
	for _, one := range v.Violations {
		got[one.Invariant] = true
	}
	for _, n := range invariants {
		if !got[n] {
			t.Errorf("invariant %d is not violated: %v", n, v.Violations)
		}
		delete(got, n)
	}
	if len(got) > 0 {
		t.Errorf("violations: %v", v.Violations)
	}
}

func TestAStoryWithoutFaultsIsSound(t *testing.T) {
	v, again, uncaused := tell(t, func(s story) {
		s.publish(1, sim.OK, 0)
		s.handled(1, 0)
		s.left(1)
	})
	wants(t, v)
	if again != 0 || len(uncaused) != 0 {
		t.Errorf("%d published again, %v", again, uncaused)
	}
}

func TestAnAcknowledgedMessageThatIsGoneIsALoss(t *testing.T) {
	v, _, _ := tell(t, func(s story) {
		s.publish(1, sim.OK, 0)
		s.left()
	})
	wants(t, v, 1, 18)
}

func TestAMessageThatTheSDKSentTwiceBecomesTwo(t *testing.T) {
	for _, fault := range []bool{true, false} {
		v, again, uncaused := tell(t, func(s story) {
			op := s.recorder.publish(words, "k", 1, 0)
			time.Sleep(time.Minute)
			if fault {
				s.trouble(false)
				time.Sleep(time.Second)
				s.over()
			}
			s.published(op, words, "k", 1, 0, sim.OK, 0, 1, "")
			s.handled(1, 0)
			s.handled(1, 1)
			s.left(1, 1)
		})
		wants(t, v)
		if again != 1 {
			t.Errorf("%d messages were published again", again)
		}
		if (len(uncaused) == 0) != fault {
			t.Errorf("with a fault: %v; without a cause: %v", fault, uncaused)
		}
	}
}

func TestTheFirstOfTwoCopiesMustBeHandledToo(t *testing.T) {
	v, _, _ := tell(t, func(s story) {
		s.trouble(false)
		s.publish(1, sim.OK, 1)
		s.over()
		s.handled(1, 1)
		s.left(1, 1)
	})
	wants(t, v, 1, 5)
}

func TestALeaseIsExclusiveWhileNothingIsWrong(t *testing.T) {
	for _, step := range []struct {
		between func(story)
		wrong   bool
	}{
		{func(story) {}, true},
		{func(s story) { s.trouble(false); s.over() }, false},
		{func(s story) { s.trouble(true); s.held() }, false},
		{func(s story) { s.trouble(false); s.held() }, true},
	} {
		v, _, _ := tell(t, func(s story) {
			s.publish(1, sim.OK, 0)
			s.held()
			step.between(s)
			s.handled(1, 0)
			s.left(1)
		})
		if step.wrong {
			wants(t, v, 6)
		} else {
			wants(t, v)
		}
	}
}

func TestARefusedMessageThatIsStoredIsFound(t *testing.T) {
	v, _, _ := tell(t, func(s story) {
		s.publish(1, sim.Fail, -1)
		s.handled(1, 0)
		s.left(1)
	})
	wants(t, v, 3)
}
