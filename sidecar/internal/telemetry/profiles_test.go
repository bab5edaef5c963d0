package telemetry_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/typedmq/typedmq/sidecar/internal/telemetry"
)

func TestProfilesAreForTheUnixSocketOnly(t *testing.T) {
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, c := range []struct {
		name, path string
		local      net.Addr
		want       int
	}{
		{"a profile over the socket", "/debug/pprof/cmdline", &net.UnixAddr{Net: "unix"}, http.StatusOK},
		{"a profile over TCP", "/debug/pprof/cmdline", &net.TCPAddr{}, http.StatusTeapot},
		{"another path over the socket", "/healthz", &net.UnixAddr{Net: "unix"}, http.StatusTeapot},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, c.local), http.MethodGet, c.path, nil)
			telemetry.Profiles(next).ServeHTTP(w, r)
			if w.Code != c.want {
				t.Fatalf("status %d, want %d", w.Code, c.want)
			}
		})
	}
}
