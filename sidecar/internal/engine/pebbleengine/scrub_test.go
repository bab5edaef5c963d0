package pebbleengine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// scrubbing runs a scrub in a bubble of fake time, on a store with a megabyte of records in each of three logs and some state.
func scrubbing(t *testing.T, harm func(*testing.T, *Engine), o ScrubOptions, then func(t *testing.T, e *Engine, logged func() string)) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		fs := vfs.NewMem()
		e := openOn(t, fs, Options{Still: true})
		s, err := e.Fence(t.Context(), owned, 1)
		if err != nil {
			t.Fatal(err)
		}
		for log := range 3 {
			for i := range 16 {
				if _, err := s.Commit(t.Context(), engine.Batch{
					Writes: []engine.Write{{Key: fmt.Appendf(nil, "%d-%d", log, i), Value: []byte("state")}},
					Appends: []engine.Append{{
						Log: engine.LogID{Topic: engine.TopicID(log + 1)}, Records: records(strings.Repeat("x", 64<<10)), Count: 1, TimeMS: int64(i) * 2 * mergeWithin,
					}},
				}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if harm != nil {
			harm(t, e)
		}
		closeEngine(t, e)
		e = openOn(t, fs, Options{Still: true, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); e.Scrub(ctx, o) }()
		then(t, e, out.String)
		stop()
		<-ended
		closeEngine(t, e)
	})
}

func TestScrubReadsAllAtTheRateThatItWasTold(t *testing.T) {
	scrubbing(t, nil, ScrubOptions{Rate: 64 << 10, Pause: time.Hour}, func(t *testing.T, e *Engine, logged func() string) {
		time.Sleep(40 * time.Second) // three megabytes take 48 s
		synctest.Wait()
		if st := e.Scrubbed(); !st.Running || st.Passes != 0 || st.Bytes < 39*64<<10 || st.Bytes > 41*64<<10+scrubStep {
			t.Errorf("after 40 s: %+v", st)
		}
		time.Sleep(15 * time.Second)
		synctest.Wait()
		st := e.Scrubbed()
		if st.Running || st.Passes != 1 || st.Damaged != 0 || st.Bytes < 3<<20 || st.LastPass.IsZero() {
			t.Errorf("after 55 s: %+v", st)
		}
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if now := e.Scrubbed(); now != st {
			t.Errorf("in the pause: %+v, was %+v", now, st)
		}
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		if now := e.Scrubbed(); now.Passes != 2 || now.Bytes != 2*st.Bytes {
			t.Errorf("after the second pass: %+v", now)
		}
		if !strings.Contains(logged(), "scrub: all that is stored was read") || strings.Contains(logged(), "data_loss") {
			t.Errorf("logged:\n%s", logged())
		}
	})
}

func TestScrubQuarantinesWhatIsDamagedAndGoesOn(t *testing.T) {
	two := engine.LogID{Topic: 2}
	harm := func(t *testing.T, e *Engine) {
		for _, key := range [][]byte{chunkKey(two, 7), stateKey(owned, []byte("2-3"))} {
			value, closer, err := e.db.Get(key)
			if err != nil {
				t.Fatal(err)
			}
			value = bytes.Clone(value)
			_ = closer.Close()
			value[len(value)-1] ^= 1
			if err := e.db.Set(key, value, pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
	scrubbing(t, harm, ScrubOptions{Rate: 1 << 30, Pause: time.Hour}, func(t *testing.T, e *Engine, logged func() string) {
		time.Sleep(90 * time.Minute) // two passes
		synctest.Wait()
		if st := e.Scrubbed(); st.Passes != 2 || st.Damaged != 2 || st.Bytes < 4<<20 {
			t.Errorf("%+v", st)
		}
		for _, want := range []string{
			`msg="data_loss: the scrub found damage" log=2/0/0 offset=7 detail="checksum does not match"`,
			`msg="data_loss: the scrub found damage" shard=billing@1/2 key=322d33 detail="checksum does not match"`,
		} {
			if strings.Count(logged(), want) != 1 {
				t.Errorf("logged\n%s\nwant once: %s", logged(), want)
			}
		}
		_, err := e.Append(t.Context(), []engine.Append{{Log: two, Records: records("x"), Count: 1}})
		if bad := (*engine.CorruptError)(nil); !errors.As(err, &bad) || bad.Offset != 7 {
			t.Errorf("the damaged log is not quarantined: %v", err)
		}
		if _, err := e.Append(t.Context(), []engine.Append{{Log: engine.LogID{Topic: 3}, Records: records("x"), Count: 1}}); err != nil {
			t.Errorf("another log: %v", err)
		}
	})
}

func TestScrubEndsWithTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := openOn(t, vfs.NewMem(), Options{Still: true})
		appendTo(t, e, logA, "a")
		ended := make(chan struct{})
		go func() { defer close(ended); e.Scrub(t.Context(), ScrubOptions{}) }()
		time.Sleep(time.Minute)
		closeEngine(t, e)
		<-ended // at the next pass
	})
}
