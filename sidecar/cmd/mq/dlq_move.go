package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

// moveBatch is how many dead letters one call moves at most, so that it can be stopped soon and progress is seen.
const moveBatch = 10_000

// choice is what the flags of mq dlq redrive and mq dlq discard choose.
type choice struct {
	all     bool
	failure string
	limit   uint64
	rate    float64 // dead letters a second, 0 for as fast as it goes
	ids     []string
}

func (ch *choice) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&ch.all, "all", false, "all dead letters of the group in the topic")
	cmd.Flags().StringVar(&ch.failure, "failure", "", "those of one failure, as mq dlq failures names it")
	cmd.Flags().Uint64Var(&ch.limit, "limit", 0, "at most so many, oldest first; 0 is no limit")
	cmd.Flags().Float64Var(&ch.rate, "rate", 0, "so many a second; 0 is as fast as it goes")
}

// check takes the ids from args, which are GROUP, TOPIC and ids, and finds out whether the choice makes sense.
func (ch *choice) check(args []string) error {
	ch.ids = args[2:]
	switch {
	case ch.all && len(ch.ids) > 0:
		return usagef("--all and ids exclude each other")
	case ch.failure != "" && len(ch.ids) > 0:
		return usagef("--failure and ids exclude each other")
	case ch.failure != "" && ch.all:
		return usagef("--failure and --all exclude each other")
	case ch.failure == "" && !ch.all && len(ch.ids) == 0:
		return usagef("name the ids of dead letters, or use --all or --failure")
	case len(ch.ids) > 0 && (ch.limit > 0 || ch.rate != 0):
		return usagef("--limit and --rate go with --all or --failure")
	case !(ch.rate >= 0 && ch.rate <= 1e9):
		return usagef("rate %v: must be 0 to 1e9", ch.rate)
	}
	return nil
}

// moved is what calls have done so far.
type moved struct {
	n       uint64
	unknown []string
	more    bool
}

// run makes calls until all that is chosen is done, and tells of progress, at most once a second. Cancelling ctx stops it between two calls. What was done before an error
// is in the answer.
func (ch *choice) run(ctx context.Context, progress io.Writer, did string, call func(ctx context.Context, limit uint64, page string) (moved, string, error)) (moved, error) {
	var sum moved
	if len(ch.ids) > 0 {
		got, _, err := call(ctx, 0, "")
		return got, err
	}
	var told time.Time
	for page := ""; ; {
		limit := ch.batch(sum.n)
		started := time.Now()
		got, next, err := call(context.WithoutCancel(ctx), limit, page)
		sum.n += got.n
		if err != nil {
			sum.n += done(err)
			return sum, err
		}
		sum.unknown, sum.more, page = got.unknown, next != "", next
		if !sum.more || ch.limit > 0 && sum.n >= ch.limit {
			return sum, nil
		}
		if time.Since(told) >= time.Second {
			fmt.Fprintf(progress, "%s so far: %d\n", did, sum.n)
			told = time.Now()
		}
		if err := pause(ctx, ch.wait(got.n)-time.Since(started)); err != nil {
			return sum, errors.New("stopped; there are more")
		}
	}
}

// batch is the limit of the next call: at most what the rate allows in a tenth of a second, so that its calls are no bursts, but at least one.
func (ch *choice) batch(n uint64) uint64 {
	limit := uint64(moveBatch)
	if slice := ch.rate / 10; slice > 0 && slice < moveBatch {
		limit = max(1, uint64(slice))
	}
	if ch.limit > 0 {
		limit = min(limit, ch.limit-n)
	}
	return limit
}

// wait is how long n dead letters take at the rate.
func (ch *choice) wait(n uint64) time.Duration {
	if ch.rate == 0 {
		return 0
	}
	return time.Duration(float64(n) / ch.rate * float64(time.Second))
}

// pause waits. It fails if ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// done is what a call that failed had done before, as the refusal tells.
func done(err error) uint64 {
	n, _ := strconv.ParseUint(refusalInfo(err).GetMetadata()["done"], 10, 64)
	return n
}

// tell prints what was done, as a line or as an answer in JSON, and returns an error that says what was not.
func (m moved) tell(cmd *cobra.Command, c *cli, did string, answer proto.Message, err error) error {
	if c.format == "json" && (err == nil || m.n > 0) {
		return errors.Join(printJSON(cmd.OutOrStdout(), answer), err)
	}
	if err == nil || m.n > 0 {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %d\n", did, m.n); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if m.more {
		fmt.Fprintln(cmd.ErrOrStderr(), "mq: there are more")
	}
	return unknownIDs(m.unknown)
}
