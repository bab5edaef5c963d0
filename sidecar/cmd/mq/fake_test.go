package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// fake is a sidecar that gives prepared answers, in order, and remembers what it was asked.
type fake struct {
	brokerv1connect.UnimplementedBrokerServiceHandler
	adminv1connect.UnimplementedAdminServiceHandler
	addr  string
	calls chan struct{} // one for each that was answered

	mu      sync.Mutex
	answers []any // proto.Message, error, or forever
	asked   []proto.Message
}

// forever is an answer that keeps a stream open until the client leaves.
type forever struct{ reached chan struct{} }

// newFake serves a fake on a Unix socket until the test ends.
func newFake(t *testing.T, answers ...any) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "mq") // t.TempDir is too long for a socket under some names of tests
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fake{addr: "unix://" + filepath.Join(dir, "s"), calls: make(chan struct{}, 100), answers: answers}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(brokerv1connect.NewBrokerServiceHandler(f))
	mux.Handle(adminv1connect.NewAdminServiceHandler(f))
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux, Protocols: &protocols}}
	server.Start()
	t.Cleanup(server.Close)
	return f
}

func (f *fake) next(q proto.Message) (any, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, q)
	f.calls <- struct{}{}
	if len(f.answers) == 0 {
		return nil, errors.New("the fake has no answer left")
	}
	answer := f.answers[0]
	f.answers = f.answers[1:]
	if err, ok := answer.(error); ok {
		return nil, err
	}
	return answer, nil
}

func answer[Q, A any](f *fake, q *connect.Request[Q]) (*connect.Response[A], error) {
	out, err := f.next(any(q.Msg).(proto.Message))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(any(out).(*A)), nil
}

func (f *fake) ListTopics(_ context.Context, q *connect.Request[adminv1.ListTopicsRequest]) (*connect.Response[adminv1.ListTopicsResponse], error) {
	return answer[adminv1.ListTopicsRequest, adminv1.ListTopicsResponse](f, q)
}

func (f *fake) DescribeTopic(_ context.Context, q *connect.Request[adminv1.DescribeTopicRequest]) (*connect.Response[adminv1.DescribeTopicResponse], error) {
	return answer[adminv1.DescribeTopicRequest, adminv1.DescribeTopicResponse](f, q)
}

func (f *fake) ListGroups(_ context.Context, q *connect.Request[adminv1.ListGroupsRequest]) (*connect.Response[adminv1.ListGroupsResponse], error) {
	return answer[adminv1.ListGroupsRequest, adminv1.ListGroupsResponse](f, q)
}

func (f *fake) ListDeadLetters(_ context.Context, q *connect.Request[adminv1.ListDeadLettersRequest]) (*connect.Response[adminv1.ListDeadLettersResponse], error) {
	return answer[adminv1.ListDeadLettersRequest, adminv1.ListDeadLettersResponse](f, q)
}

func (f *fake) RedriveDeadLetters(_ context.Context, q *connect.Request[adminv1.RedriveDeadLettersRequest]) (*connect.Response[adminv1.RedriveDeadLettersResponse], error) {
	return answer[adminv1.RedriveDeadLettersRequest, adminv1.RedriveDeadLettersResponse](f, q)
}

func (f *fake) SummarizeDeadLetters(_ context.Context, q *connect.Request[adminv1.SummarizeDeadLettersRequest]) (*connect.Response[adminv1.SummarizeDeadLettersResponse], error) {
	return answer[adminv1.SummarizeDeadLettersRequest, adminv1.SummarizeDeadLettersResponse](f, q)
}

func (f *fake) SeekGroup(_ context.Context, q *connect.Request[adminv1.SeekGroupRequest]) (*connect.Response[adminv1.SeekGroupResponse], error) {
	return answer[adminv1.SeekGroupRequest, adminv1.SeekGroupResponse](f, q)
}

func (f *fake) PauseGroup(_ context.Context, q *connect.Request[adminv1.PauseGroupRequest]) (*connect.Response[adminv1.PauseGroupResponse], error) {
	return answer[adminv1.PauseGroupRequest, adminv1.PauseGroupResponse](f, q)
}

func (f *fake) ResumeGroup(_ context.Context, q *connect.Request[adminv1.ResumeGroupRequest]) (*connect.Response[adminv1.ResumeGroupResponse], error) {
	return answer[adminv1.ResumeGroupRequest, adminv1.ResumeGroupResponse](f, q)
}

func (f *fake) DiscardDeadLetters(_ context.Context, q *connect.Request[adminv1.DiscardDeadLettersRequest]) (*connect.Response[adminv1.DiscardDeadLettersResponse], error) {
	return answer[adminv1.DiscardDeadLettersRequest, adminv1.DiscardDeadLettersResponse](f, q)
}

func (f *fake) Publish(_ context.Context, q *connect.Request[brokerv1.PublishRequest]) (*connect.Response[brokerv1.PublishResponse], error) {
	return answer[brokerv1.PublishRequest, brokerv1.PublishResponse](f, q)
}

func (f *fake) ListScheduled(_ context.Context, q *connect.Request[adminv1.ListScheduledRequest]) (*connect.Response[adminv1.ListScheduledResponse], error) {
	return answer[adminv1.ListScheduledRequest, adminv1.ListScheduledResponse](f, q)
}

func (f *fake) Cancel(_ context.Context, q *connect.Request[brokerv1.CancelRequest]) (*connect.Response[brokerv1.CancelResponse], error) {
	return answer[brokerv1.CancelRequest, brokerv1.CancelResponse](f, q)
}

// Tail sends prepared answers until none is left.
func (f *fake) Tail(ctx context.Context, q *connect.Request[adminv1.TailRequest], stream *connect.ServerStream[adminv1.TailResponse]) error {
	if err := stream.Send(&adminv1.TailResponse{}); err != nil {
		return err
	}
	for {
		f.mu.Lock()
		done := len(f.answers) == 0
		f.mu.Unlock()
		if done {
			return nil
		}
		a, err := f.next(q.Msg)
		if err != nil {
			return err
		}
		if wait, ok := a.(forever); ok {
			close(wait.reached)
			<-ctx.Done()
			return ctx.Err()
		}
		if err := stream.Send(a.(*adminv1.TailResponse)); err != nil {
			return err
		}
	}
}

// mustAsk checks what the fake was asked.
func (f *fake) mustAsk(t *testing.T, want ...proto.Message) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) != len(want) {
		t.Fatalf("asked %d times, want %d: %v", len(f.asked), len(want), f.asked)
	}
	for i := range want {
		if !proto.Equal(f.asked[i], want[i]) {
			t.Errorf("asked %d: %s\nwant %s", i, prototext.Format(f.asked[i]), prototext.Format(want[i]))
		}
	}
}

// result is what a command line left behind.
type result struct {
	status   int
	out, err string
}

// mq runs a command line against the fake.
func (f *fake) mq(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return mq(t, strings.NewReader(stdin), []string{"MQ_ADDR=" + f.addr}, args...)
}

func mq(t *testing.T, stdin io.Reader, environ []string, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	status := run(t.Context(), args, streams{stdin, &out, &err}, environ)
	return result{status, out.String(), err.String()}
}

func (r result) want(t *testing.T, status int, out, err string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d", r.status, status)
	}
	if r.out != out {
		t.Errorf("printed\n%s\nwant\n%s", r.out, out)
	}
	if r.err != err {
		t.Errorf("complained\n%s\nwant\n%s", r.err, err)
	}
}

func refused(code connect.Code, reason, field, message string) error {
	err := connect.NewError(code, errors.New(message))
	detail, _ := connect.NewErrorDetail(&brokerv1.ErrorInfo{Reason: reason, Field: field})
	err.AddDetail(detail)
	return err
}
