// mqbench measures a sidecar from outside: typed clients in this process, mq serve in another, a disk that is synced.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	benchv1 "github.com/typedmq/typedmq/bench/gen/bench/v1"
	"github.com/typedmq/typedmq/bench/gen/bench/v1/benchv1mq"
	"github.com/typedmq/typedmq/runtime/mq"
)

type settings struct {
	binary  string
	run     string
	rounds  int
	time    time.Duration
	size    int
	keys    int
	profile string
	workers int
	ahead   int
}

func main() {
	var s settings
	flag.StringVar(&s.binary, "mq", "bin/mq", "path of mq")
	flag.StringVar(&s.run, "run", "publish,plain,queue,pubsub", "scenarios")
	flag.IntVar(&s.rounds, "rounds", 3, "rounds of each")
	flag.DurationVar(&s.time, "time", 4*time.Second, "time of a round")
	flag.IntVar(&s.size, "size", 256, "bytes of a message's body")
	flag.IntVar(&s.keys, "keys", 10_000, "number of keys, 0 for none")
	flag.IntVar(&s.workers, "workers", 64, "handlers at a time")
	flag.IntVar(&s.ahead, "ahead", 8192, "messages that a consumer prefetches")
	flag.StringVar(&s.profile, "profile", "", "directory for CPU profiles of both processes")
	flag.Parse()
	for _, name := range strings.Split(s.run, ",") {
		var rates []float64
		for range s.rounds {
			rate, err := s.round(name)
			if err != nil {
				fmt.Fprintln(os.Stderr, "mqbench:", err)
				os.Exit(1)
			}
			rates = append(rates, rate)
		}
		slices.Sort(rates)
		fmt.Printf("%-8s median %.0f/s\n", name, rates[len(rates)/2])
	}
}

type world struct {
	settings
	client *mq.Client
	pid    int
	socket string
	keyset []string
	body   []byte
}

func (s settings) round(name string) (float64, error) {
	dir, err := os.MkdirTemp("", "mqbench")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	w := &world{settings: s, socket: filepath.Join(dir, "s"), body: make([]byte, s.size)}
	for i := range w.body {
		w.body[i] = byte(i * 7)
	}
	for i := range s.keys {
		w.keyset = append(w.keyset, fmt.Sprintf("key%07d", i))
	}
	command := exec.Command(s.binary, "serve", "--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--socket", w.socket, "--profile", "true", "--log-level", "warn")
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return 0, err
	}
	w.pid = command.Process.Pid
	defer func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	}()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", w.socket)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			return 0, err
		}
	}
	if w.client, err = mq.Dial(context.Background(), mq.WithAddress("unix://"+w.socket)); err != nil {
		return 0, err
	}
	defer w.client.Close()
	var n atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	switch name {
	case "publish":
		go func() { done <- w.async(ctx, &n, nil) }()
	case "plain":
		go func() { done <- w.plain(ctx, &n) }()
	case "queue":
		go func() { done <- w.endToEnd(ctx, &n, 1) }()
	case "pubsub":
		go func() { done <- w.endToEnd(ctx, &n, 4) }()
	default:
		cancel()
		return 0, fmt.Errorf("no scenario %q", name)
	}
	time.Sleep(time.Second)
	stop := w.profiles(name)
	from, began, client, server := n.Load(), time.Now(), cpu(os.Getpid()), cpu(w.pid)
	select {
	case err := <-done:
		cancel()
		return 0, fmt.Errorf("%s ended early: %w", name, err)
	case <-time.After(s.time):
	}
	count, took := float64(n.Load()-from), time.Since(began)
	client, server = cpu(os.Getpid())-client, cpu(w.pid)-server
	stop()
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		return 0, err
	}
	rate := count / took.Seconds()
	fmt.Printf("%-8s %8.0f/s  client %5.0f ns  sidecar %5.0f ns of CPU each\n", name, rate, client.Seconds()*1e9/count, server.Seconds()*1e9/count)
	return rate, nil
}

// profiles takes CPU profiles of both processes until the returned function is called.
func (w *world) profiles(name string) func() {
	if w.profile == "" {
		return func() {}
	}
	_ = os.MkdirAll(w.profile, 0o755)
	f, err := os.Create(filepath.Join(w.profile, name+".client.pprof"))
	if err != nil {
		return func() {}
	}
	_ = pprof.StartCPUProfile(f)
	var work sync.WaitGroup
	work.Go(func() {
		h := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", w.socket)
		}}}
		r, err := h.Get("http://sidecar/debug/pprof/profile?seconds=" + strconv.Itoa(max(1, int(w.time.Seconds()))))
		if err != nil {
			return
		}
		defer r.Body.Close()
		out, err := os.Create(filepath.Join(w.profile, name+".sidecar.pprof"))
		if err == nil {
			_, _ = io.Copy(out, r.Body)
			_ = out.Close()
		}
	})
	return func() {
		pprof.StopCPUProfile()
		_ = f.Close()
		work.Wait()
	}
}

// cpu is the processor time of a process so far.
func cpu(pid int) time.Duration {
	if pid == os.Getpid() {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	raw, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	_, rest, _ := strings.Cut(string(raw), ") ")
	f := strings.Fields(rest)
	if len(f) < 14 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (w *world) key(i int) string {
	if len(w.keyset) == 0 {
		return ""
	}
	return w.keyset[i%len(w.keyset)]
}

// async publishes jobs from 8 callers, 1,024 at a time each, within the room that limit gives.
func (w *world) async(ctx context.Context, n *atomic.Int64, room chan struct{}) error {
	return w.callers(ctx, n, room, func(pub *streams, i int) *mq.Pending {
		return pub.queue.PublishAsync(ctx, &benchv1.Job{Key: w.key(i), Body: w.body})
	})
}

type streams struct {
	queue *mq.Publisher[*benchv1.Job]
	fan   *mq.Publisher[*benchv1.Event]
}

func (w *world) callers(ctx context.Context, n *atomic.Int64, room chan struct{}, publish func(*streams, int) *mq.Pending) error {
	pub := &streams{benchv1mq.NewStreamQueue(w.client), benchv1mq.NewStreamFan(w.client)}
	const callers, batch = 8, 1024
	var work sync.WaitGroup
	errs := make(chan error, callers)
	for c := range callers {
		work.Go(func() {
			pending := make([]*mq.Pending, 0, batch)
			for i := c * 1_000_003; ctx.Err() == nil; i += batch {
				if room != nil {
					select {
					case room <- struct{}{}:
					case <-ctx.Done():
						return
					}
				}
				pending = pending[:0]
				for j := range batch {
					pending = append(pending, publish(pub, i+j))
				}
				for _, p := range pending {
					if _, err := p.Wait(ctx); err != nil {
						if ctx.Err() == nil {
							errs <- err
						}
						return
					}
				}
				if n != nil {
					n.Add(batch)
				}
			}
		})
	}
	work.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (w *world) plain(ctx context.Context, n *atomic.Int64) error {
	pub := benchv1mq.NewStreamPublisher(w.client)
	var work sync.WaitGroup
	errs := make(chan error, 64)
	for c := range 64 {
		work.Go(func() {
			for i := c * 1_000_003; ctx.Err() == nil; i++ {
				if _, err := pub.Queue(ctx, &benchv1.Job{Key: w.key(i), Body: w.body}); err != nil {
					if ctx.Err() == nil {
						errs <- err
					}
					return
				}
				n.Add(1)
			}
		})
	}
	work.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

type handler struct {
	n    *atomic.Int64
	room chan struct{}
	per  int64
}

func (h *handler) Work(context.Context, *benchv1.Job) error { return h.done() }
func (h *handler) Read(context.Context, *benchv1.Event) error { return h.done() }

func (h *handler) done() error {
	if n := h.n.Add(1); h.room != nil && n%h.per == 0 {
		<-h.room
	}
	return nil
}

// endToEnd publishes and consumes at once, with at most 64 batches of 1,024 between them.
func (w *world) endToEnd(ctx context.Context, n *atomic.Int64, groups int) error {
	room := make(chan struct{}, 64)
	h := &handler{n: n, room: room, per: int64(1024 * groups)}
	worker := mq.NewWorker(w.client, mq.WithConcurrency(w.workers), mq.WithPrefetch(w.ahead))
	publish := func(pub *streams, i int) *mq.Pending {
		return pub.queue.PublishAsync(ctx, &benchv1.Job{Key: w.key(i), Body: w.body})
	}
	if groups == 1 {
		benchv1mq.RegisterWorkersConsumer(worker, h)
	} else {
		benchv1mq.RegisterReaders1Consumer(worker, h)
		benchv1mq.RegisterReaders2Consumer(worker, h)
		benchv1mq.RegisterReaders3Consumer(worker, h)
		benchv1mq.RegisterReaders4Consumer(worker, h)
		publish = func(pub *streams, i int) *mq.Pending {
			return pub.fan.PublishAsync(ctx, &benchv1.Event{Key: w.key(i), Body: w.body})
		}
	}
	running := make(chan error, 1)
	go func() { running <- worker.Run(ctx) }()
	err := w.callers(ctx, nil, room, publish)
	return errors.Join(err, <-running)
}
