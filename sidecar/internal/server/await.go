package server

import (
	"context"
	"io"
	"net/http"
)

// awaited is the body of a stream's request that can be waited for. Connect takes a buffer before it waits for a message, as large as an earlier message made it,
// and streams of publishers are open for as long as their clients live: each would keep one while nothing is published.
//
// It is used by the goroutine that reads the stream, and closed by anybody.
type awaited struct {
	io.ReadCloser
	prefix [5]byte // of a message, in Connect as in gRPC: what its reader asks for first
	ahead  []byte  // the part of prefix that was read from the body and not yet by its reader
	err    error   // what came with it
}

type awaitedKey struct{}

// withAwaited returns the request with a body that await can wait for.
func withAwaited(r *http.Request) *http.Request {
	body := &awaited{ReadCloser: r.Body}
	r = r.WithContext(context.WithValue(r.Context(), awaitedKey{}, body))
	r.Body = body
	return r
}

// await returns when the stream of ctx has something to read, or is over. It does nothing if the stream cannot be waited for.
func await(ctx context.Context) {
	body, ok := ctx.Value(awaitedKey{}).(*awaited)
	for ok && len(body.ahead) == 0 && body.err == nil {
		n, err := body.ReadCloser.Read(body.prefix[:])
		body.ahead, body.err = body.prefix[:n], err
	}
}

// Read implements io.Reader.
func (a *awaited) Read(p []byte) (int, error) {
	if len(a.ahead) == 0 {
		if a.err != nil {
			return 0, a.err
		}
		return a.ReadCloser.Read(p)
	}
	n := copy(p, a.ahead)
	a.ahead = a.ahead[n:]
	return n, nil
}
