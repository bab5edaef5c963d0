package enginetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// acked is what writers know to be durable: for each writer the number of its last acknowledged write.
type acked struct {
	mu struct {
		sync.Mutex
		appends, commits map[int]int
		epoch            engine.Epoch
	}
	progress chan struct{} // one element per acknowledgement, dropped when full
}

func (a *acked) note(change func()) {
	a.mu.Lock()
	change()
	a.mu.Unlock()
	select {
	case a.progress <- struct{}{}:
	default:
	}
}

// crashLosesNothing cuts the power again and again under writers, and looks at each of the disks left behind: everything acknowledged
// before the cut is there, in order and without holes, and commits are whole.
func crashLosesNothing(t *testing.T, h Harness) {
	if h.Crash == nil {
		t.Skip("this engine has no disk to crash")
	}
	const writers, crashes = 3, 12
	known := &acked{progress: make(chan struct{}, 64)}
	known.mu.appends, known.mu.commits = map[int]int{}, map[int]int{}

	stop := make(chan struct{})
	errs := make(chan error, 2*writers+1)
	loop := func(step func(i int) error) {
		for i := 1; ; i++ {
			select {
			case <-stop:
				errs <- nil
				return
			default:
			}
			if err := step(i); err != nil {
				errs <- err
				return
			}
		}
	}
	for w := range writers {
		go loop(func(i int) error {
			_, err := h.Engine.Append(t.Context(), []engine.Append{appendOf(writerLog(w), fmt.Sprint(i), fmt.Sprint(i))})
			known.note(func() { known.mu.appends[w] = i })
			return err
		})
		s := mustFence(t, h.Engine, writerShard(w), 1)
		go loop(func(i int) error {
			_, err := s.Commit(t.Context(), engine.Batch{
				Writes:  []engine.Write{put("n", fmt.Sprint(i)), put(fmt.Sprintf("n/%06d", i), "")},
				Appends: []engine.Append{appendOf(commitLog(w), fmt.Sprint(i)), appendOf(logB, fmt.Sprintf("%d.%d", w, i))},
			})
			known.note(func() { known.mu.commits[w] = i })
			return err
		})
	}
	go loop(func(i int) error {
		_, err := h.Engine.Fence(t.Context(), shard, engine.Epoch(i))
		known.note(func() { known.mu.epoch = engine.Epoch(i) })
		return err
	})

	for range crashes {
		for range 20 {
			<-known.progress
		}
		known.mu.Lock()
		appends, commits, epoch := map[int]int{}, map[int]int{}, known.mu.epoch
		for w := range writers {
			appends[w], commits[w] = known.mu.appends[w], known.mu.commits[w]
		}
		known.mu.Unlock()
		checkCrashed(t, h.Crash(t), appends, commits, epoch)
	}
	close(stop)
	for range 2*writers + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func writerLog(w int) engine.LogID { return engine.LogID{Topic: 7, Partition: uint32(w)} }
func commitLog(w int) engine.LogID { return engine.LogID{Topic: 8, Partition: uint32(w)} }
func writerShard(w int) engine.ShardID {
	return engine.ShardID{Group: "g", Topic: 8, Partition: uint32(w)}
}

func checkCrashed(t *testing.T, e engine.Engine, appends, commits map[int]int, epoch engine.Epoch) {
	t.Helper()
	defer e.Close()
	total := 0
	for w, n := range appends {
		records := readAll(t, e, writerLog(w), 0)
		if len(records) < 2*n || len(records)%2 != 0 {
			t.Errorf("writer %d: %d records survived, %d were acknowledged", w, len(records), 2*n)
		}
		for i, record := range records {
			if record != fmt.Sprint(i/2+1) {
				t.Fatalf("writer %d: offset %d holds %q", w, i, record)
			}
		}
	}
	for w, n := range commits {
		records := readAll(t, e, commitLog(w), 0)
		total += len(records)
		if len(records) < n {
			t.Errorf("owner %d: %d commits survived, %d were acknowledged", w, len(records), n)
		}
		s := mustFence(t, e, writerShard(w), 1)
		value, err := s.Get(t.Context(), []byte("n"))
		if len(records) == 0 && errors.Is(err, engine.ErrNotFound) {
			continue
		}
		if err != nil || string(value) != fmt.Sprint(len(records)) {
			t.Errorf("owner %d: the log holds %d commits, the counter is %q, %v", w, len(records), value, err)
		}
		keys := 0
		for _, err := range s.Scan(t.Context(), []byte("n/"), nil) {
			if err != nil {
				t.Fatal(err)
			}
			keys++
		}
		if keys != len(records) {
			t.Errorf("owner %d: the log holds %d commits, the map %d", w, len(records), keys)
		}
	}
	if got := len(readAll(t, e, logB, 0)); got != total {
		t.Errorf("the shared log holds %d records, the owners' logs %d", got, total)
	}
	if epoch > 1 {
		if _, err := e.Fence(t.Context(), shard, epoch-1); !errors.Is(err, engine.ErrFenced) {
			t.Errorf("a claim at %d, before the acknowledged %d: %v", epoch-1, epoch, err)
		}
	}
	mustAppend(t, e, appendOf(writerLog(0), "after the crash"))
}
