package broker

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// TestAProducerHasOneHolder: who waits for it gets it in the order in which he came, and who gives up is passed over.
func TestAProducerHasOneHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, id := newNumbers(nil), [16]byte{1}
		if waited, err := n.hold(t.Context(), id); waited || err != nil {
			t.Fatal(waited, err)
		}
		if waited, err := n.hold(t.Context(), [16]byte{2}); waited || err != nil {
			t.Fatal("another producer:", waited, err)
		}
		var got []int
		ctx, cancel := context.WithCancel(t.Context())
		for i := range 4 {
			ctx := ctx
			if i != 1 {
				ctx = t.Context()
			}
			go func() {
				if waited, err := n.hold(ctx, id); !waited || (err != nil) != (i == 1) {
					t.Error(i, waited, err)
				}
				got = append(got, i)
			}()
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		for range 3 {
			n.free(id)
			synctest.Wait()
		}
		if want := []int{1, 0, 2, 3}; !slices.Equal(got, want) {
			t.Errorf("went on in the order %v, want %v", got, want)
		}
		n.free(id)
		if waited, err := n.hold(t.Context(), id); waited || err != nil {
			t.Error("when all are done:", waited, err)
		}
	})
}

// TestNothingIsBegunAfterAFailure: those who wait are told, and those who come later.
func TestNothingIsBegunAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, id := newNumbers(nil), [16]byte{1}
		if _, err := n.hold(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			go func() {
				if _, err := n.hold(t.Context(), id); !errors.Is(err, errNumbersOver) {
					t.Error("who waits is told", err)
				}
			}()
		}
		synctest.Wait()
		why := errors.New("why")
		n.fail(why)
		n.fail(errors.New("later"))
		n.free(id)
		if _, err := n.hold(t.Context(), [16]byte{2}); !errors.Is(err, errNumbersOver) || !errors.Is(n.failed(), why) {
			t.Error(err, n.failed())
		}
	})
}

// TestNothingIsBegunAfterTheEnd: an end without an error is one. Otherwise a batch that comes again while the first is on its way to the disk would be stored beside it.
func TestNothingIsBegunAfterTheEnd(t *testing.T) {
	n, id := newNumbers(nil), [16]byte{1}
	if _, err := n.hold(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	n.fail(nil)
	if _, err := n.hold(t.Context(), id); !errors.Is(err, errNumbersOver) || n.failed() == nil {
		t.Errorf("the producer has another holder: %v, %v", err, n.failed())
	}
}

// TestBuffersAreLentOnce: what is given back is lent again, to one.
func TestBuffersAreLentOnce(t *testing.T) {
	var all buffers
	for _, n := range []int{0, 1, 4096, 4097, 1 << 20, 4 << 20, 5 << 20} {
		a, b := all.take(n), all.take(n)
		if len(a.bytes) < n || len(b.bytes) < n || n > 0 && &a.bytes[0] == &b.bytes[0] {
			t.Fatalf("two of %d bytes have %d and %d, and may be one", n, len(a.bytes), len(b.bytes))
		}
		a.give()
		b.give()
		if c, d := all.take(n), all.take(n); n > 0 && &c.bytes[0] == &d.bytes[0] {
			t.Fatalf("one of %d bytes is lent twice", n)
		}
	}
}
