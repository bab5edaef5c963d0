package mq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/internal/h2c"
	"github.com/typedmq/typedmq/internal/hook"
	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// AddressVariable is the environment variable that names the sidecar if [WithAddress] does not.
const AddressVariable = "MQ_ADDR"

const defaultAddress = "http://127.0.0.1:7070"

// maxAnswerBytes bounds what is read of one message of the sidecar.
const maxAnswerBytes = 16 << 20

// Dial returns a client of the sidecar at the address given by [WithAddress], else by the environment variable MQ_ADDR,
// else http://127.0.0.1:7070. It waits for the sidecar to answer until ctx is done; its error then says what was in the
// way. Later losses of the connection are repaired by whoever uses the client. The client must be closed.
func Dial(ctx context.Context, opts ...Option) (*Client, error) {
	options := clientOptions{
		address: cmp.Or(os.Getenv(AddressVariable), defaultAddress),
		name:    filepath.Base(os.Args[0]),
		logger:  slog.New(slog.DiscardHandler),
	}
	for _, opt := range opts {
		opt(&options)
	}
	baseURL, socket, err := parseAddress(options.address)
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancelCause(context.Background())
	if options.httpClient == nil {
		options.httpClient = &http.Client{Transport: newTransport(life, socket)}
	}
	broker := brokerv1connect.NewBrokerServiceClient(options.httpClient, baseURL,
		connect.WithReadMaxBytes(maxAnswerBytes),
		connect.WithAcceptCompression("gzip", nil, nil), // nothing is gained on one machine
	)
	if err := await(ctx, broker, options); err != nil {
		end(err)
		return nil, err
	}
	return newClient(life, end, broker, options, hook.From(ctx)), nil
}

// await returns nil as soon as the sidecar answers, whatever it answers to a declaration of nothing.
func await(ctx context.Context, broker brokerv1connect.BrokerServiceClient, options clientOptions) error {
	var pause backoff
	for {
		_, err := broker.Declare(ctx, connect.NewRequest(&brokerv1.DeclareRequest{}))
		if err == nil {
			return nil
		}
		err = fromCall(err)
		var refused *Error
		if errors.As(err, &refused) && refused.Code == connect.CodeUnimplemented {
			return fmt.Errorf("mq: what answers at %s is no sidecar: %w", options.address, err)
		}
		if !transient(err) {
			return nil
		}
		if pause.loud() {
			options.logger.Info("waiting for the sidecar", "address", options.address, "error", err)
		}
		if !pause.wait(ctx) {
			return fmt.Errorf("mq: no sidecar at %s: %w (last error: %v)", options.address, ctx.Err(), err)
		}
	}
}

// parseAddress splits an address into the base of its URLs and, for a Unix socket, the path to dial.
func parseAddress(address string) (baseURL, socket string, err error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		if !filepath.IsAbs(path) {
			return "", "", fmt.Errorf("mq: address %q: the path of a socket must be absolute, as in unix:///run/mq.sock", address)
		}
		return "http://sidecar", path, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return "", "", fmt.Errorf("mq: address %q: must be unix:///path or http://host:port", address)
	}
	return address, "", nil
}

// newTransport speaks HTTP/2 without TLS until life ends.
func newTransport(life context.Context, socket string) *h2c.Transport {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return h2c.NewTransport(func(ctx context.Context, network, address string) (net.Conn, error) {
		if socket != "" {
			network, address = "unix", socket
		}
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return boundConn{conn, context.AfterFunc(life, func() { _ = conn.Close() })}, nil
	})
}

// boundConn closes when its client does. A transport by itself closes idle connections only, and a connection whose streams
// were just cancelled is not idle yet.
type boundConn struct {
	net.Conn
	release func() bool
}

func (c boundConn) Close() error {
	c.release()
	return c.Conn.Close()
}
