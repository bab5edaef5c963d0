package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/typedmq/typedmq/runtime/mq"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	crashv1 "github.com/typedmq/typedmq/sidecar/crash/gen/crash/v1"
	"github.com/typedmq/typedmq/sidecar/crash/gen/crash/v1/crashv1mq"
	"github.com/typedmq/typedmq/sidecar/internal/sim"
)

// template is a store of a process that was killed, in memory: what is not zero of its files.
type template struct {
	files []templateFile
	stock *stock // what a sidecar shows of it
	size  int64  // that is not zero
}

type templateFile struct {
	path   string // below the data directory
	size   int64
	mode   fs.FileMode
	blocks map[int64][]byte // by offset, those that are not zero
	spots  []int64          // the offsets, in order
}

const templateBlock = 4096

// readTemplate takes a data directory that no process uses.
func readTemplate(dir string) (*template, error) {
	t := &template{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file := templateFile{path: rel, size: info.Size(), mode: info.Mode(), blocks: map[int64][]byte{}}
		zero := make([]byte, templateBlock)
		for at := int64(0); at < file.size; at += templateBlock {
			block := make([]byte, min(templateBlock, file.size-at))
			if _, err := f.ReadAt(block, at); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if !bytes.Equal(block, zero[:len(block)]) {
				file.blocks[at] = block
				file.spots = append(file.spots, at)
				t.size += int64(len(block))
			}
		}
		t.files = append(t.files, file)
		return nil
	})
	return t, err
}

// write puts the store into a directory.
func (t *template) write(dir string) error {
	for _, f := range t.files {
		name := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, f.mode)
		if err != nil {
			return err
		}
		errs := []error{out.Truncate(f.size)}
		for _, at := range f.spots {
			_, err := out.WriteAt(f.blocks[at], at)
			errs = append(errs, err)
		}
		if err := errors.Join(append(errs, out.Close())...); err != nil {
			return err
		}
	}
	return nil
}

// kind is what a file is, in the table.
func kind(path string) string {
	base := filepath.Base(path)
	switch dir := filepath.ToSlash(filepath.Dir(path)); {
	case dir == "store" && strings.HasSuffix(base, ".sst"), dir == "store" && strings.HasSuffix(base, ".blob"):
		return "store: tables"
	case dir == "store" && strings.HasSuffix(base, ".log"):
		return "store: write-ahead log"
	case dir == "store" && strings.HasPrefix(base, "MANIFEST"):
		return "store: MANIFEST"
	case dir == "store" && strings.HasPrefix(base, "OPTIONS"):
		return "store: OPTIONS"
	case dir == "store" && strings.HasPrefix(base, "marker."), dir == "store" && (base == "FORMAT" || base == "LOCK"):
		return "store: markers, FORMAT, LOCK"
	case dir == "store":
		return "store: " + base
	case strings.HasSuffix(base, ".wal"):
		return "etcd: write-ahead log"
	case base == "db":
		return "etcd: bbolt"
	case strings.HasSuffix(base, ".snap"):
		return "etcd: snapshots"
	}
	return "etcd: others"
}

// damage is one thing done to one file.
type damage struct {
	file     int // in the template
	truncate bool
	at       int64 // where it is cut off, or the byte
	bit      uint8
}

func (d damage) in(t *template) string {
	f := t.files[d.file]
	if d.truncate {
		return fmt.Sprintf("%s (%d bytes) cut off at %d", f.path, f.size, d.at)
	}
	return fmt.Sprintf("%s (%d bytes): bit %d of byte %d flipped", f.path, f.size, d.bit, d.at)
}

func (d damage) do(t *template, dir string) error {
	name := filepath.Join(dir, t.files[d.file].path)
	if d.truncate {
		return os.Truncate(name, d.at)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], d.at)
	b[0] ^= 1 << d.bit
	_, also := f.WriteAt(b[:], d.at)
	return errors.Join(err, also, f.Close())
}

// draw chooses a damage: every kind of file has its turn, and within a file those blocks that hold something come four times of five.
func (t *template) draw(n int, rng *rand.Rand) damage {
	byKind := map[string][]int{}
	for i, f := range t.files {
		if f.size > 0 {
			byKind[kind(f.path)] = append(byKind[kind(f.path)], i)
		}
	}
	var kinds []string
	for k := range byKind {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	// What holds messages has more turns.
	for _, k := range []string{"store: tables", "store: write-ahead log", "store: write-ahead log", "store: tables"} {
		if byKind[k] != nil {
			kinds = append(kinds, k)
		}
	}
	of := byKind[kinds[n%len(kinds)]]
	d := damage{file: of[rng.IntN(len(of))]}
	f := t.files[d.file]
	d.truncate = rng.IntN(10) < 3
	d.at = rng.Int64N(f.size)
	if len(f.spots) > 0 && rng.IntN(5) > 0 {
		spot := f.spots[rng.IntN(len(f.spots))]
		d.at = spot + rng.Int64N(int64(len(f.blocks[spot])))
	}
	d.bit = uint8(rng.IntN(8))
	return d
}

// flips makes a store, and damages copies of it.
func flips(ctx context.Context, l *life, t *tally, o options) error {
	dir := filepath.Join(l.dir, "flips")
	if shm, err := os.MkdirTemp("/dev/shm", "mq-crash-"); err == nil { // copies need no disk
		l.atEnd(func() { _ = os.RemoveAll(shm) })
		dir = shm
	}
	rng := rand.New(rand.NewPCG(o.seed, 0x666c6970))
	from, err := makeTemplate(ctx, l, t, o, filepath.Join(l.dir, "template"))
	if err != nil {
		return fmt.Errorf("make a store to damage: %w", err)
	}
	drawn := make([]damage, o.flips)
	for i := range drawn {
		drawn[i] = from.draw(i, rng)
	}
	var next atomic.Int64
	var all sync.WaitGroup
	for w := range 3 {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(drawn) || ctx.Err() != nil {
					return
				}
				if o.only >= 0 && i != o.only {
					continue
				}
				one := filepath.Join(dir, fmt.Sprintf("%d", i))
				if err := flip(ctx, l, t, o, from, drawn[i], i, one, w); err != nil && ctx.Err() == nil {
					t.wrong("flip %d, %s: %v", i, drawn[i].in(from), err)
				}
				if o.only < 0 {
					_ = os.RemoveAll(one)
				}
			}
		})
	}
	all.Wait()
	return nil
}

// makeTemplate runs a sidecar under load, kills it a few times so that there is something of every kind of file, and leaves messages that nobody has
// handled, some that are settled, dead letters, and some for later.
func makeTemplate(ctx context.Context, l *life, t *tally, o options, dir string) (*template, error) {
	r, err := newRig(l, t, o.mq, "template", "", o.seed)
	if err != nil {
		return nil, err
	}
	for round := range 4 {
		if err := r.start(ctx); err != nil {
			return nil, err
		}
		r.load = &load{record: r.record, uids: r.load.uids, quick: true}
		if err := r.load.begin(ctx, r.node.address(), round < 3); err != nil {
			return nil, err
		}
		if round == 3 { // far from due
			if err := later(ctx, r.load); err != nil {
				return nil, err
			}
		}
		r.pause(ctx, 500*time.Millisecond, 600*time.Millisecond)
		r.load.hush()
		r.pause(ctx, 1200*time.Millisecond, 1500*time.Millisecond) // for the marks to be synced, too
		r.node.kill()
		if err := r.load.end(); err != nil {
			return nil, err
		}
	}
	from, err := readTemplate(r.node.data)
	if err != nil {
		return nil, err
	}
	// What the store holds, and that it is what was acknowledged.
	n := &node{mq: o.mq, data: filepath.Join(dir, "pristine"), socket: filepath.Join(dir, "p"), log: filepath.Join(dir, "pristine.log"), life: l}
	if err := from.write(n.data); err != nil {
		return nil, err
	}
	if _, err := n.start(ctx); err != nil {
		return nil, err
	}
	defer n.kill()
	if from.stock, err = take(ctx, n); err != nil {
		return nil, err
	}
	if len(from.stock.faults) > 0 {
		return nil, fmt.Errorf("the store is damaged already: %q", from.stock.faults)
	}
	if missing := r.record.missing(from.stock); len(missing) > 0 {
		return nil, fmt.Errorf("%d acknowledged messages are not in the store, such as uid %d", len(missing), missing[0])
	}
	if len(from.stock.scheduled) == 0 || len(from.stock.dead) == 0 || len(from.stock.tasks) == 0 {
		return nil, fmt.Errorf("the store has %d scheduled messages, %d dead letters, %d tasks: some of each are needed", len(from.stock.scheduled), len(from.stock.dead), len(from.stock.tasks))
	}
	return from, nil
}

// later publishes tasks that are due in a day.
func later(ctx context.Context, l *load) error {
	source := crashv1mq.NewSourcePublisher(l.publisher)
	for range 40 {
		uid := l.uids()
		op := l.record.publish(tasks, taskKey(uid), uid, 24*time.Hour)
		if _, err := source.Asked(ctx, &crashv1.Task{Uid: uid, Content: content(uid)}, mq.WithDelay(24*time.Hour)); err != nil {
			return err
		}
		l.record.published(op, tasks, taskKey(uid), uid, 24*time.Hour, sim.OK, 0, -1, "")
	}
	return nil
}

// missing is the words that were acknowledged and are not in the stock as they were published.
func (r *recorder) missing(s *stock) (uids []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := map[leased]stored{}
	for _, m := range s.words {
		there[leased{topic: words, partition: m.partition, offset: m.offset}] = m
	}
	for _, e := range r.mu.events {
		if e.Kind != sim.Published || e.Result != sim.OK || e.Topic != words {
			continue
		}
		if m, ok := there[leased{topic: words, partition: e.Partition, offset: e.Offset}]; !ok || m.uid != e.UID || !m.good {
			uids = append(uids, e.UID)
		}
	}
	return uids
}

// flip damages a copy, starts a sidecar on it, and compares what it shows with what was there.
func flip(ctx context.Context, l *life, t *tally, o options, from *template, d damage, number int, dir string, worker int) error {
	k := kind(from.files[d.file].path)
	n := &node{mq: o.mq, data: filepath.Join(dir, "d"), socket: filepath.Join(l.dir, fmt.Sprintf("f%d", worker)), log: filepath.Join(dir, "log"), life: l}
	if err := from.write(n.data); err != nil {
		return err
	}
	if err := d.do(from, n.data); err != nil {
		return err
	}
	bad := func(format string, args ...any) {
		t.silent(k, fmt.Sprintf("SILENT: flip %d, %s: %s; see it with -flip %d -seed %d -flips %d\n    it logged:\n%s", number, d.in(from), fmt.Sprintf(format, args...),
			number, o.seed, o.flips, lastWords(n.said(0))))
	}
	took, err := n.start(ctx)
	if err != nil {
		n.kill()
		if ctx.Err() != nil {
			return nil
		}
		if n.current().cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
			bad("it does not start and does not end: %v", err)
			return nil
		}
		said := n.said(0)
		base := filepath.Base(d.path(from))
		if strings.Contains(said, d.path(from)) || len(base) > 4 && strings.Contains(said, base) {
			t.flip(k, func(f *flipTally) { f.refused++ })
		} else {
			t.unnamed(k, fmt.Sprintf("flip %d, %s: refused without its name:\n%s", number, d.in(from), lastWords(said)))
		}
		return nil
	}
	t.flipRestarted(took)
	defer n.kill()
	defer n.signal(syscall.SIGKILL)
	bounded, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	now, err := take(bounded, n)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		bad("it does not tell what it has: %v", err)
		return nil
	}
	differ := from.stock.compare(now)
	said := n.said(0)
	switch {
	case len(differ) == 0:
		if err := works(bounded, n, false); err != nil {
			bad("all is there, and it does not work: %v", err)
			return nil
		}
		t.flip(k, func(f *flipTally) { f.harmless++ })
	case len(now.faults) == 0 && now.wordsFault == nil && now.tasksFault == nil && !strings.Contains(said, "level=ERROR"):
		bad("%s", strings.Join(differ[:min(len(differ), 5)], "; "))
	default:
		if unsaid := now.unsaid(differ, said); len(unsaid) > 0 {
			bad("%s; it tells only of %q", strings.Join(unsaid[:min(len(unsaid), 5)], "; "), now.faults)
			return nil
		}
		if err := works(bounded, n, true); err != nil {
			bad("it tells of %q, and does not work: %v", now.faults, err)
			return nil
		}
		t.flip(k, func(f *flipTally) { f.reported++ })
	}
	return nil
}

// works publishes a task and leases one. Where damage was told, partitions may refuse with data_loss.
func works(ctx context.Context, n *node, damaged bool) error {
	broker := brokerv1connect.NewBrokerServiceClient(httpClient(n.socket), "http://sidecar")
	allowed := func(err error) error {
		if damaged && lossy(err) {
			return nil
		}
		return err
	}
	payload, err := proto.Marshal(&crashv1.Task{Uid: 1, Content: content(1)})
	if err != nil {
		return err
	}
	_, err = broker.Publish(ctx, connect.NewRequest(&brokerv1.PublishRequest{Topic: tasks, Messages: []*brokerv1.Message{{Body: &brokerv1.Message_Payload{Payload: payload}}}}))
	if allowed(err) != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for { // ownership takes a moment
		got, err := broker.Pull(ctx, connect.NewRequest(&brokerv1.PullRequest{Group: "doer", Topic: tasks, Wait: durationpb.New(time.Second)}))
		if allowed(err) != nil && connect.CodeOf(err) != connect.CodeUnavailable {
			return fmt.Errorf("pull: %w", err)
		}
		if err == nil && len(got.Msg.GetMessages()) > 0 || lossy(err) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("nothing can be pulled: %w", cmp.Or(err, ctx.Err()))
		}
	}
}

func (d damage) path(t *template) string { return t.files[d.file].path }
