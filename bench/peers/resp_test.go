package main

import (
	"bufio"
	"net"
	"strings"
	"testing"
)

func TestReplies(t *testing.T) {
	for _, c := range []struct {
		reply string
		n     int
		bulk  string
		err   string
	}{
		{"+OK\r\n", 2, "OK", ""},
		{":42\r\n", 42, "", ""},
		{"*3\r\n", 3, "", ""},
		{"*-1\r\n", none, "", ""},
		{"$-1\r\n", none, "", ""},
		{"$0\r\n\r\n", 0, "", ""},
		{"$5\r\na\r\nbc\r\n", 5, "a\r\nbc", ""},
		{"-NOGROUP no such group\r\n", 0, "", "NOGROUP no such group"},
		{"$5\r\nabc", 0, "", "unexpected EOF"},
		{":x\r\n", 0, "", errProtocol.Error()},
		{":\r\n", 0, "", errProtocol.Error()},
		{"\r\n", 0, "", errProtocol.Error()},
		{"", 0, "", "EOF"},
	} {
		r := &redisConn{in: bufio.NewReader(strings.NewReader(c.reply))}
		n, err := r.read()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%q: error %v, not %q", c.reply, err, c.err)
			}
			continue
		}
		if err != nil || n != c.n || string(r.bulk) != c.bulk {
			t.Errorf("%q: %d, %q, %v", c.reply, n, r.bulk, err)
		}
	}
}

func TestCommands(t *testing.T) {
	client, server := net.Pipe()
	defer client.Close()
	c := &redisConn{connection: client, out: bufio.NewWriter(client)}
	c.command(3)
	c.words("XADD", "jobs")
	c.argument([]byte("a\r\nb"))
	go func() { _ = c.flush(); client.Close() }()
	var got strings.Builder
	if _, err := bufio.NewReader(server).WriteTo(&got); err != nil {
		t.Fatal(err)
	}
	if want := "*3\r\n$4\r\nXADD\r\n$4\r\njobs\r\n$4\r\na\r\nb\r\n"; got.String() != want {
		t.Errorf("sent %q, not %q", got.String(), want)
	}
}
