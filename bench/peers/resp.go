package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// A redisConn speaks RESP 2, the protocol of Redis, as leanly as a client can: commands are written into a buffer and sent together, replies are read in
// their order, bulk strings without a copy. It is not safe for concurrent use.
type redisConn struct {
	connection net.Conn
	in         *bufio.Reader
	out        *bufio.Writer
	scratch    []byte
	bulk       []byte // of the last reply
}

// dialRedis connects to a Unix socket. What waits when ctx ends fails.
func dialRedis(ctx context.Context, socket string) (*redisConn, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = connection.SetDeadline(time.Unix(1, 0)) })
	return &redisConn{connection: connection, in: bufio.NewReaderSize(connection, 256<<10), out: bufio.NewWriterSize(connection, 64<<10)}, nil
}

func (c *redisConn) close() { _ = c.connection.Close() }

// command begins a command of so many arguments, its name included.
func (c *redisConn) command(arguments int) { c.number('*', arguments) }

// argument adds an argument to the command. An error of writing is that of flush.
func (c *redisConn) argument(value []byte) {
	c.number('$', len(value))
	_, _ = c.out.Write(value)
	_, _ = c.out.WriteString("\r\n")
}

// words adds a command, or arguments to the one that was begun with more.
func (c *redisConn) words(words ...string) {
	for _, w := range words {
		c.number('$', len(w))
		_, _ = c.out.WriteString(w)
		_, _ = c.out.WriteString("\r\n")
	}
}

func (c *redisConn) number(kind byte, n int) {
	c.scratch = append(c.scratch[:0], kind)
	c.scratch = strconv.AppendInt(c.scratch, int64(n), 10)
	c.scratch = append(c.scratch, '\r', '\n')
	_, _ = c.out.Write(c.scratch)
}

func (c *redisConn) flush() error { return c.out.Flush() }

// do sends a command of words and reads its reply as far as read does.
func (c *redisConn) do(words ...string) (int, error) {
	c.command(len(words))
	c.words(words...)
	if err := c.flush(); err != nil {
		return 0, err
	}
	return c.read()
}

// none is what read returns for a reply without a value: no elements, no bytes.
const none = -1

var errProtocol = errors.New("redis: a reply that does not belong here")

// read reads the head of a reply. It returns the number of an integer, the length of a bulk string or the count of an array, whose elements follow as
// replies of their own, or none. A string's bytes are in c.bulk until the next read. A reply that is an error is an error.
func (c *redisConn) read() (int, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	line = bytes.TrimSuffix(line, []byte("\r\n"))
	if len(line) == 0 {
		return 0, errProtocol
	}
	switch line[0] {
	case '+':
		c.bulk = append(c.bulk[:0], line[1:]...)
		return len(c.bulk), nil
	case '-':
		return 0, fmt.Errorf("redis: %s", line[1:])
	}
	n, err := decimal(line[1:])
	if err != nil {
		return 0, err
	}
	if line[0] != '$' || n == none {
		return n, nil
	}
	if cap(c.bulk) < n+2 {
		c.bulk = make([]byte, n+2)
	}
	c.bulk = c.bulk[:n+2]
	if _, err := io.ReadFull(c.in, c.bulk); err != nil {
		return 0, err
	}
	c.bulk = c.bulk[:n]
	return n, nil
}

// array reads the head of an array that must have so many elements.
func (c *redisConn) array(want int) error {
	n, err := c.read()
	if err == nil && n != want {
		err = errProtocol
	}
	return err
}

func decimal(digits []byte) (int, error) {
	if string(digits) == "-1" {
		return none, nil
	}
	n := 0
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, errProtocol
		}
		n = n*10 + int(d-'0')
	}
	if len(digits) == 0 {
		return 0, errProtocol
	}
	return n, nil
}
