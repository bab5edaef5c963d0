package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"testing"

	"connectrpc.com/connect"

	adminv1 "github.com/typedmq/typedmq/schemas/gen/mq/admin/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/sidecar/internal/telemetry"
)

func TestNewLogger(t *testing.T) {
	for _, tt := range []struct{ level, format, want string }{
		{"debug", "text", "level=DEBUG msg=a\nlevel=INFO msg=b\nlevel=ERROR msg=c\n"},
		{"info", "text", "level=INFO msg=b\nlevel=ERROR msg=c\n"},
		{"error", "json", `{"level":"ERROR","msg":"c"}` + "\n"},
		{"loud", "xml", "level=INFO msg=b\nlevel=ERROR msg=c\n"},
	} {
		var out bytes.Buffer
		log := telemetry.NewLogger(&out, tt.level, tt.format)
		log.Debug("a")
		log.Info("b")
		log.Error("c")
		if got := regexp.MustCompile(`time=\S+ |"time":"[^"]+",`).ReplaceAllString(out.String(), ""); got != tt.want {
			t.Errorf("NewLogger(%q, %q) wrote\n%s\nwant\n%s", tt.level, tt.format, got, tt.want)
		}
	}
}

type admin struct {
	adminv1connect.UnimplementedAdminServiceHandler
	err error
}

func (a *admin) ListTopics(context.Context, *connect.Request[adminv1.ListTopicsRequest]) (*connect.Response[adminv1.ListTopicsResponse], error) {
	return connect.NewResponse(&adminv1.ListTopicsResponse{}), a.err
}

func (a *admin) Tail(context.Context, *connect.Request[adminv1.TailRequest], *connect.ServerStream[adminv1.TailResponse]) error {
	return a.err
}

func TestLogFailures(t *testing.T) {
	refused := func(code connect.Code, reason string) error {
		err := connect.NewError(code, errors.New("payload: secret"))
		detail, _ := connect.NewErrorDetail(&brokerv1.ErrorInfo{Reason: reason})
		err.AddDetail(detail)
		return err
	}
	for _, tt := range []struct {
		name, want string
		err        error
	}{
		{"success", "", nil},
		{"the caller's mistake", `level=DEBUG msg="call failed" procedure=PROC code=not_found reason=TOPIC_UNKNOWN took=T` + "\n",
			refused(connect.CodeNotFound, "TOPIC_UNKNOWN")},
		{"the operator's business", `level=WARN msg="call failed" procedure=PROC code=data_loss reason=DATA_LOSS took=T` + "\n",
			refused(connect.CodeDataLoss, "DATA_LOSS")},
		{"no refusal", `level=WARN msg="call failed" procedure=PROC code=unknown reason="" took=T` + "\n", errors.New("secret")},
	} {
		for _, call := range []string{"ListTopics", "Tail"} {
			t.Run(tt.name+"/"+call, func(t *testing.T) {
				var out bytes.Buffer
				log := telemetry.NewLogger(&out, "debug", "text")
				path, handler := adminv1connect.NewAdminServiceHandler(&admin{err: tt.err}, connect.WithInterceptors(telemetry.LogFailures(log)))
				mux := http.NewServeMux()
				mux.Handle(path, handler)
				client := adminv1connect.NewAdminServiceClient(serve(t, mux), "http://sidecar")
				if call == "ListTopics" {
					_, _ = client.ListTopics(t.Context(), connect.NewRequest(&adminv1.ListTopicsRequest{}))
				} else if stream, err := client.Tail(t.Context(), connect.NewRequest(&adminv1.TailRequest{})); err == nil {
					for stream.Receive() {
						continue
					}
				}
				got := regexp.MustCompile(`time=\S+ `).ReplaceAllString(out.String(), "")
				got = regexp.MustCompile(`took=\S+`).ReplaceAllString(got, "took=T")
				want := regexp.MustCompile("PROC").ReplaceAllString(tt.want, "/mq.admin.v1.AdminService/"+call)
				if got != want {
					t.Errorf("logged\n%swant\n%s", got, want)
				}
			})
		}
	}
}

// serve serves h on a Unix socket until the test ends, and returns a client of it.
func serve(t *testing.T, h http.Handler) *http.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
