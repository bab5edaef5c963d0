package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/structpb"

	baggagev1 "github.com/typedmq/typedmq/examples/flights/gen/air/baggage/v1"
	boardv1 "github.com/typedmq/typedmq/examples/flights/gen/air/board/v1"
	flightsv1 "github.com/typedmq/typedmq/examples/flights/gen/air/flights/v1"
	rebookingv1 "github.com/typedmq/typedmq/examples/flights/gen/air/rebooking/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
	"github.com/typedmq/typedmq/sidecar/internal/cluster/memcluster"
	"github.com/typedmq/typedmq/sidecar/internal/engine/memengine"
	"github.com/typedmq/typedmq/sidecar/internal/server"
)

// harness is a broker on a memory engine, served over a real connection.
type harness struct {
	t       *testing.T
	engine  *memengine.Engine
	member  *memcluster.Member
	broker  *broker.Broker
	clock   broker.Clock
	url     string
	http    *http.Client
	api     brokerv1connect.BrokerServiceClient
	admin   adminv1connect.AdminServiceClient
	stopped bool
	http1   *http.Server
}

type clock struct{}

func (clock) Wall() time.Time                                 { return time.Now() }
func (clock) Now() time.Time                                  { return time.Now() }
func (clock) AfterFunc(d time.Duration, f func()) func() bool { return time.AfterFunc(d, f).Stop }

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{t: t, engine: memengine.New(), clock: clock{}}
	h.member = memcluster.New().Join(time.Minute, nil)
	h.start()
	t.Cleanup(h.stop)
	return h
}

// start serves; after stop it serves again on what is durable.
func (h *harness) start() {
	h.t.Helper()
	var err error
	log := slog.New(slog.DiscardHandler)
	h.broker, err = broker.New(h.t.Context(), broker.Options{Engine: h.engine, Cluster: h.member, Clock: h.clock, Logger: log, Limits: broker.DefaultLimits()})
	if err != nil {
		h.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.http1 = server.HTTPServer(server.Handler(h.broker, log, func() error { return nil }), log)
	go func() { _ = h.http1.Serve(l) }()
	h.url = "http://" + l.Addr().String()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h.http = &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	h.api = brokerv1connect.NewBrokerServiceClient(h.http, h.url)
	h.admin = adminv1connect.NewAdminServiceClient(h.http, h.url)
	h.stopped = false
}

func (h *harness) stop() {
	if h.stopped {
		return
	}
	h.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := h.broker.Close(ctx); err != nil {
		h.t.Error(err)
	}
	h.http.CloseIdleConnections()
	_ = h.http1.Close()
}

// files is a descriptor set of files with all they import.
func files(roots ...protoreflect.FileDescriptor) *descriptorpb.FileDescriptorSet {
	out := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		out.File = append(out.File, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range roots {
		add(f)
	}
	return out
}

func flightFiles() *descriptorpb.FileDescriptorSet {
	return files(flightsv1.File_air_flights_v1_flights_proto, boardv1.File_air_board_v1_board_proto,
		rebookingv1.File_air_rebooking_v1_rebooking_proto, baggagev1.File_air_baggage_v1_baggage_proto)
}

// Names of what flightFiles declares.
const (
	flightMessage = "air.flights.v1.FlightDeparted"
	bagsMessage   = "air.flights.v1.BagsChecked"
	boardRPC      = "air.board.v1.Board/OnDeparted"
	rebookingRPC  = "air.rebooking.v1.Rebooking/OnDeparted"
	baggageRPC    = "air.baggage.v1.Baggage/OnBagsChecked"
)

func (h *harness) declare(topics []string, subscriptions ...string) {
	h.t.Helper()
	r, err := h.api.Declare(h.t.Context(), connect.NewRequest(&brokerv1.DeclareRequest{Descriptors: flightFiles(), Topics: topics, Subscriptions: subscriptions}))
	if err != nil {
		h.t.Fatal(err)
	}
	if r.Msg.GetNeedDescriptors() || len(r.Msg.GetSubscriptions()) != len(subscriptions) {
		h.t.Fatalf("declared %v", r.Msg)
	}
}

func structOf(t *testing.T, text string) *structpb.Struct {
	t.Helper()
	s := new(structpb.Struct)
	if err := protojson.Unmarshal([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	return s
}

func (h *harness) publish(topic string, texts ...string) []*brokerv1.Receipt {
	h.t.Helper()
	req := &brokerv1.PublishRequest{Topic: topic}
	for _, text := range texts {
		req.Messages = append(req.Messages, &brokerv1.Message{Body: &brokerv1.Message_Json{Json: structOf(h.t, text)}})
	}
	r, err := h.api.Publish(h.t.Context(), connect.NewRequest(req))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.GetReceipts()
}

func (h *harness) pull(group, topic string, n uint32) []*brokerv1.PulledMessage {
	h.t.Helper()
	r, err := h.api.Pull(h.t.Context(), connect.NewRequest(&brokerv1.PullRequest{Group: group, Topic: topic, MaxMessages: n}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.GetMessages()
}

func (h *harness) settle(group, topic string, s ...*brokerv1.Settlement) []*brokerv1.SettleRefusal {
	h.t.Helper()
	r, err := h.api.Settle(h.t.Context(), connect.NewRequest(&brokerv1.SettleRequest{Group: group, Topic: topic, Settlements: s}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.GetRefusals()
}

func ack(token []byte) *brokerv1.Settlement {
	return &brokerv1.Settlement{Token: token, Outcome: &brokerv1.Settlement_Ack_{Ack: &brokerv1.Settlement_Ack{}}}
}

func reject(token []byte, text string) *brokerv1.Settlement {
	return &brokerv1.Settlement{Token: token, Outcome: &brokerv1.Settlement_Reject_{Reject: &brokerv1.Settlement_Reject{Error: text}}}
}

// reason is the reason of a refusal, "" if err is none.
func reason(err error) string {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return ""
	}
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if info, ok := v.(*brokerv1.ErrorInfo); ok {
				return info.GetReason()
			}
		}
	}
	return ""
}
