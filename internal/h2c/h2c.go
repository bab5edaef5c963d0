// Package h2c is HTTP/2 without TLS between a client and its sidecar, which are on one machine: how large frames, windows and buffers are on either end,
// and when a silent peer is given up. It knows nothing of what is said.
package h2c

// frameBytes bounds a DATA frame, in either direction. Larger frames cost fewer system calls, and goroutines wake each other less often: 1 MiB of deliveries takes
// an eighth less than in frames of 16 KiB, which is what a client of net/http takes. Each end of a connection keeps the memory of the largest frame that it has
// read, and of the largest that it has written, for as long as the connection lives.
const frameBytes = 256 << 10
