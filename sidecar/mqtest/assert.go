package mqtest

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/typedmq/typedmq/sidecar/internal/schema"
)

// AssertPublished fails the test unless the messages of T's topic are those, in that order.
func AssertPublished[T proto.Message](t testing.TB, s *Sidecar, want ...T) {
	t.Helper()
	assertSame(t, fmt.Sprintf("published to %q", TopicOf[T]()), Values(Published[T](s)), want)
}

// AssertDeadLetters fails the test unless the messages of T's topic that the group gave up on are those, in the order of their deaths. A group that does not consume the
// topic fails it too, see [DeadLetters].
func AssertDeadLetters[T proto.Message](t testing.TB, s *Sidecar, group string, want ...T) {
	t.Helper()
	var got []T
	for _, d := range DeadLetters[T](s, group) {
		got = append(got, d.Value)
	}
	assertSame(t, fmt.Sprintf("dead letters of %v", subscription{group, TopicOf[T]()}), got, want)
}

// AssertNoDeadLetters fails the test if any group gave up on any message, and tells why it did.
func AssertNoDeadLetters(t testing.TB, s *Sidecar) {
	t.Helper()
	groups, err := s.must().Groups(t.Context(), "", "")
	if err != nil {
		t.Fatalf("mqtest: %v", err)
	}
	for _, g := range groups {
		for _, d := range s.deadLetters(g.Group, g.Topic) {
			t.Errorf("%v gave up on message %s after %d attempts (%s): %s", subscription{g.Group, g.Topic}, d.ID, d.Attempts, d.Reason, d.LastError)
		}
	}
}

// assertSame compares messages as protobuf does, and shows both lists where they differ, without their sensitive fields.
func assertSame[T proto.Message](t testing.TB, what string, got, want []T) {
	t.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = proto.Equal(got[i], want[i])
	}
	if !same {
		shown, hid := show(got)
		wanted, hidToo := show(want)
		note := ""
		if hid || hidToo {
			note = "\n(sensitive fields are compared and not shown)"
		}
		t.Errorf("%s:\n got %s\nwant %s%s", what, shown, wanted, note)
	}
}

// show prints messages without their sensitive fields, and tells whether one had any.
func show[T proto.Message](all []T) (text string, hid bool) {
	if len(all) == 0 {
		return "nothing", false
	}
	var b strings.Builder
	for _, m := range all {
		public := proto.CloneOf(m)
		schema.ClearSensitive(public.ProtoReflect())
		hid = hid || !proto.Equal(public, m)
		fmt.Fprintf(&b, "\n\t{%s}", strings.Join(strings.Fields(prototext.MarshalOptions{}.Format(public)), " "))
	}
	return b.String(), hid
}
