package h2c

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"time"
)

// Transport is the client's end. It is what it embeds, but that it writes a message of a stream in fewer frames.
type Transport struct{ *http.Transport }

// NewTransport returns a client's end, which speaks HTTP/2 without TLS over connections that dial makes. Pings notice a peer that is frozen, not only one that
// is gone.
func NewTransport(dial func(ctx context.Context, network, address string) (net.Conn, error)) *Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &Transport{&http.Transport{
		Protocols:          &protocols,
		DialContext:        dial,
		DisableCompression: true,
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize: frameBytes,
			SendPingTimeout:  10 * time.Second,
			PingTimeout:      5 * time.Second,
			WriteByteTimeout: 15 * time.Second,
		},
	}}
}

// RoundTrip implements http.RoundTripper. The body of a stream must be what connect writes.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.ContentLength < 0 {
		r = r.WithContext(r.Context()) // a copy: a RoundTripper does not change its request
		r.Body = &envelopes{ReadCloser: r.Body}
	}
	return t.Transport.RoundTrip(r)
}

// prefixBytes is the length of what precedes each message of a stream, in Connect as in gRPC: a byte of flags and four of length.
const prefixBytes = 5

// envelopes is the body of a stream's request. Connect writes the prefix of a message and the message itself one after the other, into a pipe: read as
// they come, each would be a frame of its own, with a system call here and two there, and a goroutine woken at each step.
type envelopes struct {
	io.ReadCloser
	left int64 // of the message that is being read; negative if that is not known any more
}

// Read implements io.Reader. A prefix that came alone is returned together with the beginning of its message, which is on its way.
func (e *envelopes) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if e.left == 0 && n >= prefixBytes {
		e.left = prefixBytes + int64(binary.BigEndian.Uint32(p[1:]))
	}
	e.left -= int64(n)
	if n != prefixBytes || e.left <= 0 || err != nil || len(p) == n {
		return n, err
	}
	more, err := e.ReadCloser.Read(p[n:])
	e.left -= int64(more)
	return n + more, err
}
