package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	brokerv1 "github.com/typedmq/typedmq/schemas/gen/mq/broker/v1"
)

// Bounds of one Publish call. A sidecar takes 4 MiB of records; JSON is seldom smaller than what it becomes.
const (
	batchMessages = 1000
	batchBytes    = 2 << 20
)

// publishOptions are what the flags say about every message.
type publishOptions struct {
	key    *string
	header []string
	id     string
	timing timingOptions
}

func newPublish(c *cli) *cobra.Command {
	var (
		o   publishOptions
		key string
	)
	var timing func() (timingOptions, error)
	cmd := &cobra.Command{
		Use:   "publish TOPIC [JSON… | -]",
		Short: "Publish JSON objects to a topic",
		Long: `Publish JSON objects to a topic: those of the arguments, or, with - or without any,
those of standard input, one after the other. They are checked against the
topic's schema. Messages travel in batches: a batch is published as a whole or
refused as a whole, and after a refused batch nothing more is published.

A receipt for each message says where it rests, or that it is scheduled: mq
scheduled cancel takes its id until it is due. With --output json, the answer
to each batch is one JSON object on a line.`,
		Example: `  mq publish flights.departed '{"origin":"SFO","destination":"LAX","delayMinutes":75}'
  mq publish flights.departed --header source=manual --key SFO '{"origin":"SFO"}'
  mq publish reminders --delay 36h '{"text":"call back"}'
  jq -c '.[]' flights.json | mq publish flights.departed -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("key") {
				o.key = &key
			}
			var err error
			if o.timing, err = timing(); err != nil {
				return err
			}
			return publish(cmd, c, args[0], args[1:], o)
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "key of every message, instead of the one that its schema derives")
	cmd.Flags().StringArrayVar(&o.header, "header", nil, "name=value, added to every message; may be given more than once")
	cmd.Flags().StringVar(&o.id, "id", "", "id of the message, if there is only one")
	timing = bindTiming(cmd)
	return cmd
}

func publish(cmd *cobra.Command, c *cli, topic string, args []string, o publishOptions) error {
	headers, err := parseHeaders(o.header)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	var drafts <-chan draft
	if len(args) == 0 || len(args) == 1 && args[0] == "-" {
		drafts = readDrafts(ctx, cmd.InOrStdin())
	} else if drafts, err = argumentDrafts(args); err != nil {
		return err
	}
	if o.id != "" {
		if drafts, err = onlyOne(ctx, drafts); err != nil {
			return err
		}
	}
	sidecar, err := c.dial()
	if err != nil {
		return err
	}
	defer sidecar.close()
	p := &publisher{sidecar: sidecar, topic: topic, print: receiptPrinter(cmd.OutOrStdout(), c.format)}
	for {
		batch, failed := nextBatch(ctx, drafts)
		if err := p.send(ctx, batch, func(m *brokerv1.Message) {
			m.Headers, m.Id = headers, o.id
			if o.key != nil {
				m.Key = []byte(*o.key)
			}
			o.timing.set(m)
		}); err != nil {
			return err
		}
		switch {
		case errors.Is(failed, io.EOF):
			return nil
		case failed != nil:
			return fmt.Errorf("message %d: %w (%d published before it)", p.sent+1, failed, p.sent)
		}
	}
}

// nextBatch waits for a message, then takes what is there, within the bounds of a call. The error, io.EOF at the end, stands behind the batch.
func nextBatch(ctx context.Context, drafts <-chan draft) (batch []draft, failed error) {
	size := 0
	for len(batch) < batchMessages && size < batchBytes {
		var d draft
		if len(batch) == 0 {
			d = receive(ctx, drafts)
		} else {
			select {
			case d = <-drafts:
			default:
				return batch, nil
			}
		}
		if d.err != nil {
			return batch, d.err
		}
		batch = append(batch, d)
		size += d.size
	}
	return batch, nil
}

// onlyOne lets one message through and refuses a second before the first is published.
func onlyOne(ctx context.Context, drafts <-chan draft) (<-chan draft, error) {
	one := make(chan draft, 2)
	first := receive(ctx, drafts)
	one <- first
	if first.err == nil {
		second := receive(ctx, drafts)
		if !errors.Is(second.err, io.EOF) {
			return nil, usagef("--id needs exactly one message: an id tells one message from another")
		}
		one <- second
	}
	return one, nil
}

// publisher sends batches and counts.
type publisher struct {
	sidecar *client
	topic   string
	print   func(*brokerv1.PublishResponse) error
	sent    int
}

func (p *publisher) send(ctx context.Context, batch []draft, finish func(*brokerv1.Message)) error {
	if len(batch) == 0 {
		return nil
	}
	q := &brokerv1.PublishRequest{Topic: p.topic}
	for _, d := range batch {
		m := &brokerv1.Message{Body: &brokerv1.Message_Json{Json: d.json}}
		finish(m)
		q.Messages = append(q.Messages, m)
	}
	answer, err := ask(ctx, p.sidecar, p.sidecar.broker.Publish, q)
	if err != nil {
		return p.locate(err, len(batch))
	}
	p.sent += len(batch)
	return p.print(answer)
}

// locate says which message of the whole input was refused, and what became of the others.
func (p *publisher) locate(err error, n int) error {
	if p.sent == 0 && n == 1 {
		return err
	}
	where := fmt.Sprintf("messages %d to %d", p.sent+1, p.sent+n)
	if m := regexp.MustCompile(`^messages\[(\d+)\]`).FindStringSubmatch(refusalInfo(err).GetField()); m != nil {
		if i, convErr := strconv.Atoi(m[1]); convErr == nil {
			where = fmt.Sprintf("message %d", p.sent+i+1)
		}
	}
	return fmt.Errorf("%s: %w (%d published before this batch of %d)", where, err, p.sent, n)
}

// receiptPrinter prints receipts as they come. The columns are fixed, so that those of later batches stay in line.
func receiptPrinter(w io.Writer, format outputFormat) func(*brokerv1.PublishResponse) error {
	if format == "json" {
		return func(answer *brokerv1.PublishResponse) error { return printJSONLine(w, answer) }
	}
	const columns = "%-10s  %-9v  %-10v  %s\n"
	header := fmt.Sprintf(columns, "ID", "PARTITION", "OFFSET", "DUPLICATE")
	return func(answer *brokerv1.PublishResponse) error {
		var out strings.Builder
		out.WriteString(header)
		header = ""
		for _, r := range answer.GetReceipts() {
			duplicate := "no"
			if r.GetDuplicate() {
				duplicate = "yes"
			}
			offset := any(r.GetOffset())
			if r.GetScheduled() {
				offset = "scheduled"
			}
			fmt.Fprintf(&out, columns, printable(r.GetId()), r.GetPartition(), offset, duplicate)
		}
		_, err := io.WriteString(w, out.String())
		return err
	}
}

func parseHeaders(list []string) (map[string]string, error) {
	headers := make(map[string]string, len(list))
	for _, pair := range list {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, usagef("--header %q: must be name=value", pair)
		}
		if _, twice := headers[name]; twice {
			return nil, usagef("--header %q: %s is given twice", pair, name)
		}
		headers[name] = value
	}
	return headers, nil
}
