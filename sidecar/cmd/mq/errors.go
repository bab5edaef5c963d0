package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar"
)

// Exit statuses. The reference is docs/formats/config.md.
const (
	exitFailure = 1
	exitUsage   = 2 // the command line or the configuration
	exitDataDir = 3
)

// usageError is a mistake on the command line.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// configError is a mistake in the configuration: one line for each fault.
type configError struct{ error }

func (e *configError) Unwrap() error { return e.error }

// callError is a call to the sidecar that failed.
type callError struct {
	addr string
	err  error
}

func (e *callError) Error() string { return describe(e.err) }

func (e *callError) Unwrap() error { return e.err }

// report prints an error, with a hint where one is useful, and returns the exit status.
func report(w io.Writer, command string, err error) int {
	if errors.Is(err, errFindings) {
		return exitFailure
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(w, "mq: %s\n", printable(strings.TrimSuffix(line, "\n")))
	}
	var (
		usage  *usageError
		config *configError
		call   *callError
	)
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(w, "hint: %s --help shows how it is used\n", command)
		return exitUsage
	case errors.As(err, &config):
		return exitUsage
	case errors.Is(err, sidecar.ErrDataDir), errors.Is(err, sidecar.ErrBackup):
		return exitDataDir
	case errors.As(err, &call):
		if hint := call.hint(command); hint != "" {
			fmt.Fprintf(w, "hint: %s\n", hint)
		}
	case errors.Is(err, syscall.EADDRINUSE):
		fmt.Fprint(w, "hint: another process listens there; choose another address with --listen\n")
	}
	return exitFailure
}

// describe renders an error of a call: "message (REASON)", with the field where there is one.
func describe(err error) string {
	var refused *connect.Error
	if !errors.As(err, &refused) {
		return err.Error()
	}
	if unreachable(err) {
		return "no sidecar answers: " + refused.Message()
	}
	info := refusalInfo(refused)
	switch {
	case info.GetReason() == "":
		return refused.Error()
	case info.GetField() == "":
		return fmt.Sprintf("%s (%s)", refused.Message(), info.GetReason())
	}
	return fmt.Sprintf("%s (%s, %s)", refused.Message(), info.GetReason(), info.GetField())
}

// refusalInfo returns the detail of a refusal, nil if there is none.
func refusalInfo(err error) *brokerv1.ErrorInfo {
	var refused *connect.Error
	if !errors.As(err, &refused) {
		return nil
	}
	for _, detail := range refused.Details() {
		if value, err := detail.Value(); err == nil {
			if info, ok := value.(*brokerv1.ErrorInfo); ok {
				return info
			}
		}
	}
	return nil
}

// unreachable says that nothing listens at the address.
func unreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

func (e *callError) hint(command string) string {
	info := refusalInfo(e.err)
	switch info.GetReason() {
	case "TOPIC_UNKNOWN":
		return "mq topics lists the topics; an application declares its own when it connects"
	case "GROUP_UNKNOWN":
		return "mq groups lists the groups; an application declares its own when it connects"
	case "MESSAGE_UNKNOWN":
		switch {
		case info.GetField() == "failure":
			return "mq dlq failures shows what dead letters died of"
		case strings.HasPrefix(command, "mq dlq "):
			return "mq dlq list shows dead letters and their ids"
		case strings.HasPrefix(command, "mq scheduled "):
			return "mq scheduled list shows the messages that are not due yet; one that is due cannot be taken back"
		}
	}
	switch {
	case unreachable(e.err):
		return fmt.Sprintf("is mq serve running at %s? Use --addr or MQ_ADDR for another address", e.addr)
	case connect.CodeOf(e.err) == connect.CodeUnimplemented:
		return fmt.Sprintf("what answers at %s may be no sidecar, or one of another version", e.addr)
	}
	return ""
}

// interrupted says that a call ended because the user asked for it.
func interrupted(ctx context.Context) bool { return ctx.Err() != nil }
