package main

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/typedmq/typedmq/schemas/gen/mq/admin/v1/adminv1connect"
	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

const defaultAddress = "http://127.0.0.1:7070"

// client calls one sidecar.
type client struct {
	addr   string
	admin  adminv1connect.AdminServiceClient
	broker brokerv1connect.BrokerServiceClient
	close  func()
}

// dial returns a client of the sidecar that --addr names, else MQ_ADDR, else the default address. Nothing is connected yet.
func (c *cli) dial() (*client, error) {
	addr := cmp.Or(c.addr, c.lookup("MQ_ADDR"), defaultAddress)
	base, socket, ok := parseAddress(addr)
	if !ok {
		return nil, usagef("address %q: must be http://host:port or unix:///path", addr)
	}
	transport := newTransport(socket)
	h := &http.Client{Transport: transport}
	plain := connect.WithAcceptCompression("gzip", nil, nil) // nothing is gained on one machine
	return &client{
		addr: addr, admin: adminv1connect.NewAdminServiceClient(h, base, plain), broker: brokerv1connect.NewBrokerServiceClient(h, base, plain),
		close: transport.CloseIdleConnections,
	}, nil
}

// parseAddress returns the base of the sidecar's URLs and, for a Unix socket, its path.
func parseAddress(addr string) (base, socket string, ok bool) {
	if path, unix := strings.CutPrefix(addr, "unix://"); unix {
		return "http://sidecar", path, filepath.IsAbs(path)
	}
	u, err := url.Parse(addr)
	return strings.TrimSuffix(addr, "/"), "", err == nil && u.Scheme == "http" && u.Host != "" && strings.Trim(u.Path, "/") == ""
}

// newTransport speaks HTTP/2 without TLS. Pings notice a sidecar that froze, so a call needs no time-out of its own.
func newTransport(socket string) *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	dialer := net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if socket != "" {
				network, address = "unix", socket
			}
			return dialer.DialContext(ctx, network, address)
		},
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// ask makes one call and unpacks its answer.
func ask[Q, A any](ctx context.Context, c *client, call func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), q *Q) (*A, error) {
	answer, err := call(ctx, connect.NewRequest(q))
	if err != nil {
		return nil, &callError{c.addr, err}
	}
	return answer.Msg, nil
}
