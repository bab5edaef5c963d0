package h2c

import (
	"net/http"
	"time"
)

// What the sidecar holds of a client that sends faster than it is read: of one stream, and of all streams of a connection.
const (
	streamBytes     = 4 << 20
	connectionBytes = 8 << 20
)

// Server returns the settings of the sidecar's end. A frame of publishes fits the window of a stream, so that no frame waits for another.
func Server() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          10_000,
		MaxReadFrameSize:              frameBytes,
		MaxReceiveBufferPerConnection: connectionBytes,
		MaxReceiveBufferPerStream:     streamBytes,
		SendPingTimeout:               15 * time.Second,
		PingTimeout:                   15 * time.Second,
	}
}
