package mq

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// listen serves a fake broker on a real socket.
func listen(t testing.TB, network, address string) (b *fakeBroker, addr string) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	b = newFakeBroker()
	server := b.serve()
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return b, listener.Addr().String()
}

func TestDialRealSockets(t *testing.T) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "mq.sock")
			}
			_, address = listen(t, network, address)
			url := "http://" + address
			if network == "unix" {
				url = "unix://" + address
			}
			t.Setenv(AddressVariable, url)
			c, err := Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			receipt, err := NewPublisher(c, stringTopic).Publish(t.Context(), wrapperspb.String("a"))
			if err != nil || receipt.ID != "3-0" {
				t.Fatalf("%+v, %v", receipt, err)
			}
		})
	}
}

func TestDialRefusesBadAddresses(t *testing.T) {
	for _, address := range []string{"", "localhost:7070", "ftp://x", "unix://relative.sock", "http://", "http://a b"} {
		if c, err := Dial(t.Context(), WithAddress(address)); err == nil || !strings.Contains(err.Error(), "must be") {
			t.Errorf("%q: %v, %v", address, c, err)
		}
	}
}

func TestDialWaitsForTheSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFakeBroker()
		b.network.cut(true)
		server := b.serve()
		transport := b.transport()
		defer func() {
			_ = server.Close()
			transport.CloseIdleConnections()
			b.network.cut(true)
		}()
		dial := func(ctx context.Context) (*Client, error) {
			return Dial(ctx, WithHTTPClient(&http.Client{Transport: transport}), WithAddress("http://sidecar"))
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := dial(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("without a sidecar: %v", err)
		}

		b.declare = func(*brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error) {
			return nil, refusalError(connect.CodeUnavailable, "STARTING")
		}
		done := make(chan error, 1)
		go func() {
			c, err := dial(t.Context())
			if err == nil {
				err = c.Close()
			}
			done <- err
		}()
		advance(time.Minute)
		b.network.up()
		advance(time.Minute)
		if len(done) != 0 {
			t.Fatal("Dial returned while the sidecar was starting")
		}
		b.network.cut(true)
		b.declare = nil
		b.network.up()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A sidecar that refuses the empty declaration is there all the same; a server that knows no such procedure is something else.
func TestDialTellsASidecarFromAnotherServer(t *testing.T) {
	for name, test := range map[string]struct {
		answer error
		ok     bool
	}{
		"refusal":       {refusalError(connect.CodeInvalidArgument, "BAD_REQUEST"), true},
		"unimplemented": {connect.NewError(connect.CodeUnimplemented, errors.New("no")), false},
	} {
		t.Run(name, func(t *testing.T) {
			b, address := listen(t, "tcp", "127.0.0.1:0")
			b.declare = func(*brokerv1.DeclareRequest) (*brokerv1.DeclareResponse, error) { return nil, test.answer }
			c, err := Dial(t.Context(), WithAddress("http://"+address))
			if test.ok != (err == nil) {
				t.Fatalf("error %v", err)
			}
			if c != nil {
				_ = c.Close()
			}
		})
	}
}
