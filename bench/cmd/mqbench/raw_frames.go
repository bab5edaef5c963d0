package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What frames alone cost: Connect streams over the socket that the sidecar's clients use, between this process and another, of this program too. Each of 8 callers sends
// frames with the bytes of 256 records and waits for the answer to each. Nobody looks into the frames.
const (
	framesProcedure = "/bench.v1.Raw/Frames"
	frameRecords    = 256
	recordOverhead  = 34 // a key of 10 bytes, and what the encoding of a record adds to key and body
)

// rawServer is the first argument of the process that answers frames; network and address follow.
const rawServer = "raw-server"

// serveFrames answers frames until the process is killed.
func serveFrames(network, address string) error {
	handler := connect.NewBidiStreamHandler(framesProcedure, func(_ context.Context, stream *connect.BidiStream[wrapperspb.BytesValue, wrapperspb.UInt64Value]) error {
		for n := uint64(0); ; n++ {
			if _, err := stream.Receive(); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := stream.Send(wrapperspb.UInt64(n)); err != nil {
				return err
			}
		}
	})
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(framesProcedure, handler)
	server := &http.Server{Handler: mux, Protocols: cleartext()}
	return server.Serve(l)
}

func cleartext() *http.Protocols {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &p
}

// rawFrames measures frames, in records a second.
func rawFrames(ctx context.Context, s settings, name string) (out []measured, err error) {
	s.profile = "" // the other process serves none
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c, err := s.startAs(ctx, self, func(_, listen, socket string) []string {
		if s.tcp {
			return []string{rawServer, "tcp", listen}
		}
		return []string{rawServer, "unix", socket}
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	transport := &http.Transport{Protocols: cleartext(), DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) }}
	defer transport.CloseIdleConnections()
	client := connect.NewClient[wrapperspb.BytesValue, wrapperspb.UInt64Value](&http.Client{Transport: transport}, "http://raw"+framesProcedure)
	frame := wrapperspb.Bytes(make([]byte, frameRecords*(s.size+recordOverhead)))
	var records atomic.Int64
	m, err := c.window(ctx, name, perSecond, records.Load, func(ctx context.Context) error {
		var work sync.WaitGroup
		failed := make(chan error, callers)
		for range callers {
			work.Go(func() { failed <- sendFrames(ctx, client.CallBidiStream(ctx), frame, &records) })
		}
		work.Wait()
		return <-failed
	})
	return only(m, err)
}

func sendFrames(ctx context.Context, stream *connect.BidiStreamForClient[wrapperspb.BytesValue, wrapperspb.UInt64Value], frame *wrapperspb.BytesValue, records *atomic.Int64) error {
	defer stream.CloseResponse()
	for ctx.Err() == nil {
		if err := stream.Send(frame); err != nil {
			if ctx.Err() != nil {
				break
			}
			return fmt.Errorf("send a frame: %w", err)
		}
		if _, err := stream.Receive(); err != nil {
			if ctx.Err() != nil {
				break
			}
			return fmt.Errorf("receive an answer: %w", err)
		}
		records.Add(frameRecords)
	}
	return ctx.Err()
}
