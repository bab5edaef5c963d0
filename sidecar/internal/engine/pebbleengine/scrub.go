package pebbleengine

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/typedmq/typedmq/sidecar/internal/engine"
)

// ScrubOptions of Scrub. Every zero value means the default.
type ScrubOptions struct {
	// Rate bounds how fast is read, in bytes of records and values per second. Default: 4 MiB.
	Rate int64
	// Pause is how long to wait between the end of a pass and the next. Default: a day.
	Pause time.Duration
}

const (
	scrubRate  = 4 << 20
	scrubPause = 24 * time.Hour
	// scrubStep is about how much is read at once.
	scrubStep = 256 << 10
)

// ScrubStatus is what Scrub has done since the store was opened.
type ScrubStatus struct {
	Passes int64 // ended
	Bytes  int64 // read, in all passes
	// Damaged counts what was found damaged: logs that were quarantined by Scrub, and values.
	Damaged  int64
	Running  bool      // a pass is under way
	LastPass time.Time // when the last one ended, zero if none has
}

// scrubbed holds the status.
type scrubbed struct {
	mu struct {
		sync.Mutex
		ScrubStatus
	}
}

func (s *scrubbed) update(change func(*ScrubStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.mu.ScrubStatus)
}

// Scrubbed tells what Scrub has done.
func (e *Engine) Scrubbed() ScrubStatus {
	e.scrubbed.mu.Lock()
	defer e.scrubbed.mu.Unlock()
	return e.scrubbed.mu.ScrubStatus
}

// Scrub reads all that is stored, again and again, until ctx is done or the engine is closed: damage is found before somebody needs what it has hit. A log whose
// chunk fails is quarantined, as by a read of it; a value of a shard that fails is only reported, since the owner of the shard meets it by itself. Each is
// logged as data_loss. Call it once at a time.
//
// What is in Pebble's cache or in that of the operating system is read from there: a pass sees damage of the disk in what it really reads from it.
func (e *Engine) Scrub(ctx context.Context, o ScrubOptions) {
	if o.Rate <= 0 {
		o.Rate = scrubRate
	}
	if o.Pause <= 0 {
		o.Pause = scrubPause
	}
	s := &scrubber{Engine: e, rate: o.Rate, known: make(map[string]bool)}
	for {
		began := time.Now()
		before := e.Scrubbed()
		e.scrubbed.update(func(st *ScrubStatus) { st.Running = true })
		err := s.pass(ctx)
		e.scrubbed.update(func(st *ScrubStatus) { st.Running = false })
		if ctx.Err() != nil || errors.Is(err, engine.ErrClosed) {
			return
		}
		if err != nil {
			e.logger.Warn("scrub: reading the store failed, and is tried again at the next pass", "error", err, "next_in", o.Pause)
		} else {
			e.scrubbed.update(func(st *ScrubStatus) { st.Passes++; st.LastPass = time.Now() })
			now := e.Scrubbed()
			e.logger.Info("scrub: all that is stored was read", "bytes", now.Bytes-before.Bytes, "damaged", now.Damaged-before.Damaged,
				"took", time.Since(began).Round(time.Millisecond), "next_in", o.Pause)
		}
		if !wait(ctx, o.Pause) {
			return
		}
	}
}

// scrubber is what Scrub remembers from pass to pass.
type scrubber struct {
	*Engine
	rate  int64
	known map[string]bool // damage that was logged, so that it is logged once
}

func (s *scrubber) pass(ctx context.Context) error {
	for from := []byte{kindChunk}; from != nil; {
		id, ok, err := s.nextLog(from)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := s.log(ctx, id); err != nil {
			return err
		}
		from = after(appendLog([]byte{kindChunk}, id))
	}
	for _, kind := range []byte{kindLog, kindFence, kindState} {
		if err := s.values(ctx, kind); err != nil {
			return err
		}
	}
	return nil
}

// nextLog is the log of the first chunk at or above a key.
func (s *scrubber) nextLog(from []byte) (id engine.LogID, ok bool, err error) {
	if !s.gate.enter() {
		return id, false, engine.ErrClosed
	}
	defer s.gate.leave()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{kindChunk + 1}})
	if err != nil {
		return id, false, err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	if !it.First() {
		return id, false, it.Error()
	}
	id, ok = parseLog(it.Key())
	return id, ok, nil
}

// log reads a log from its begin to its end, or to where it is quarantined.
func (s *scrubber) log(ctx context.Context, id engine.LogID) error {
	for from := engine.Offset(0); ; {
		chunks, err := s.Read(ctx, id, from, scrubStep)
		var bad *engine.CorruptError
		switch {
		case errors.As(err, &bad):
			s.found("log "+id.String(), "log", id.String(), "offset", int64(bad.Offset), "detail", bad.Detail)
			return nil
		case err != nil:
			return err
		case len(chunks) == 0:
			return nil
		}
		size := 0
		for _, c := range chunks {
			size += len(c.Records)
		}
		from = chunks[len(chunks)-1].Last() + 1
		if err := s.paced(ctx, size); err != nil {
			return err
		}
	}
}

// values reads the values of a kind of key, in steps: no iterator is held while it waits, since that keeps files from being deleted.
func (s *scrubber) values(ctx context.Context, kind byte) error {
	for from := []byte{kind}; from != nil; {
		next, size, err := s.step(kind, from)
		if err != nil {
			return err
		}
		if err := s.paced(ctx, size); err != nil {
			return err
		}
		from = next
	}
	return nil
}

// step checks values from a key on. next is where to go on, nil at the end.
func (s *scrubber) step(kind byte, from []byte) (next []byte, size int, err error) {
	if !s.gate.enter() {
		return nil, 0, engine.ErrClosed
	}
	defer s.gate.leave()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: []byte{kind + 1}})
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = it.Close() }() // which returns what Error has told
	for ok := it.First(); ok; ok = it.Next() {
		value, err := valueOf(it)
		if err == nil {
			_, err = unsealed(it.Key(), value)
		}
		if err != nil {
			s.foundValue(kind, it.Key(), err)
		}
		if size += len(it.Key()) + len(value); size >= scrubStep {
			return append(bytes.Clone(it.Key()), 0), size, nil
		}
	}
	if err := it.Error(); damaged(err) { // nothing of this kind can be read from here on
		s.foundValue(kind, from, err)
		return nil, size, nil
	} else if err != nil {
		return nil, size, err
	}
	return nil, size, nil
}

func (s *scrubber) foundValue(kind byte, key []byte, err error) {
	where := fmt.Sprintf("key %x", key)
	if kind == kindLog {
		id, _ := parseLog(key)
		s.found(where, "log", id.String(), "offset", 0, "detail", "begin: "+firstLine(err))
		return
	}
	id, n, _ := parseShard(key)
	s.found(where, "shard", id.String(), "key", hex.EncodeToString(key[n:]), "detail", firstLine(err))
}

// found notes damage.
func (s *scrubber) found(where string, args ...any) {
	if s.known[where] {
		return
	}
	s.known[where] = true
	s.scrubbed.update(func(st *ScrubStatus) { st.Damaged++ })
	s.logger.Error("data_loss: the scrub found damage", args...)
}

// paced counts bytes that were read and waits for as long as reading them may take.
func (s *scrubber) paced(ctx context.Context, size int) error {
	s.scrubbed.update(func(st *ScrubStatus) { st.Bytes += int64(size) })
	if !wait(ctx, time.Duration(float64(size)/float64(s.rate)*float64(time.Second))) {
		return ctx.Err()
	}
	return nil
}

// wait returns after d, or with false once ctx is done.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
