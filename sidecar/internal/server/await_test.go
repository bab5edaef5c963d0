package server

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/typedmq/typedmq/schemas/gen/mq/broker/v1/brokerv1connect"
)

// What was waited for is read all the same, once, and so is the error that ends it.
func TestAwaitTakesNothingFromTheBody(t *testing.T) {
	broken := errors.New("broken")
	for name, body := range map[string]io.Reader{
		"whole":                    strings.NewReader("abcdef"),
		"byte by byte":             iotest.OneByteReader(strings.NewReader("abcdef")),
		"the error with the end":   iotest.DataErrReader(strings.NewReader("abcdef")),
		"an error, no end":         io.MultiReader(strings.NewReader("abcdef"), iotest.ErrReader(broken)),
		"a byte with its error":    iotest.DataErrReader(iotest.OneByteReader(strings.NewReader("abcdef"))),
		"nothing":                  strings.NewReader(""),
		"an error from the outset": iotest.ErrReader(broken),
	} {
		t.Run(name, func(t *testing.T) {
			r := withAwaited(httptest.NewRequest(http.MethodPost, "/", body))
			var got strings.Builder
			var err error
			for p := make([]byte, 2); err == nil; {
				await(r.Context())
				await(r.Context())
				var n int
				n, err = r.Body.Read(p)
				got.Write(p[:n])
			}
			wantText, wantErr := "abcdef", io.EOF
			if strings.Contains(name, "nothing") || strings.Contains(name, "outset") {
				wantText = ""
			}
			if strings.Contains(name, "an error") {
				wantErr = broken
			}
			if got.String() != wantText || err != wantErr {
				t.Errorf("%q, %v", got.String(), err)
			}
			if n, again := r.Body.Read(make([]byte, 1)); n != 0 || again != wantErr {
				t.Errorf("read again: %d, %v", n, again)
			}
		})
	}
}

// Streams of publishers can be waited for; what is unary, or says little, is read as it is.
func TestPublishersAreWaitedFor(t *testing.T) {
	for path, want := range map[string]bool{
		brokerv1connect.BrokerServicePublishStreamProcedure: true,
		brokerv1connect.BrokerServicePublishProcedure:       false,
		brokerv1connect.BrokerServiceConsumeProcedure:       false,
	} {
		seen := false
		boundBodies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, waits := r.Context().Value(awaitedKey{}).(*awaited)
			seen = true
			if waits != want {
				t.Errorf("%s: %v", path, waits)
			}
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, path, nil))
		if !seen {
			t.Errorf("%s was not served", path)
		}
	}
}

// A stream that cannot be waited for, as one without the server's own bodies, is not waited for.
func TestAwaitWithoutABody(t *testing.T) { await(t.Context()) }
