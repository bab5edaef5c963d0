package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/typedmq/typedmq/bench/internal/process"
)

// A comparison is a run: its rounds, and what they have told so far.
type comparison struct {
	settings
	base   string // directory, for the files of all servers
	works  []work
	peers  []system
	report *report
	say    func(format string, args ...any)
}

// compare measures, in rounds in which every system has its turn, and tells. What cannot be measured is told, too, and is an error.
func (s settings) compare(ctx context.Context) error {
	chosen, peers, err := s.choose()
	if err != nil {
		return flagError{err}
	}
	base, err := os.MkdirTemp(s.dir, "peers")
	if err != nil {
		return err
	}
	defer os.RemoveAll(base)
	if process.InMemory(base) {
		return fmt.Errorf("%s is kept in memory, where syncs cost nothing: choose a directory on a disk with -dir", filepath.Dir(base))
	}
	c := &comparison{settings: s, base: base, works: chosen, peers: peers, report: s.newReport(ctx, peers), say: progress(time.Now())}
	each := s.span + s.warm + 2*time.Second // a server starts meanwhile
	c.say("%d systems, works %s, %d rounds: about %v", 1+len(peers), strings.Join(workIDs(chosen), " and "), s.rounds,
		(time.Duration(s.rounds*(1+len(peers))*len(chosen)) * each).Round(time.Second))
	var failed []error
	for round := range s.rounds {
		if s.wants(ownID) {
			if err := c.ownTurn(ctx, round); err != nil {
				return err
			}
		}
		for i, p := range peers {
			if result := c.report.Systems[i+1]; result.Skipped == "" {
				failed = append(failed, c.turn(ctx, round, p, result))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	c.report.compare()
	if s.json != "" {
		failed = append(failed, c.report.save(s.json))
	}
	return errors.Join(append(failed, c.report.table(os.Stdout))...)
}

// newReport makes a report without results.
func (s settings) newReport(ctx context.Context, peers []system) *report {
	r := &report{Time: time.Now().UTC().Format(time.RFC3339), Commit: commit(ctx), Machine: machine(), Settings: map[string]string{
		"callers": strconv.Itoa(callers), "body bytes": strconv.Itoa(bodySize), "keys": strconv.Itoa(keyCount), "rounds": strconv.Itoa(s.rounds), "time": s.span.String(),
	}}
	own := &systemResult{ID: ownID, Title: ownID, Settings: "mqbench: fsync before each acknowledgement; a Unix socket; 8 callers of PublishAsync, batches of 1,024; one group"}
	if !s.wants(ownID) {
		own.Skipped = "not chosen"
	}
	r.Systems = []*systemResult{own}
	for _, p := range peers {
		r.Systems = append(r.Systems, &systemResult{ID: p.id, Title: p.title, Settings: p.settings, least: p.least})
	}
	return r
}

// ownTurn is typedmq's part of a round.
func (c *comparison) ownTurn(ctx context.Context, round int) error {
	all, err := typedmq{c.mqbench, c.mq}.measure(ctx, c.base, workIDs(c.works), c.span)
	if err != nil {
		return err
	}
	for _, w := range c.works {
		c.note(round, c.report.Systems[0], w, all[w.id])
	}
	return nil
}

// turn is a peer's part of a round. A server that does not start is no error, but skipped from then on; so is, with an error, one that fails at work.
func (c *comparison) turn(ctx context.Context, round int, p system, result *systemResult) error {
	for _, w := range c.works {
		m, err := c.measure(ctx, p, w, result)
		if err == nil {
			c.note(round, result, w, m)
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		result.Skipped = err.Error()
		c.say("round %d/%d  %-40s skipped: %v", round+1, c.rounds, p.title, err)
		if errors.As(err, &startError{}) {
			return nil
		}
		return fmt.Errorf("%s: %s: %w", p.title, w.id, err)
	}
	return nil
}

func (c *comparison) note(round int, result *systemResult, w work, m measured) {
	result.add(w.id, m)
	c.say("round %d/%d  %-40s %-8s %12s/s", round+1, c.rounds, result.Title, w.id, grouped(m.rate))
}

// startError is why a server could not be started.
type startError struct{ error }

// measure starts a peer on an empty directory, does one work, and ends it.
func (c *comparison) measure(ctx context.Context, p system, w work, result *systemResult) (measured, error) {
	dir, err := os.MkdirTemp(c.base, p.id)
	if err != nil {
		return measured{}, err
	}
	defer os.RemoveAll(dir)
	n, err := p.start(ctx, dir)
	if err != nil {
		return measured{}, startError{err}
	}
	defer n.close()
	result.Version = n.version()
	return load{node: n, batch: p.batch, room: p.room, size: bodySize, keys: keys(keyCount)}.measure(ctx, w.id, c.warm, c.span)
}

// progress says what happens, with the seconds since began.
func progress(began time.Time) func(format string, args ...any) {
	return func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// commit is what is checked out here, and whether it was changed; empty if git does not tell.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
