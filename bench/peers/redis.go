package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// Redis Streams, on a Unix socket as typedmq.

const (
	redisRead      = 1000 // messages of one XREADGROUP
	redisConsumers = 4    // of the group, each on a connection of its own, so that the server has work while one of them handles
)

func redisStreams() system {
	return system{
		id: "redis", title: "Redis Streams, fsync always", batch: 1024, room: 16, least: 1.5, start: startRedis,
		settings: fmt.Sprintf("appendonly yes, appendfsync always, no snapshots, no rewrites; a Unix socket; a lean RESP client; XADD in pipelines of 1,024, a connection of each caller; "+
			"%d consumers of one group with XREADGROUP COUNT %d, XACK and XDEL of all that was read in the pipeline of the next XREADGROUP", redisConsumers, redisRead),
	}
}

type redisNode struct {
	server *child
	socket string
	number string
	admin  *redisConn
}

var redisVersion = regexp.MustCompile(`v=([0-9.]+)`)

func startRedis(ctx context.Context, dir string) (node, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, absent("redis-server is not installed")
	}
	n := &redisNode{socket: filepath.Join(dir, "r")}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("redis-server --version: %w", err)
	}
	if v := redisVersion.FindSubmatch(out); v != nil {
		n.number = string(v[1])
	}
	n.server, err = startChild(dir, program{name: "redis-server", path: path, args: []string{
		"--dir", dir, "--port", "0", "--unixsocket", n.socket, "--daemonize", "no", "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0",
	}})
	if err != nil {
		return nil, err
	}
	err = n.server.ready(ctx, 20*time.Second, func() error {
		if n.admin == nil {
			if n.admin, err = dialRedis(ctx, n.socket); err != nil {
				return err
			}
		}
		_, err := n.admin.do("XGROUP", "CREATE", "jobs", "workers", "0", "MKSTREAM")
		return err
	})
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *redisNode) pid() int { return n.server.pid }

func (n *redisNode) version() string { return n.number }

func (n *redisNode) left(context.Context) (int, error) { return n.admin.do("XLEN", "jobs") }

func (n *redisNode) close() {
	if n.admin != nil {
		n.admin.close()
	}
	n.server.kill()
}

type redisPublisher struct{ *redisConn }

func (n *redisNode) publisher(ctx context.Context) (publisher, error) {
	c, err := dialRedis(ctx, n.socket)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, c.close)
	return redisPublisher{c}, nil
}

func (p redisPublisher) publish(ctx context.Context, bodies [][]byte, acked func(int)) error {
	for _, body := range bodies {
		p.command(5)
		p.words("XADD", "jobs", "*", "b")
		p.argument(body)
	}
	if err := p.flush(); err != nil {
		return cause(ctx, err)
	}
	for range bodies {
		if _, err := p.read(); err != nil {
			return cause(ctx, err)
		}
		acked(1)
	}
	return nil
}

func (n *redisNode) consume(ctx context.Context, handle func([]byte) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var work sync.WaitGroup
	for i := range redisConsumers {
		work.Go(func() {
			if err := n.consumer(ctx, "worker"+strconv.Itoa(i), handle); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	work.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// consumer reads, handles and acknowledges: what it has handled is acknowledged and deleted with the command that reads more.
func (n *redisNode) consumer(ctx context.Context, name string, handle func([]byte) error) error {
	c, err := dialRedis(ctx, n.socket)
	if err != nil {
		return err
	}
	defer c.close()
	var ids [][]byte // of what was handled; used again
	count := 0
	settle := func(verb ...string) {
		c.command(len(verb) + count)
		c.words(verb...)
		for _, id := range ids[:count] {
			c.argument(id)
		}
	}
	for {
		if count > 0 {
			settle("XACK", "jobs", "workers")
			settle("XDEL", "jobs")
		}
		c.command(11)
		c.words("XREADGROUP", "GROUP", "workers", name, "COUNT", strconv.Itoa(redisRead), "BLOCK", "1000", "STREAMS", "jobs", ">")
		if err := c.flush(); err != nil {
			return err
		}
		if count > 0 {
			for range 2 {
				settled, err := c.read()
				if err != nil {
					return err
				}
				if settled != count {
					return fmt.Errorf("redis: %d of %d messages were there to settle", settled, count)
				}
			}
			count = 0
		}
		streams, err := c.read()
		if err != nil {
			return err
		}
		if streams == none { // nothing came within the second
			continue
		}
		if err := c.head(streams); err != nil {
			return err
		}
		entries, err := c.read()
		if err != nil {
			return err
		}
		for range entries {
			if len(ids) == count {
				ids = append(ids, nil)
			}
			if ids[count], err = c.entry(ids[count]); err != nil {
				return err
			}
			count++
			if err := handle(c.bulk); err != nil {
				return err
			}
		}
	}
}

// head reads what comes before the entries of the only stream: [[name, entries]].
func (c *redisConn) head(streams int) error {
	if streams != 1 {
		return errProtocol
	}
	if err := c.array(2); err != nil {
		return err
	}
	_, err := c.read()
	return err
}

// entry reads [id, [name, value]]: the id into the given bytes, which it returns, the value into c.bulk.
func (c *redisConn) entry(id []byte) ([]byte, error) {
	if err := c.array(2); err != nil {
		return id, err
	}
	if _, err := c.read(); err != nil {
		return id, err
	}
	id = append(id[:0], c.bulk...)
	if err := c.array(2); err != nil {
		return id, err
	}
	if _, err := c.read(); err != nil {
		return id, err
	}
	_, err := c.read()
	return id, err
}
