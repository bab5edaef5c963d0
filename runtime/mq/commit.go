package mq

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// resolvable is how long after it was sent first a transaction may be sent again: sidecars remember one for ten minutes, by a clock of their own.
const resolvable = 9 * time.Minute

// commit has the sidecar apply a transaction. It tries again under the same id until there is an answer, ctx ends, or the sidecar may have forgotten
// the id. An error that is not ErrUnknownOutcome means that nothing was applied.
func (c *Client) commit(ctx context.Context, request *brokerv1.CommitRequest, topics []*topic) (*brokerv1.CommitResponse, error) {
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	var (
		pause      backoff
		inDoubt    bool
		began      time.Time // the attempt that may have been applied and was the first such
		redeclared bool
	)
	for {
		if either.Err() == nil && inDoubt && since(began) > resolvable {
			return nil, fmt.Errorf("%w: the sidecar may have forgotten the transaction by now", ErrUnknownOutcome)
		}
		attempt := time.Now()
		response, err := c.commitOnce(either, request)
		if err == nil {
			return response, nil
		}
		verdict := judgeCommit(err)
		if verdict == commitInDoubt && !inDoubt {
			inDoubt, began = true, attempt
		}
		if either.Err() == nil && undeclared(err) && !redeclared {
			// The sidecar was replaced by one that has not seen these topics.
			redeclared = true
			if declared := c.redeclare(either, topics); declared == nil {
				continue
			} else if !transient(declared) {
				verdict, err = commitRefused, declared
			}
		}
		if verdict == commitRefused && (!inDoubt || tellsNothingApplied(err)) {
			return nil, err
		}
		if verdict == commitRefused && final(err) {
			return nil, fmt.Errorf("%w: an attempt has no answer, and the next was refused: %v", ErrUnknownOutcome, err)
		}
		if pause.loud() && either.Err() == nil {
			c.log.Warn("cannot commit at the moment, trying again", "failures", pause.failures+1, "error", err)
		}
		if pause.wait(either) {
			continue
		}
		end := ended(ctx)
		if c.ctx.Err() != nil {
			end = ErrClosed
		}
		if inDoubt {
			// A cause such as ErrLeaseLost would say that nothing was applied.
			if end != ErrClosed {
				end = ctx.Err()
			}
			return nil, fmt.Errorf("%w: %w (the last attempt: %v)", ErrUnknownOutcome, end, err)
		}
		return nil, fmt.Errorf("%w (the last attempt: %v)", end, err)
	}
}

// since is the time since then by the monotonic clock or by the time of day, whichever went further: one of them may have stood still.
func since(then time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(then), now.Round(0).Sub(then.Round(0)))
}

func (c *Client) redeclare(ctx context.Context, topics []*topic) error {
	for _, t := range topics {
		if err := c.declareTopic(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// commitVerdict is what an error of an attempt to commit says.
type commitVerdict uint8

const (
	commitRefused commitVerdict = iota // nothing was applied, and the same transaction is refused again
	commitLater                        // nothing was applied, and it may be later
	commitInDoubt                      // it may have been applied
)

// tellsNothingApplied reports whether a refusal says that no earlier attempt was applied either: the sidecar gives it after it has looked for the transaction among
// those that it has applied. Other refusals, such as for a full disk, may come before.
func tellsNothingApplied(err error) bool {
	return errors.Is(err, ErrLeaseLost) || errors.Is(err, ErrDedupeConflict)
}

func judgeCommit(err error) commitVerdict {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return commitLater // it was not sent
	}
	var e *Error
	if !errors.As(err, &e) {
		return commitInDoubt // of the transport, not an answer
	}
	switch {
	case e.Reason == reasonLeaseLost, e.Reason == reasonSessionLost:
		return commitRefused // a lease does not come back
	case e.Reason == reasonOutcomeUnknown, e.Code == connect.CodeCanceled, e.Code == connect.CodeDeadlineExceeded:
		return commitInDoubt
	case !transient(e):
		return commitRefused
	case e.Reason != "":
		return commitLater
	default:
		return commitInDoubt // not an answer of a sidecar, but of what broke on the way to it
	}
}
