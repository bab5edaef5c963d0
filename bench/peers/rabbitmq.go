package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQ, with the client that its makers publish.

const (
	rabbitQueue    = "quorum" // a classic queue confirmed a third as many a second
	rabbitPrefetch = 2000
	rabbitAcks     = 64 // messages that one acknowledgement settles
)

func rabbitMQ() system {
	return system{
		id: "rabbitmq", title: "RabbitMQ, durable, confirms", batch: 256, room: 64, start: startRabbitMQ,
		settings: fmt.Sprintf("a durable %s queue, persistent messages, publisher confirms, a connection of each caller, batches of 256; one consumer with prefetch %d, "+
			"an acknowledgement with multiple set for each %d messages, or every 10 ms", rabbitQueue, rabbitPrefetch, rabbitAcks),
	}
}

type rabbitNode struct {
	epmd, server *child // epmd is Erlang's directory of nodes: without one of ours RabbitMQ would start one that outlives it
	url          string
	admin        *amqp.Connection
	channel      *amqp.Channel
}

func startRabbitMQ(ctx context.Context, dir string) (_ node, err error) {
	// The script in the PATH of Debian changes to another user and directory; the one behind it does not.
	path := "/usr/lib/rabbitmq/bin/rabbitmq-server"
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath("rabbitmq-server"); err != nil {
			return nil, absent("rabbitmq-server is not installed")
		}
	}
	epmd, err := exec.LookPath("epmd")
	if err != nil {
		return nil, absent("epmd of Erlang is not installed")
	}
	var ports [3]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	plugins, settings, environment := filepath.Join(dir, "plugins"), filepath.Join(dir, "rabbitmq.conf"), filepath.Join(dir, "environment")
	err = errors.Join(os.WriteFile(plugins, []byte("[].\n"), 0o600), os.WriteFile(environment, nil, 0o600),
		os.WriteFile(settings, fmt.Appendf(nil, "listeners.tcp.default = 127.0.0.1:%d\nlog.file.level = warning\n", ports[0]), 0o600))
	if err != nil {
		return nil, err
	}
	n := &rabbitNode{url: fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", ports[0])}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	env := []string{
		"HOME=" + dir, "ERL_EPMD_ADDRESS=127.0.0.1", "ERL_EPMD_PORT=" + strconv.Itoa(ports[1]), "RABBITMQ_DIST_PORT=" + strconv.Itoa(ports[2]),
		"RABBITMQ_NODENAME=peer" + strconv.Itoa(ports[0]) + "@localhost", "RABBITMQ_CONF_ENV_FILE=" + environment, "RABBITMQ_CONFIG_FILE=" + settings,
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + plugins, "RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "data"), "RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
		"RUNNING_UNDER_SYSTEMD=1", // the script becomes the server, instead of waiting for it
	}
	if n.epmd, err = startChild(dir, program{name: "epmd", path: epmd, args: []string{"-port", strconv.Itoa(ports[1])}, env: env}); err != nil {
		return nil, err
	}
	if n.server, err = startChild(dir, program{name: "rabbitmq-server", path: path, env: env}); err != nil {
		return nil, err
	}
	if err = n.server.ready(ctx, time.Minute, func() (err error) { n.admin, err = n.dial(ctx); return err }); err != nil {
		return nil, err
	}
	if n.channel, err = n.admin.Channel(); err != nil {
		return nil, err
	}
	_, err = n.channel.QueueDeclare("jobs", true, false, false, false, amqp.Table{amqp.QueueTypeArg: rabbitQueue})
	return n, err
}

// dial connects, and ends the connection with ctx.
func (n *rabbitNode) dial(ctx context.Context) (*amqp.Connection, error) {
	var raw net.Conn
	c, err := amqp.DialConfig(n.url, amqp.Config{Dial: func(network, address string) (_ net.Conn, err error) {
		raw, err = new(net.Dialer).DialContext(ctx, network, address)
		return raw, err
	}})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { _ = raw.Close() })
	return c, nil
}

func (n *rabbitNode) pid() int { return n.server.pid }

func (n *rabbitNode) version() string {
	v, _ := n.admin.Properties["version"].(string)
	return v
}

func (n *rabbitNode) left(context.Context) (int, error) {
	q, err := n.channel.QueueDeclarePassive("jobs", true, false, false, false, amqp.Table{amqp.QueueTypeArg: rabbitQueue})
	return q.Messages, err
}

func (n *rabbitNode) close() {
	if n.admin != nil {
		_ = n.admin.CloseDeadline(time.Now().Add(time.Second))
	}
	for _, c := range []*child{n.server, n.epmd} {
		if c != nil {
			c.kill()
		}
	}
}

type rabbitPublisher struct {
	channel *amqp.Channel
	pending []*amqp.DeferredConfirmation
}

func (n *rabbitNode) publisher(ctx context.Context) (publisher, error) {
	c, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	channel, err := c.Channel()
	if err != nil {
		return nil, err
	}
	return &rabbitPublisher{channel: channel}, channel.Confirm(false)
}

func (p *rabbitPublisher) publish(ctx context.Context, bodies [][]byte, acked func(int)) error {
	p.pending = p.pending[:0]
	for _, body := range bodies {
		c, err := p.channel.PublishWithDeferredConfirm("", "jobs", false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body})
		if err != nil {
			return cause(ctx, err)
		}
		p.pending = append(p.pending, c)
	}
	for _, c := range p.pending {
		ok, err := c.WaitContext(ctx)
		if err != nil {
			return err
		}
		if !ok {
			return cause(ctx, errors.New("rabbitmq refused a message"))
		}
		acked(1)
	}
	return nil
}

func (n *rabbitNode) consume(ctx context.Context, handle func([]byte) error) error {
	c, err := n.dial(context.WithoutCancel(ctx)) // so that what was handled can be acknowledged in the end
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseDeadline(time.Now().Add(time.Second)) }()
	channel, err := c.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(rabbitPrefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume("jobs", "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	late := time.NewTicker(10 * time.Millisecond) // acknowledges what a pause left
	defer late.Stop()
	var last uint64 // that was handled
	handled := 0    // and not acknowledged
	for {
		select {
		case <-ctx.Done():
			if handled > 0 {
				return channel.Ack(last, true)
			}
			return nil
		case d, ok := <-deliveries:
			if !ok {
				return errors.New("rabbitmq ended the consumer")
			}
			if err := handle(d.Body); err != nil {
				return err
			}
			last = d.DeliveryTag
			if handled++; handled < rabbitAcks {
				continue
			}
		case <-late.C:
		}
		if handled > 0 {
			if err := channel.Ack(last, true); err != nil {
				return err
			}
			handled = 0
		}
	}
}
