package mqtest

import (
	"context"
	"net"
	"sync"
)

// wire connects clients with the run that is there.
type wire struct {
	mu struct {
		sync.Mutex
		listener *listener
		changed  chan struct{} // closed with the next listener
	}
}

func newWire() *wire {
	w := &wire{}
	w.mu.changed = make(chan struct{})
	return w
}

// listen lets another run take the connections from now on.
func (w *wire) listen() *listener {
	l := &listener{pending: make(chan net.Conn), closed: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.listener = l
	close(w.mu.changed)
	w.mu.changed = make(chan struct{})
	return l
}

// dial connects to the run that is there, or to the next one.
func (w *wire) dial(ctx context.Context) (net.Conn, error) {
	for {
		w.mu.Lock()
		l, changed := w.mu.listener, w.mu.changed
		w.mu.Unlock()
		if l != nil {
			if c := l.connect(ctx); c != nil {
				return c, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// listener is a net.Listener of pipes. Closing it closes them too.
type listener struct {
	pending chan net.Conn
	closed  chan struct{}

	mu struct {
		sync.Mutex
		over  bool
		conns []net.Conn
	}
}

// connect returns the client's end of a connection that was accepted, nil if the listener closed or ctx ended.
func (l *listener) connect(ctx context.Context) net.Conn {
	theirs, ours := net.Pipe()
	l.mu.Lock()
	if l.mu.over {
		l.mu.Unlock()
		return nil
	}
	l.mu.conns = append(l.mu.conns, theirs, ours)
	l.mu.Unlock()
	select {
	case l.pending <- ours:
		return theirs
	case <-l.closed:
	case <-ctx.Done():
	}
	return nil
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.pending:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.over {
		return nil
	}
	l.mu.over = true
	close(l.closed)
	for _, c := range l.mu.conns {
		_ = c.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (*listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "mqtest" }
