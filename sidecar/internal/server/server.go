// Package server puts the broker on the wire: it translates requests, calls the broker, and translates back. It decides nothing but
// which Connect code a refusal gets.
package server

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"github.com/typedmq/typedmq/internal/h2c"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
	"github.com/typedmq/typedmq/sidecar/internal/broker"
)

const (
	// MaxRequestBytes bounds one message of a request but a Commit, decompressed.
	MaxRequestBytes = 8 << 20
	// MaxBatchBytes bounds the records of one publish.
	MaxBatchBytes = 4 << 20
	// frameBytes is about how much a frame of deliveries carries.
	frameBytes = 1 << 20
	// unaryTimeout bounds how long the body of a unary request may take to arrive.
	unaryTimeout = 30 * time.Second
)

// Handler serves the broker's API, the admin API, health, reflection, and /healthz and /readyz for probes. ready tells why the sidecar is
// not ready, nil if it is. Calls pass the interceptors, the first outermost.
func Handler(b *broker.Broker, log *slog.Logger, ready func() error, interceptors ...connect.Interceptor) http.Handler {
	opts := options(log, interceptors...)
	mux := http.NewServeMux()
	mux.Handle(brokerv1connect.NewBrokerServiceHandler(&brokerService{broker: b}, opts))
	mux.Handle(adminv1connect.NewAdminServiceHandler(&adminService{broker: b}, opts))
	names := []string{brokerv1connect.BrokerServiceName, adminv1connect.AdminServiceName}
	mux.Handle(grpchealth.NewHandler(healthChecker{ready, names}, opts))
	names = append(names, grpchealth.HealthV1ServiceName)
	mux.Handle(grpcreflect.NewHandlerV1(grpcreflect.NewStaticReflector(names...), opts))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(grpcreflect.NewStaticReflector(names...), opts))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	return boundBodies(mux)
}

// options are how all handlers read and write.
func options(log *slog.Logger, interceptors ...connect.Interceptor) connect.HandlerOption {
	return connect.WithHandlerOptions(
		connect.WithCodec(protoCodec{}), connect.WithCodec(jsonCodec{"json"}), connect.WithCodec(jsonCodec{"json; charset=utf-8"}),
		connect.WithConditionalHandlerOptions(func(spec connect.Spec) []connect.HandlerOption {
			most := MaxRequestBytes
			if spec.Procedure == brokerv1connect.BrokerServiceCommitProcedure {
				most = MaxCommitBytes
			}
			return []connect.HandlerOption{connect.WithReadMaxBytes(most), connect.WithCompression("gzip", newCappedGzip(int64(most)), newGzipWriter)}
		}),
		connect.WithInterceptors(interceptors...),
		connect.WithCompressMinBytes(math.MaxInt), // clients are on the same machine; gzip took 83 % of the processor time of a consumer's stream
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, p any) error {
			log.Error("a handler panicked", "procedure", spec.Procedure, "panic", p)
			return connect.NewError(connect.CodeInternal, errPanic)
		}),
	)
}

// HTTPServer returns a server for the handler: HTTP/1.1 and cleartext HTTP/2, with the time for headers bounded.
func HTTPServer(h http.Handler, log *slog.Logger) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		HTTP2:             h2c.Server(),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// streaming are the procedures whose requests last.
var streaming = map[string]bool{
	brokerv1connect.BrokerServicePublishStreamProcedure:              true,
	brokerv1connect.BrokerServiceConsumeProcedure:                    true,
	adminv1connect.AdminServiceTailProcedure:                         true,
	adminv1connect.AdminServiceBackupProcedure:                       true,
	"/grpc.health.v1.Health/Watch":                                   true,
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      true,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": true,
}

// boundBodies gives the body of every unary request a time to arrive in, and lets the handler of a publisher's stream wait for its next frame without memory for it.
func boundBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !streaming[r.URL.Path] {
			// An error says that the connection knows no deadlines, as in some tests: then there is none to set.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unaryTimeout))
		} else if r.URL.Path == brokerv1connect.BrokerServicePublishStreamProcedure {
			r = withAwaited(r)
		}
		next.ServeHTTP(w, r)
	})
}

// healthChecker answers the gRPC health protocol.
type healthChecker struct {
	ready func() error
	names []string
}

// Check implements grpchealth.Checker.
func (h healthChecker) Check(_ context.Context, r *grpchealth.CheckRequest) (*grpchealth.CheckResponse, error) {
	known := r.Service == ""
	for _, n := range h.names {
		known = known || n == r.Service
	}
	if !known {
		return nil, connect.NewError(connect.CodeNotFound, errNoService)
	}
	if h.ready() != nil {
		return &grpchealth.CheckResponse{Status: grpchealth.StatusNotServing}, nil
	}
	return &grpchealth.CheckResponse{Status: grpchealth.StatusServing}, nil
}
