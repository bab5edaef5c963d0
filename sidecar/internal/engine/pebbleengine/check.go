package pebbleengine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// Tally is what a check looked at.
type Tally struct {
	Logs, Shards, Records, Values int64
	Bytes                         int64 // of records
	Commit                        uint64
	// HighestEpoch is the highest that any shard was claimed at.
	HighestEpoch engine.Epoch
}

// What to do about a finding.
const (
	doRestore = "restore a backup, or go on without it: the sidecar serves every other log, and of this one what is before, or nothing if its last records are hit"
	doFile    = "restore a backup; what else is found tells which logs and groups had something in it"
	doState   = "restore a backup: the group's partition does not serve while its state cannot be read"
	doRefused = "keep a copy of the directory, then restore a backup: the sidecar does not start on it"
	doMarks   = "nothing is lost by that alone: the slot is written anew at the log's next commit"
	doUnknown = "use the version that wrote it, or report it: this version never writes such a key"
)

// perLog bounds the findings of one log; those beyond are counted.
const perLog = 20

// checker is one check under way.
type checker struct {
	*Offline
	report   func(engine.Finding)
	progress func(bytes int64)
	tally    Tally
	slots    map[engine.LogID]bool // marks that were looked at with their log
}

// Check verifies the store: every block of every file, every chunk with its place in its log's chain, every value, every counter and every high-water
// mark. What it finds wrong it reports and goes on. progress is told how many bytes of files and keys were read. The error says that the check ended early.
func (o *Offline) Check(ctx context.Context, report func(engine.Finding), progress func(bytes int64)) (Tally, error) {
	c := &checker{Offline: o, report: report, progress: progress, slots: make(map[engine.LogID]bool)}
	for _, part := range []func(context.Context) error{c.damage, c.marksFile, c.tables, c.commits, c.logs, c.fences, c.states, c.strangers, c.flips} {
		if err := part(ctx); err != nil {
			return c.tally, err
		}
	}
	return c.tally, nil
}

// Bytes is what the store's files have, for progress: the check reads most of them twice.
func (o *Offline) Bytes() (sum int64) {
	names, _ := o.dir.fs.List(o.dir.name)
	for _, name := range names {
		if info, err := o.dir.fs.Stat(o.dir.path(name)); err == nil && strings.HasSuffix(name, ".sst") {
			sum += info.Size()
		}
	}
	return sum
}

// marksFile checks each slot. What the marks say is held against their logs later.
func (c *checker) marksFile(context.Context) error {
	f, err := c.dir.fs.Open(c.dir.path(marksFile))
	if errors.Is(err, fs.ErrNotExist) {
		c.report(engine.Finding{Place: marksFile, What: "the file is missing: a loss at the end of a log cannot be told",
			Do: "start the sidecar, which writes it anew, or restore a backup if you did not remove it"})
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	all, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	for at := 0; at < len(all); at += markLen {
		slot := all[at:min(at+markLen, len(all))]
		switch {
		case len(slot) < markLen:
			c.report(engine.Finding{Place: marksFile, At: fmt.Sprint(at), What: "the last slot is cut short", Do: doMarks})
		case [markLen]byte(slot) == ([markLen]byte{}):
		case binary.BigEndian.Uint32(slot) != crc32.Checksum(slot[4:], castagnoli()):
			c.report(engine.Finding{Place: marksFile, At: fmt.Sprint(at), What: "slot fails its checksum", Do: doMarks})
		}
	}
	return nil
}

// tables checks every block of every file of the present version.
func (c *checker) tables(ctx context.Context) error {
	levels, err := c.engine.db.SSTables()
	if err != nil {
		return err
	}
	var names []string
	for _, level := range levels {
		for _, t := range level {
			names = append(names, fmt.Sprintf("%06d.sst", uint64(t.BackingSSTNum)))
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := ctx.Err(); err != nil {
			return err
		}
		size, err := c.table(ctx, name)
		if err != nil {
			c.report(engine.Finding{Place: name, What: firstLine(err), Do: doFile})
		}
		c.progress(size)
	}
	return nil
}

func (c *checker) table(ctx context.Context, name string) (size int64, err error) {
	defer func() {
		if p := recover(); p != nil { // about a damaged footer or index
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	f, err := c.fs.Open(c.dir.path(name))
	if err != nil {
		return 0, err
	}
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return size, errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, c.options.MakeReaderOptions())
	if err != nil {
		return size, errors.Join(err, readable.Close())
	}
	return size, errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// damage reports why the sidecar would not open the store.
func (c *checker) damage(context.Context) error {
	if d := c.refused; d != nil {
		c.report(engine.Finding{Place: c.dir.fs.PathBase(d.File), At: fmt.Sprintf("byte %d", d.Offset), What: d.Detail, Do: doRefused})
	}
	return nil
}

// flips reports the bits that are put right when a sidecar opens the store. It comes last, since files of values are opened when they are needed.
func (c *checker) flips(context.Context) error {
	for _, f := range c.fs.findings() {
		c.report(f)
	}
	return nil
}

// commits holds the commit number against its mark.
func (c *checker) commits(context.Context) error {
	n, err := c.engine.readCommits()
	switch mark := c.engine.marks.commits(); {
	case err != nil:
		c.report(engine.Finding{Place: "commit number", What: firstLine(err), Do: "restore a backup: the sidecar does not start without it"})
	case n < c.recovered.Commits:
		c.report(engine.Finding{Place: "commit number", What: fmt.Sprintf("is %d, and the write-ahead log holds commit %d", n, c.recovered.Commits),
			Do: doRefused})
	case n < mark:
		c.report(engine.Finding{Place: "commit number", What: fmt.Sprintf("is %d, was durable up to %d: acknowledged commits are missing", n, mark),
			Do: "restore a backup, or go on: logs that came back short are quarantined, and messages may be delivered again"})
	}
	c.tally.Commit = n
	return nil
}

// logs checks every log that has a chunk, a begin or a mark.
func (c *checker) logs(ctx context.Context) error {
	marked := slices.SortedFunc(maps.Keys(c.engine.marks.found), compareLogs)
	for from := []byte{kindChunk}; from != nil; {
		if err := ctx.Err(); err != nil {
			return err
		}
		id, ok, err := c.nextLog(from, kindChunk)
		if err != nil { // the file is damaged: the marks know of logs too
			i := slices.IndexFunc(marked, func(l engine.LogID) bool { return bytes.Compare(appendLog([]byte{kindChunk}, l), from) >= 0 })
			if i < 0 {
				c.report(engine.Finding{Place: "logs", At: hex.EncodeToString(from), What: firstLine(err), Do: doFile})
				break
			}
			id, ok = marked[i], true
		}
		if !ok {
			break
		}
		if err := c.log(ctx, id); err != nil {
			return err
		}
		from = after(appendLog([]byte{kindChunk}, id))
	}
	for from := []byte{kindLog}; from != nil; { // those without a chunk
		id, ok, err := c.nextLog(from, kindLog)
		if err != nil {
			c.report(engine.Finding{Place: "logs", At: hex.EncodeToString(from), What: firstLine(err), Do: doFile})
			break
		}
		if !ok {
			break
		}
		if !c.slots[id] {
			if err := c.log(ctx, id); err != nil {
				return err
			}
		}
		from = after(logKey(id))
	}
	for _, id := range marked {
		if !c.slots[id] {
			if err := c.log(ctx, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func compareLogs(a, b engine.LogID) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Lane, b.Lane))
}

// nextLog is the log of the first key of a kind at or above from.
func (o *Offline) nextLog(from []byte, kind byte) (id engine.LogID, ok bool, err error) {
	key, err := o.first(from, kind)
	if key == nil || err != nil {
		return id, false, err
	}
	id, ok = parseLog(key)
	return id, ok, nil
}

// logCheck is the check of one log under way.
type logCheck struct {
	*checker
	id       engine.LogID
	next     engine.Offset // that the next chunk begins at
	sum      uint32        // of the chunk before
	total    int64         // bytes of records up to next
	timeMS   int64
	known    bool // what is before next is known, and the next chunk must follow it
	findings int
}

func (l *logCheck) find(at engine.Offset, format string, args ...any) {
	if l.findings++; l.findings <= perLog {
		l.report(engine.Finding{Place: "log " + l.id.String(), At: fmt.Sprint(int64(at)), What: fmt.Sprintf(format, args...), Do: doRestore, Topic: l.id.Topic})
	}
}

func (c *checker) log(ctx context.Context, id engine.LogID) error {
	c.slots[id] = true
	c.tally.Logs++
	l := &logCheck{checker: c, id: id, known: true}
	from, err := c.engine.readBegin(id)
	if err != nil {
		l.find(0, "where the log begins cannot be read: %s", firstLine(err))
		l.known = false
	}
	l.next, l.sum, l.total = from.begin, from.sum, from.taken
	if err := l.chunks(ctx, from.begin); err != nil {
		return err
	}
	mark, marked := c.engine.marks.of(id)
	switch {
	case !marked || !l.known:
	case l.next < mark.end:
		l.find(l.next, "the log ends here and was durable up to %d", mark.end)
	case l.next == mark.end && l.sum != mark.sum:
		l.find(l.next, "the chunk before is not the one that was written last")
	}
	if more := l.findings - perLog; more > 0 {
		c.report(engine.Finding{Place: "log " + id.String(), What: fmt.Sprintf("%d more", more), Do: doRestore, Topic: id.Topic})
	}
	return nil
}

func (l *logCheck) chunks(ctx context.Context, begin engine.Offset) error {
	prefix := appendLog([]byte{kindChunk}, l.id)
	// Chunks below the begin were trimmed and wait to be deleted.
	it, err := l.engine.db.NewIter(&pebble.IterOptions{LowerBound: chunkKey(l.id, begin), UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	first := true
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := valueOf(it)
		if err == nil {
			l.progress(int64(len(value)))
			err = l.chunk(it.Key(), value, first, begin)
		}
		if err != nil {
			l.find(l.next, "%s", firstLine(err))
			l.known = false
			if len(it.Key()) == chunkKeyLen {
				l.next = lastOfKey(it.Key()) + 1
			}
		}
		first = false
	}
	if err := it.Error(); err != nil {
		l.find(l.next, "cannot be read from here on: %s", firstLine(err))
		l.known = false
	}
	return nil
}

// chunk checks one chunk against what was before it. An error says that nothing of it can be trusted.
func (l *logCheck) chunk(key, value []byte, first bool, begin engine.Offset) error {
	c, err := parseChunk(key, value)
	if err != nil {
		return err
	}
	if l.known {
		switch {
		case c.First != l.next:
			l.find(l.next, "the next chunk begins at %d: what is between is missing or doubled", c.First)
		case !first && c.previous != l.sum:
			l.find(c.First, "the chunk does not follow the one before: one of them was replaced")
		case first && begin == 0 && c.previous != 0:
			l.find(c.First, "the first chunk follows another, which is missing")
		case value[0] == chunkVersion && c.Taken != l.total:
			l.find(c.First, "the chunk counts %d bytes of records before it, there were %d", c.Taken, l.total)
		case value[0] == chunkVersion && c.TimeMS < l.timeMS:
			l.find(c.First, "the chunk is of an earlier time than the one before")
		}
	}
	records := 0
	for range c.All() {
		records++
	}
	if _, err := engine.Cut(engine.Append{Log: l.id, Records: c.Records, Count: c.Count}); err != nil {
		l.find(c.First, "the chunk counts %d records and %d can be read", c.Count, records)
	}
	l.next, l.sum, l.total, l.timeMS, l.known = c.Last()+1, c.sum, c.total, c.TimeMS, true
	l.tally.Records += int64(c.Count)
	l.tally.Bytes += int64(len(c.Records))
	return nil
}

// fences checks every claim.
func (c *checker) fences(ctx context.Context) error {
	return c.sealed(ctx, kindFence, func(key, body []byte, err error) {
		id, n, ok := parseShard(key)
		place := shardPlace(id)
		if !ok || n != len(key) {
			c.report(engine.Finding{Place: "fence", At: hex.EncodeToString(key), What: "its key is malformed", Do: doUnknown})
			return
		}
		epoch := uint64(0)
		if err == nil {
			epoch, err = parse64(body)
		}
		if err != nil {
			c.report(engine.Finding{Place: place, What: "the epoch of its owner: " + err.Error(), Do: doState, Topic: id.Topic})
			return
		}
		c.tally.HighestEpoch = max(c.tally.HighestEpoch, engine.Epoch(epoch))
	})
}

// states checks every value of every shard. What they mean is the broker's.
func (c *checker) states(ctx context.Context) error {
	last := engine.ShardID{}
	return c.sealed(ctx, kindState, func(key, _ []byte, err error) {
		id, n, ok := parseShard(key)
		if !ok {
			c.report(engine.Finding{Place: "state", At: hex.EncodeToString(key), What: "its key is malformed", Do: doUnknown})
			return
		}
		if id != last || c.tally.Shards == 0 {
			last = id
			c.tally.Shards++
		}
		c.tally.Values++
		if err != nil {
			c.report(engine.Finding{Place: shardPlace(id), At: "key " + hex.EncodeToString(key[n:]), What: "value: " + err.Error(), Do: doState, Topic: id.Topic})
		}
	})
}

func shardPlace(id engine.ShardID) string { return "shard " + id.String() }

// sealed yields all keys of a kind with their values, unsealed, or why they cannot be.
func (c *checker) sealed(ctx context.Context, kind byte, yield func(key, body []byte, err error)) error {
	it, err := c.engine.db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind}, UpperBound: []byte{kind + 1}})
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	from := []byte{kind}
	for ok := it.First(); ok; ok = it.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		value, err := valueOf(it)
		var body []byte
		if err == nil {
			c.progress(int64(len(value)))
			body, err = unsealed(it.Key(), value)
		}
		from = append(from[:0], it.Key()...)
		yield(it.Key(), body, err)
	}
	if err := it.Error(); err != nil {
		c.report(engine.Finding{Place: "keys of kind " + string(kind), At: "after key " + hex.EncodeToString(from), What: "cannot be read from here on: " + firstLine(err), Do: doFile})
	}
	return nil
}

// strangers reports keys of kinds that this version does not know.
func (c *checker) strangers(context.Context) error {
	kinds := []byte{kindChunk, kindFloor, kindFence, kindLog, kindCommits, kindState}
	slices.Sort(kinds)
	var from []byte // no bound
	for _, kind := range append(kinds, 0) {
		upper := []byte{kind}
		if kind == 0 {
			upper = nil
		}
		it, err := c.engine.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: upper})
		if err != nil {
			return err
		}
		if it.First() {
			c.report(engine.Finding{Place: "store", At: "key " + hex.EncodeToString(it.Key()), What: "the key is of no kind that this version knows", Do: doUnknown})
		}
		if err := it.Close(); err != nil && !damaged(err) {
			return err
		}
		from = []byte{kind + 1}
	}
	if _, err := c.engine.readFloor(); err != nil {
		c.report(engine.Finding{Place: "least epoch", What: firstLine(err), Do: "restore the backup again: the sidecar does not start without it"})
	}
	return nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
